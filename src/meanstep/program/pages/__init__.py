"""What all reports share: the look of figures, the style of pages, how a page is put together. Knows nothing of what is reported."""
