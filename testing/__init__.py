"""What tests and benchmarks share: builders of small models, their inputs, trained models and known answers.

Tests and benchmarks import from here and not from each other. Nothing here is installed with the package.
"""
