"""Its report."""
