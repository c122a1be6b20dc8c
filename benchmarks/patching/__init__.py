"""Activation patching, and what explanations say of it beforehand: ``python -m benchmarks patching``."""
