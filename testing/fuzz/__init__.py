"""Programs drawn at random, the laws that each must keep, and what a broken one shrinks to.

``families/``: the operations, a file for each kind: every public function there that takes ``(w, x)``, ``(w, x, y)`` or
``(w, x, mask)`` and returns a tensor of the shape of ``x`` (B, T, D) is one. To add a family, add a file.
"""
