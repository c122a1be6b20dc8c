"""Dictionaries (sparse autoencoders, transcoders) put at places of a program, as surrogates of activations."""
