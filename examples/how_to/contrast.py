"""Contrast: why this token rather than that one?

A single logit is also moved by what speaks for every token alike: after *named* comes a name, whichever. A contrast
explains the difference of two logits: what speaks for the first, and not just as much for the second. Tokens are
written with the space that stands in front of them.
"""

from pathlib import Path

import lrp_fx
from lrp_fx.targets import Contrast

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

explainer = lrp_fx.convert(STORIES)
text = "Once upon a time, there was a little girl named"
single, contrast = explainer(text, targets=[" Lily", Contrast(" Lily", " Tim")])
for relevance in (single, contrast):
    print(relevance.target.title, f"score {float(relevance.score):+.3f}")
    relevance.show()
