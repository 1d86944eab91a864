"""What others may have written, read within limits: every file and text that is no such thing ends in one line with its remedy."""
