"""The ways in which transformers inject position, at least one tiny model of random weights for each.

``kind`` and ``variant`` are what the report should say, ``also`` names what else the same model has:

    absolute      a vector per token, added to tokens or joined to their features: learned, sinusoidal
    rotary        queries and keys are turned by an angle: half-split, interleaved, complex
    scale         queries are scaled by their place: temperature
    bias          one number per pair of tokens, added to attention scores: learned table, network, fixed
    disentangled  rows of a table, one per distance, in a product with queries or keys: learned or sinusoidal table
"""

from __future__ import annotations

from testing.positions import absolute, pairs, rotary, tokens
from testing.positions.kind import Kind

KINDS: list[Kind] = [*absolute.KINDS, *rotary.KINDS, *pairs.KINDS, *tokens.KINDS]
