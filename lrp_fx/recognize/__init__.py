"""Recognise: what each operation on a relevance path is, by dataflow, never by spelling or name."""
