"""Coverage: every model type of transformers' auto classes, tiny and random, converted and checked (``python -m
benchmarks coverage``).
"""
