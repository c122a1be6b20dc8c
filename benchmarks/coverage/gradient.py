"""Gradient x input: what the preset ``gradient`` gives, beside what autograd says of the model itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import lrp_fx
from lrp_fx.capture.compare import inference_configuration
from lrp_fx.capture.outputs import explained_name, named_leaves


class _Lookups(TorchFunctionMode):
    """Rows that are looked up for an index input, or for what is made of it (a decoder's tokens), as leaves of
    differentiation; ``found``: what was looked up and its rows, by input; ``tables``: where they were looked up.
    ``wide``: what the model casts to float32, as norms do, it casts to float64, as the program of it does.
    """

    def __init__(self, indices: dict[str, Tensor], wide: bool) -> None:
        super().__init__()
        self.indices, self.wide = indices, wide
        self.tables: dict[int, str] = {}
        self.found: dict[str, list[tuple[Tensor, Tensor]]] = {n: [] for n in indices}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.wide:
            function = Tensor.double if function is Tensor.float else function
            args, kwargs = pytree.tree_map(lambda a: torch.float64 if a is torch.float32 else a, (args, kwargs))
        result = function(*args, **(kwargs or {}))
        if function is not torch.nn.functional.embedding or not args:
            return result
        own = {n: (v.flatten(), v.movedim(0, -1).flatten()) for n, v in self.indices.items() if v.dim() > 0}
        name = next((n for n, v in own.items() if any(torch.equal(ids, args[0].flatten()) for ids in v)), None)
        name = name or self.tables.get(args[1].data_ptr())
        if name is None:
            return result
        self.tables[args[1].data_ptr()] = name
        leaf = result.detach().requires_grad_()
        self.found[name].append((args[0], leaf))
        return leaf.clone()  # a model may write into it


def gradient_error(model: nn.Module, inputs: dict[str, Any]) -> float:
    """Largest difference of content's relevance under the preset ``gradient`` from gradient x input by autograd,
    relative to the largest value before features cancel in a token's sum; not a number where no gradient reaches a
    content input.
    """
    explainer = lrp_fx.convert(model, rules="gradient", conserve="off", dynamic=True)
    given: dict[str, Tensor] = {}
    found = explainer(**inputs, target=score_all)
    for name, R in found.content.items():
        own = name.split(":")[0]  # rows of several tables are told apart
        if name in found.apart:
            continue  # looked up by what is computed of several integers: of no token, and of no lookup that is noted
        if own != name and isinstance(value := inputs.get(own), Tensor) and value.is_floating_point():
            continue  # rows looked up by numbers of it: no derivative leads there
        given[own] = given[own] + R if own in given else R
    expected, first, size = _by_autograd(model, inputs, given, _in_float64(model))
    if any(given[n].shape != R.shape for n, R in expected.items()):
        return float("inf")
    off = [min(float((given[n] - R - more).abs().max()) for more in (0, first.get(n, 0))) for n, R in expected.items()]
    return max(off) / size if size > 0.0 else float("nan")


def score_all(output: Tensor) -> Tensor:
    """A number for each example that all elements have a part in, of different size and sign."""
    flat = output.reshape(output.shape[0], -1)
    return (flat * torch.cos(torch.arange(flat.shape[1], device=flat.device, dtype=flat.dtype))).sum(1)


def _by_autograd(
    model: nn.Module, inputs: dict[str, Any], names: Iterable[str], wide: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Gradient x input of the content inputs of these names; what the first row of a text that is read one place later
    got, which may be a token's (its last) or a constant's; and the largest value before sums.
    """
    given = {n: inputs[n] for n in names if isinstance(inputs.get(n), Tensor)}
    leaves = {n: v.detach().clone().requires_grad_() for n, v in given.items() if v.is_floating_point()}
    lookups = _Lookups({n: v for n, v in given.items() if not v.is_floating_point()}, wide)
    with torch.enable_grad(), inference_configuration(model), lookups:
        given_again = {n: v.clone() for n, v in leaves.items()}
        score = score_all(_explained(model(**{**inputs, **given_again}))).sum()
    tensors = [(n, None, v) for n, v in leaves.items()]
    tensors += [(n, ids, v) for n, rows in lookups.found.items() for ids, v in rows]  # type: ignore[misc]
    if not tensors:
        return {}, {}, 0.0
    grads = torch.autograd.grad(score, [v for *_, v in tensors], allow_unused=True)
    found: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    size = 0.0
    for (name, ids, value), grad in zip(tensors, grads, strict=True):
        if grad is not None:
            part = (value * grad).detach()
            size = max(size, float(part.abs().max()))
            if ids is not None:
                part, more = _as_given(part.sum(-1), ids, given[name])
                first[name] = first.get(name, torch.zeros(())) + more
            found[name] = found[name] + part if name in found else part
    return found, first, size


def _as_given(rows: Tensor, ids: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at the tokens that they were looked up for, and of a text that is read one place later the first row, at the
    last token of its kind; some models put the text before the batch.
    """
    nothing = torch.zeros(given.shape, dtype=rows.dtype)
    if rows.dim() == 2 and rows.shape == given.shape[::-1] and not torch.equal(ids, given):
        return rows.mT, nothing
    if given.dim() == 2 and ids.shape == given.shape and torch.equal(ids[:, 1:], given[:, :-1]):
        place = torch.arange(given.shape[1]).where(given == ids[:, :1], -1).amax(1, keepdim=True)
        first = nothing.scatter(1, place.clamp(min=0), rows[:, :1]).where(place >= 0, 0)
        return torch.cat([rows[:, 1:], nothing[:, :1]], 1), first
    return rows.reshape(given.shape), nothing


def _in_float64(model: nn.Module) -> bool:
    return all(p.dtype != torch.float32 for p in model.parameters())


def _explained(output: Any) -> Tensor:
    """The output that is explained by default."""
    named = {n: v for n, v in named_leaves(output) if isinstance(v, Tensor) and v.is_floating_point()}
    name = explained_name(named)
    if name is None:
        raise ValueError("the model returns no floating-point tensor")
    return named[name]
