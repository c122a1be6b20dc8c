"""Evaluation: how well explanations fit what the model does, with the controls that they have to beat."""

from __future__ import annotations

from lrp_fx.evaluation.evaluate import evaluate
from lrp_fx.evaluation.metric import Case, Example, Metric, register, registered
from lrp_fx.evaluation.rankings import Ranking
from lrp_fx.evaluation.result import Evaluation

__all__ = ["Case", "Evaluation", "Example", "Metric", "Ranking", "evaluate", "register", "registered"]
