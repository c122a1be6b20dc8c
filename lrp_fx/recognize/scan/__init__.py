"""Scans: recurrences, however they are written."""
