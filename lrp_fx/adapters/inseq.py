"""Inseq: relevance as one of its methods.

    import inseq
    import lrp_fx.adapters.inseq  # makes the method known

    model = inseq.load_model("folder or name", "lrp", rules="pa-lrp")
    model.attribute("Once upon a time").show()

Each step explains the logit of the token that was written. Needs inseq: ``pip install lrp-fx[inseq]``.

Where a tokenizer writes a token for the beginning of texts, inseq 0.7.1 refuses free generation after a single text, by
every method: give a list of several, or what was written (``generated_texts=``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.relevance import Relevance
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.convert import convert
from lrp_fx.targets import Class

try:
    from inseq.attr.feat.feature_attribution import FeatureAttribution
    from inseq.attr.step_functions import logit_fn, probability_fn
    from inseq.data.attribution import CoarseFeatureAttributionStepOutput
except ImportError as error:
    raise ImportError('lrp_fx.adapters.inseq needs inseq: pip install "lrp-fx[inseq]"') from error


class RelevancePropagation(FeatureAttribution):
    """Inseq's method ``lrp``.

    rules: as in `lrp_fx.convert`. position: how position relevance is aggregated (`lrp_fx.Relevance.per_token`); None:
    content alone.
    """

    method_name = "lrp"

    def __init__(
        self, attribution_model: Any, rules: str | Ruleset = "pa-lrp", position: str | None = "signed", **kwargs: Any
    ) -> None:
        super().__init__(attribution_model, **kwargs)
        self.position = position
        # Every step is one token longer: sizes are symbols at once.
        self.explainer = convert(attribution_model.model, rules=rules, dynamic=True)

    def attribute_step(
        self, attribute_fn_main_args: dict[str, Any], attribution_args: dict[str, Any] | None = None
    ) -> Any:
        """Relevance of every token that stands before the one of this step, (B, T) each; no numbers to aggregate."""
        unknown = ", ".join(attribution_args or {})
        if unknown:
            raise InputError(f"the method lrp takes no {unknown}; rules= and position= are given to load_model")
        several = self.attribution_model.is_encoder_decoder
        inputs, target, function, with_target = _arguments(attribute_fn_main_args, several)
        if function not in (logit_fn, probability_fn):
            raise InputError(
                "the method lrp explains the logit of the token that was written: leave attributed_fn out, or give "
                "'logit'\n    next: for a contrast, explainer.continuation(prompt, text, against=...)"
            )
        relevance = self.explainer(**inputs, target=Class(target.reshape(-1)))
        found = _by_input(relevance, self.position)
        prefix = found["decoder_input_ids" if several else "input_ids"]
        return CoarseFeatureAttributionStepOutput(
            source_attributions=found["input_ids"] if several else None,
            target_attributions=prefix if with_target or not several else None,
            step_scores={},
        )


def _arguments(given: dict[str, Any], encoder_decoder: bool) -> tuple[dict[str, Tensor], Tensor, Any, bool]:
    """The model's arguments, the token of this step, what is attributed, and whether the target counts as a source.

    Inseq hands on: ids, target, function, mask; of an encoder-decoder the ids of both, target, function, both masks,
    and before them the decoder's embeddings where these are not attributed.
    """
    more = list(given["additional_forward_args"])
    if not encoder_decoder:
        ids, target, function, mask = more[:4]
        return {"input_ids": ids, "attention_mask": mask}, target, function, True
    with_target = len(given["inputs"]) > 1
    ids, decoder_ids, target, function, mask, decoder_mask = more[:6] if with_target else more[1:7]
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": decoder_ids,
        "decoder_attention_mask": decoder_mask,
    }
    return {n: v for n, v in inputs.items() if v is not None}, target, function, with_target


def _by_input(relevance: Relevance, position: str | None) -> dict[str, Tensor]:
    tokens = relevance.per_token(position)
    return tokens if isinstance(tokens, dict) else {next(iter(relevance.content)): tokens}
