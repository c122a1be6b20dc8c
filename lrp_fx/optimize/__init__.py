"""Optimize: passes on relevance graphs."""
