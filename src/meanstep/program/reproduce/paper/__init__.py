"""What the authors of arXiv 2605.09235 published, number by number, beside what comes out here."""
