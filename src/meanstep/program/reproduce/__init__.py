"""The studies behind `meanstep reproduce`: one engine, and a folder for each workload."""
