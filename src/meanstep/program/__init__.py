"""Everything with files, flags, progress bars and devices. Nothing in the mathematics imports it."""
