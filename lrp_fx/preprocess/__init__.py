"""Preprocess: from a text, a chat, an image or a sound to a forward's arguments, and from names to numbers."""
