"""From a study's records to what a person looks at: claims, figures, numbers, one page. Trains nothing."""
