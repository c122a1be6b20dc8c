"""Faithfulness: do explanations rank units as the model needs them? What is compared, and the tables of it."""
