"""Checks before any work: a model or an input that cannot be explained is refused, never turned into a wrong number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrp_fx.capture.compare import inference_configuration, own_tensors
from lrp_fx.capture.unloaded import run_waiting, waits
from lrp_fx.errors import InputError, raise_if_out_of_memory
from lrp_fx.ir.program import CONTENT_ROLE
from lrp_fx.ir.sparse import numbers_held


def check_mode(model: nn.Module) -> None:
    """A model in training mode is refused: dropout would make every run another."""
    training = [n or type(model).__name__ for n, m in model.named_modules() if m.training and not _is_container(m)]
    if training:
        more = f" and {len(training) - 1} more modules" if len(training) > 1 else ""
        fixed = "eval" in vars(model)  # torch.export puts a method there that refuses
        next_step = (
            "explain the model that it was exported from"
            if fixed
            else "call model.eval() first (it switches dropout off, and gradients flow all the same)"
        )
        raise InputError(f"the model is in training mode ({training[0]}{more}); {next_step}")


def _is_container(module: nn.Module) -> bool:
    """Does it only hold others (a list of layers that was cut is in training mode again)?"""
    return isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict))


def check_weights(model: nn.Module) -> None:
    """Weights that are not finite are refused, and those that cannot be traced. (Those that a model waits for are
    looked at when they come.)
    """
    away = [n for n, p in model.named_parameters() if p.is_meta]
    if away:
        raise InputError(
            f"the weights are on the meta device, which holds no numbers ({away[0]} and {len(away) - 1} more): the "
            "model was not loaded, or is offloaded between calls\n    next: load all of it onto one device, without "
            "offloading (cpu_offload, disk_offload, device_map)"
        )
    made_inside = [n for n, p in model.named_parameters() if p.is_inference()]
    if made_inside:
        raise InputError(
            f"the weights are inference tensors ({made_inside[0]} and {len(made_inside) - 1} more), which cannot be "
            "traced: the model was made inside torch.inference_mode()\n    next: explain copy.deepcopy(model), made "
            "outside of it"
        )
    if waits(model):
        return
    bad = [n for n, p in model.named_parameters() if not all(map(is_finite, plain_tensors(p.detach())))]
    if bad:
        raise InputError(f"the weights are not finite: {', '.join(bad[:5])}")


def plain_tensors(tensor: Tensor) -> list[Tensor]:
    """The tensor, or those that it is made of where it is quantised or packed (integers and their scales), or
    sparse."""
    if not is_traceable_wrapper_subclass(tensor):
        return [numbers_held(tensor)]
    names, _ = tensor.__tensor_flatten__()
    return [plain for name in names for plain in plain_tensors(getattr(tensor, name))]


def is_finite(weight: Tensor) -> bool:
    """By its extremes, which NaN and infinity reach: `isfinite` would write out a copy of the largest weight."""
    if not weight.is_floating_point() or not weight.numel():
        return True
    wide = weight.float() if weight.element_size() == 1 else weight  # types of one byte have no extremes
    return all(bool(extreme.isfinite()) for extreme in wide.aminmax())


def check_inputs(bound: dict[str, Any], roles: dict[str, str]) -> None:
    """Inputs that are empty, not finite, no plain tensors or no tensors at all are refused before any work."""
    tensors = {n: v for n, v in bound.items() if isinstance(v, Tensor)}
    if not tensors:
        raise InputError(
            f"no tensor among the inputs{_given_instead(bound)}; call the explainer like the model, for example "
            "explainer(input_ids=...)"
        )
    for name, value in tensors.items():
        if value.is_meta:
            raise InputError(
                f"{name} is on the meta device, where tensors hold no numbers\n    next: give it with its values"
            )
        if value.is_nested:
            raise InputError(
                f"{name} is a nested tensor, whose rows have no common length\n"
                f"    next: give {name}.to_padded_tensor(0), and a mask of what is no padding"
            )
        if value.numel() == 0:
            raise InputError(f"{name} is empty (shape {tuple(value.shape)}): there is nothing to explain")
        if value.is_floating_point() and roles[name] != "mask" and not bool(value.isfinite().all()):
            raise InputError(f"{name} contains NaN or infinity")
    if CONTENT_ROLE not in roles.values():
        raise InputError(
            f"none of the inputs {', '.join(tensors)} is content; name one with convert(model, "
            f"roles={{...: 'content'}})"
        )


def _given_instead(bound: dict[str, Any]) -> str:
    """What is no tensor and how it becomes one, where it looks like an input."""
    texts = [n for n, v in bound.items() if isinstance(v, str)]
    lists = [n for n, v in bound.items() if isinstance(v, (list, tuple)) or hasattr(v, "__array__")]
    if texts:
        return f": {texts[0]} is a text, give what a tokenizer makes of it"
    return f": {lists[0]} is a {type(bound[lists[0]]).__name__}, give torch.as_tensor of it" if lists else ""


def run_model(model: nn.Module, bound: dict[str, Any]) -> Any:
    """What the model gives; raises `InputError` when its own forward refuses the inputs."""
    try:
        with torch.no_grad(), inference_configuration(model):
            return run_waiting(model, bound) if waits(model) else model(**own_tensors(bound))
    except Exception as error:
        raise_if_out_of_memory(error)
        given = ", ".join(f"{n}: {v.dtype} {tuple(v.shape)}" for n, v in bound.items() if isinstance(v, Tensor))
        raise InputError(
            f"the model's own forward fails on these inputs ({given}): {type(error).__name__}: {error}{_way_out(bound)}"
        ) from error


def _way_out(bound: dict[str, Any]) -> str:
    """What is often meant by such inputs."""
    whole = dict.fromkeys(name.split(".")[0] for name in bound)
    inside = {name.split(".", 1)[1] for name in bound if "." in name}
    flat = [n for n, v in bound.items() if isinstance(v, Tensor) and v.dim() == 1 and "." not in n]
    if len(whole) == 1 and inside and next(iter(whole)) in inside:
        return "\n    next: a dictionary was given as the first argument; give its entries by name, explainer(**inputs)"
    if flat:
        return f"\n    next: the first axis is the batch; for one example give {flat[0]}[None]"
    return ""
