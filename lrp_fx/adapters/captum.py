"""Captum: relevance as an ``Attribution`` of its own, called like ``FeatureAblation``, and records for its pictures.

    from lrp_fx.adapters.captum import RelevancePropagation, records

    scores = RelevancePropagation(model).attribute(input_ids, target=1, additional_forward_args=(attention_mask,))
    captum.attr.visualization.visualize_text(records(explainer(text)))

Needs captum: ``pip install lrp-fx[captum]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.call import bind, forward_parameters
from lrp_fx.errors import InputError, TargetError
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.view import token_names
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.convert import convert
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.targets import Class, Custom, Target, as_target

try:
    from captum.attr import visualization
    from captum.attr._utils.attribution import Attribution
except ImportError as error:
    raise ImportError('lrp_fx.adapters.captum needs captum: pip install "lrp-fx[captum]"') from error

#: What Captum takes as the target of a call.
CaptumTarget = Any
Inputs = Tensor | tuple[Tensor, ...]


class RelevancePropagation(Attribution):
    """Relevance of a model's inputs.

    forward_func: a `torch.nn.Module`, or an explainer. A function has no graph, and is refused.
    rules, options: as in `lrp_fx.convert`. position: how position relevance of tokens is aggregated
    (`lrp_fx.Relevance.per_token`); None: content alone.
    """

    def __init__(
        self,
        forward_func: nn.Module | Explainer,
        rules: str | Ruleset = "pa-lrp",
        *,
        position: str | None = "signed",
        **options: Any,
    ) -> None:
        if not isinstance(forward_func, (nn.Module, Explainer)):
            raise InputError(
                f"a {type(forward_func).__name__} has no graph: give the torch.nn.Module itself; what is done with its "
                "output is a target"
            )
        self.explainer: Explainer = (
            forward_func if isinstance(forward_func, Explainer) else convert(forward_func, rules=rules, **options)
        )
        self.position = position
        super().__init__(self.explainer.model)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Relevance is an amount of the score, not a slope."""
        return True

    def has_convergence_delta(self) -> bool:
        """What no input got is told on request."""
        return True

    def attribute(
        self,
        inputs: Inputs,
        baselines: None = None,
        target: CaptumTarget = None,
        additional_forward_args: Any = None,
        feature_mask: Inputs | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        *,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Relevance of each input, in its shape: (B, T) for ids, by pixel for images; a tuple for a tuple of inputs.

        inputs: the first arguments of forward, ids or floating values; additional_forward_args: those after them.
        target: a class for all or a list (or tensor) of one for each example; ``(position, class)`` for outputs with a
            row for each token; a target of `lrp_fx.targets`; None: the prediction.
        feature_mask: elements of one number count together, and each has the sum (as in ``FeatureAblation``).
        return_convergence_delta: return ``(relevance, delta)``; delta (B,) is the score less what the inputs got: what
            went to sinks, learned tokens, and inputs that were not asked for.
        baselines: none; relevance compares with nothing. perturbations_per_eval, show_progress: have no effect.

        Raises what an explainer raises.
        """
        if baselines is not None and not (isinstance(baselines, tuple) and all(b is None for b in baselines)):
            raise InputError("relevance propagation has no baselines: it asks what was added up, not what if")
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        more = () if additional_forward_args is None else additional_forward_args
        arguments = (*given, *(more if isinstance(more, tuple) else (more,)))
        bound = bind(self.explainer.model, arguments, {})
        relevance = self.explainer(**bound, target=target_of(target))
        names = [n for n in _names(self.explainer.model) if n in bound][: len(given)]
        found = tuple(self._of_input(relevance, name) for name in names)
        if feature_mask is not None:
            masks = feature_mask if isinstance(feature_mask, tuple) else (feature_mask,)
            found = _summed(found, masks)
        result = found if isinstance(inputs, tuple) else found[0]
        if not return_convergence_delta:
            return result
        got = torch.stack([self._of_input(relevance, n).double().flatten(1).sum(1) for n in names]).sum(0)
        return result, relevance.score.double() - got

    def _of_input(self, relevance: Relevance, name: str) -> Tensor:
        if name not in relevance.content:
            raise InputError(f"{name} carries no relevance; give it in additional_forward_args")
        value = relevance.inputs[name]
        if value.is_floating_point():
            return relevance.content[name]
        tokens = relevance.per_token(self.position)
        return tokens if isinstance(tokens, Tensor) else tokens[name]


def _names(model: nn.Module) -> list[str]:
    return [n for n, p in forward_parameters(model).items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def target_of(target: CaptumTarget) -> Target:
    """A target as Captum writes it, as one of ours. Raises `TargetError` for what explains no single number."""
    if isinstance(target, tuple):
        return _at_row([target])
    if isinstance(target, list) and target and isinstance(target[0], tuple):
        return _at_row(target)
    if isinstance(target, Custom):
        return target
    return as_target(target)


def _at_row(places: Sequence[tuple[Any, ...]]) -> Class:
    if any(len(place) not in (1, 2) for place in places):
        raise TargetError(
            f"{places[0]!r}: a target is a class, or (position, class) where there is a row for each token"
        )
    classes = [int(place[-1]) for place in places]
    if all(len(place) == 1 for place in places):
        return Class(classes)
    return Class(classes, [int(place[0]) for place in places])


def _summed(found: Iterable[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In the place of each element, the sum over all elements of its number, in all inputs of the example."""
    values = tuple(found)
    if len(masks) != len(values):
        raise InputError(f"feature_mask has {len(masks)} parts for {len(values)} inputs")
    wide = [mask.long().expand_as(value) for mask, value in zip(masks, values, strict=True)]
    batch = len(values[0])
    totals = values[0].new_zeros(batch, int(max(mask.max() for mask in wide)) + 1)
    for value, mask in zip(values, wide, strict=True):
        totals.scatter_add_(1, mask.reshape(batch, -1), value.reshape(batch, -1).to(totals.dtype))
    return tuple(
        totals.gather(1, mask.reshape(batch, -1)).view_as(value) for value, mask in zip(values, wide, strict=True)
    )


def records(relevance: Relevance, true_class: Sequence[Any] | None = None, *, name: str | None = None) -> list[Any]:
    """A ``VisualizationDataRecord`` of each example, for ``captum.attr.visualization.visualize_text``.

    Words are coloured by relevance over the largest of the example; padding is left out. true_class: what is true of
    each example, where that is known. name: of the input, where several have tokens.
    """
    tokens = relevance.per_token()
    if not isinstance(tokens, Tensor):
        if name not in tokens:
            raise InputError(f"several inputs have tokens: give name= one of {', '.join(tokens)}")
        tokens = tokens[name]
    else:
        name = next(n for n, R in relevance.content.items() if R.shape == tokens.shape)
    known = relevance.vocabulary.tokens if relevance.vocabulary is not None else None
    hidden = _padding(relevance, name)
    found = []
    for number, target in enumerate(relevance.target):
        kept = ~hidden[number]
        row = tokens[number][kept].double().cpu()
        probability = float("nan") if target.probability is None else target.probability
        said = target.label if target.label is not None else target.index
        true = "" if true_class is None else true_class[number]
        words = token_names(relevance.inputs[name][number][kept].tolist(), known)
        delta = float(relevance.score[number]) - float(row.sum())
        found.append(
            visualization.VisualizationDataRecord(
                row / row.abs().max().clamp_min(1e-30),
                probability,
                said,
                true,
                said,
                float(row.sum()),
                words,
                delta,
            )
        )
    return found


def _padding(relevance: Relevance, name: str) -> Tensor:
    """(B, T) bool: the places that are not drawn, for a mask hides them."""
    from lrp_fx.report.view import examples

    value = relevance.inputs[name]
    hidden = torch.ones(value.shape, dtype=torch.bool, device=value.device)
    for number, view in enumerate(examples(relevance)):
        for part in view.parts:
            if part.name == name and hasattr(part, "index"):
                hidden[number, list(part.index)] = False
    return hidden
