"""Capture: a model and one call of it as a program."""
