"""What `lrp_fx` offers: every public name is listed here, and read when the first of them is asked for."""

from __future__ import annotations

from lrp_fx import targets
from lrp_fx.aggregation import Aggregation, Rows
from lrp_fx.datasets.result import DataRun
from lrp_fx.dictionaries.dictionary import Dictionary
from lrp_fx.errors import CaptureError, ConservationError, InputError, LrpError, TargetError, UnsupportedOperatorError
from lrp_fx.evaluation import Evaluation, evaluate
from lrp_fx.generation.generation import Generation
from lrp_fx.preprocess.unloaded import parameters_on_meta
from lrp_fx.report.circuit import Circuit
from lrp_fx.report.edges import Edges
from lrp_fx.report.ledger import Ledger
from lrp_fx.report.parameters import ParameterRelevance
from lrp_fx.report.position import PositionSite
from lrp_fx.report.relevance import Relevance
from lrp_fx.rule import Rule, Ruleset, register
from lrp_fx.runtime.agreement import Agreement
from lrp_fx.runtime.between import Between
from lrp_fx.runtime.convert import convert
from lrp_fx.runtime.dequantise import dequantised
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.runtime.saved import SavedExplainer, load
from lrp_fx.runtime.settings import aggregations, rulesets
from lrp_fx.runtime.size import Size
from lrp_fx.runtime.verify import Report, verify
from lrp_fx.similarity.pairs import pairs
from lrp_fx.similarity.result import Pairs

__all__ = [
    "Aggregation",
    "Agreement",
    "Between",
    "CaptureError",
    "Circuit",
    "ConservationError",
    "DataRun",
    "Dictionary",
    "Edges",
    "Evaluation",
    "Explainer",
    "Generation",
    "InputError",
    "Ledger",
    "LrpError",
    "Pairs",
    "ParameterRelevance",
    "PositionSite",
    "Relevance",
    "Report",
    "Rows",
    "Rule",
    "Ruleset",
    "SavedExplainer",
    "Size",
    "TargetError",
    "UnsupportedOperatorError",
    "aggregations",
    "convert",
    "dequantised",
    "evaluate",
    "load",
    "pairs",
    "parameters_on_meta",
    "register",
    "rulesets",
    "targets",
    "verify",
]
