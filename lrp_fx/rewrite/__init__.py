"""Rewrite: one rule for each node on a relevance path."""
