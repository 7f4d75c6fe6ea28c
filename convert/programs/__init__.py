"""Models that run: built from a named architecture, from a file of the user's, or from the records of a whole model."""
