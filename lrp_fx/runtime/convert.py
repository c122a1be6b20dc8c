"""Convert: a model, or what holds one, and all that can be asked for, as an explainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lrp_fx.preprocess.open import opened
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.runtime.strategies import Dynamic


def convert(
    model: nn.Module | str | Path | Any,
    example_inputs: Any = None,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    rules: str | Ruleset = "pa-lrp",
    conserve: str = "total",
    strict: bool = False,
    dynamic: Dynamic = "auto",
    compile: bool = False,
    roles: dict[str, str] | None = None,
    output: str | None = None,
    keep_output: bool = True,
    checkpoint: bool = False,
    differentiable: bool = False,
    without: Sequence[str] = (),
    progress: bool | None = None,
    check: str = "changes",
    dictionaries: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Explainer:
    """Compile a model into an explainer.

    model: any `torch.nn.Module` in eval mode. It is not modified. Or a pipeline of transformers, with what it reads by;
        or a folder or name on the hub: model (in float32), tokenizer and processor are loaded from there.
    example_inputs: keyword arguments of its forward (a dictionary), or what a call takes first, such as a text; given,
        capture happens now, otherwise on first use.
    tokenizer, processor: of transformers, or called like theirs: calls take texts, chats, images and sounds then,
        targets take names of labels and tokens, and results are drawn with words.
    rules: name of a preset (`lrp_fx.rulesets()`) or a `lrp_fx.Ruleset`.
    conserve: ``"total"`` checks that each example's ledger closes, ``"site"`` balances every site of the graph too and
        names the worst, ``"off"`` checks nothing.
    strict: refuse operations that are only approximated (`lrp_fx.UnsupportedOperatorError`).
    dynamic: True: batch and sequence sizes are symbolic, so that other sizes do not capture again. False: every size is
        captured by itself. ``"auto"``: one short example is captured for its own sizes, which is quicker, and symbolic
        sizes follow when a second size comes (or a file is saved).
    compile: run the relevance graph through `torch.compile`.
    roles: forward argument (or container of them) -> ``"content"``, ``"position"``, ``"segment"``, ``"mask"`` or
        ``"cached"`` (computed for earlier tokens, as keys and values are), where its name misleads.
    output: name of the output to explain, where the model returns several (default: ``logits``, else the first float).
    keep_output: return the model's own output with the relevance. Without it (`Relevance.output` is None), what a
        target does not read is not computed: logits at one position instead of all, the last block for one row.
    checkpoint: keep the residual stream of the forward pass only, and compute the insides of the blocks again when the
        transpose needs them: less memory for more time. Not together with ``compile``.
    differentiable: relevance carries gradients, to the model's parameters and to floating inputs (``inputs_embeds``):
        content, position, tokens, sinks, score and output are part of autograd's graph, so that relevance can stand in
        a loss. The model stays in eval mode (dropout would make every run another); optimiser steps need no new
        capture. Attention is written out, query by key. Under `torch.no_grad` it explains as ever, and
        only there it warns of what makes a picture doubtful. Not together with ``compile`` or ``checkpoint``.
    without: names of optimisations to leave out (``lrp-fx passes`` lists them): which one changes a number is found so.
    progress: show, in one line on standard error, which pass runs and the seconds so far; by default on a terminal and
        in a notebook. The logger ``lrp_fx`` says at INFO what each pass did.
    check: ``"changes"`` compares what was captured with the model where the model is seen to have been changed;
        ``"every"`` in every call, by running the model on it: a change that cannot be seen (of a function in torch
        itself) is captured anew, too. The output of the relevance graph is compared as well, and `errors.PassError`
        raised where it is another: a fault of lrp_fx.
    dictionaries: place -> a dictionary of latents put there (a sparse autoencoder, a transcoder): a module with
        ``encode`` and ``decode``, a pair of functions, or `lrp_fx.Dictionary`. Places are named as in
        ``explainer(..., at=...)``. The model computes what it did, to the bit; relevance of the place goes to what the
        dictionary reconstructs, by way of its latents, and what it misses is the sink ``reconstruction error``.
        ``"PLACE.latents"`` is a place, too.
    weights: False, with a folder or name: convert the model without its weights, which `Explainer.bind` reads into
        their places later. The same goes for a model whose parameters lie on the meta device. Until then
        `Explainer.size` answers, and what looks at graphs; nothing is explained.
    """
    return Explainer(
        opened(model, tokenizer, processor, weights=weights),
        example_inputs,
        rules=rules,
        conserve=conserve,
        strict=strict,
        dynamic=dynamic,
        compile=compile,
        roles=roles,
        output=output,
        keep_output=keep_output,
        checkpoint=checkpoint,
        differentiable=differentiable,
        without=without,
        progress=progress,
        check=check,
        dictionaries=dictionaries,
    )
