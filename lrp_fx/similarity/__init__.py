"""Similarity: two inputs compared by their embeddings, explained by pairs of their tokens."""
