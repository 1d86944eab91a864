"""From a study's records to what a person looks at, whatever its workload. Trains nothing."""
