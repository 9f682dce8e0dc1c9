"""The Files API: datasets in, results out."""
