"""File: relevance graphs written to a file and read again, with nothing in it that could run."""
