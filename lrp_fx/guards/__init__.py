"""Guards: which calls a graph serves."""
