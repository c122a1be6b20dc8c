"""Transpose: the rewritten program run backwards."""
