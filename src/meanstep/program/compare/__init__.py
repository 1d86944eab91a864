"""Runs, or two studies, beside one another: what differs, what can be compared, and what follows."""
