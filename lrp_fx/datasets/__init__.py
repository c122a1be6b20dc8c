"""Data sets: relevance of many rows, in shards that a run which was killed goes on with, the same to the bit."""
