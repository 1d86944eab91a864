"""The report of a run: one page that works offline, made of the records and pictures in the run's folder."""
