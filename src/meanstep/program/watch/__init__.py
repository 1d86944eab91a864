"""The page of a run while the run goes on."""
