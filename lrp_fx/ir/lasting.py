"""Lasting: what a model holds beside its weights, as a digest that is the same in another process.

requires  a model
ensures   other for another attribute of a module (a number, a list, a tensor, an adapter's scale, a function), another
          class, other code, other hooks; the same for what code writes into its own objects when it runs (counters,
          caches), for addresses, devices, names of folders, and for what cannot be told (locks, loggers)
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_fx.ir.contents import PLAIN, Part, code_text, is_closed, is_given, of_all_modules, own_classes, parts
from lrp_fx.ir.own_state import Written, codes_of, joined, written_by, written_when_run
from lrp_fx.ir.read import holds_none
from lrp_fx.ir.seen import Writer
from lrp_fx.ir.source import TORCH_FOLDER

#: What a configuration, or a model, says of where it was read, and by what.
OF_A_COPY = frozenset(
    "_name_or_path name_or_path base_model_name_or_path transformers_version peft_version _commit_hash "
    "generation_config warnings_issued hf_device_map _is_hf_initialized _weight_conversions _use_kernels".split()
)
#: What torch.compile notes of a function or a module: addresses, mostly.
_OF_COMPILERS = "_torchdynamo"
_FORWARD = frozenset({"forward"})
_OF_MODULES = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_ALSO = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")


def lasting(model: nn.Module) -> str:
    """Of all that decides on what a model computes, beside its parameters, its buffers and its own configuration."""
    writer = _Writer(model)
    for part in of_all_modules():
        writer.write(list(part.values))
    for name, module in model.named_modules():
        writer.write(name)
        writer.write_module(module)
    return writer.digest()


def runs_into(model: nn.Module) -> set[str]:
    """Names of buffers that a model writes to when it runs."""
    found = set()
    for name, module in model.named_modules():
        own = written_when_run(type(module), _FORWARD)
        buffers = [n for n, _ in module.named_buffers(recurse=False, remove_duplicate=False)]
        found |= {f"{name}.{n}".removeprefix(".") for n in buffers if n in own.set | own.filled}
    return found


class _Writer(Writer):
    """Writes what lasts. Modules of the model are told by their place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._modules = {id(module): name for name, module in model.named_modules()}
        self._known = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        runs = [written_when_run(kind, _FORWARD) for kind in {type(m) for m in model.modules()}]
        own = [code for module in model.modules() for code in _own_codes(module)]
        self._called = joined([*runs, *map(written_by, own)]).called | {"__call__", *(code.co_name for code in own)}

    def write_module(self, module: nn.Module) -> None:
        """One module's own attributes and hooks, without its weights and what is below it."""
        self._put(_name(type(module)))
        if isinstance(module, torch.jit.ScriptModule):  # all that it is stands in its code
            self._put(str(getattr(module, "code", "")))
            return
        self._write_classes(module)
        own = {n: v for n, v in vars(module).items() if n not in _OF_MODULES}
        self._write_attributes(own, written_when_run(type(module), _FORWARD))
        for name in _HOOKS:
            self.write(list(getattr(module, name, {}).values()))
        for name in _ALSO:
            self.write(len(getattr(module, name, {})))

    def _write_attributes(self, held: dict[str, Any], own: Written) -> None:
        for name in sorted(map(str, held)):
            if name in own.set or name in OF_A_COPY or name.startswith("__"):
                continue
            if name in own.filled and not isinstance(held[name], PLAIN):
                continue
            if not name.startswith(_OF_COMPILERS):
                self._put(name)
                self.write(held[name])

    def write(self, value: Any) -> None:
        """A value, and all that it holds. Where numbers lie decides on none of them."""
        super().write("a device" if isinstance(value, torch.device) else value)

    def _write_inside(self, value: Any) -> None:
        if isinstance(value, nn.Module) and id(value) in self._modules:
            self._put(f"module {self._modules[id(value)]}")
        elif isinstance(value, Tensor) and id(value) in self._known:
            self._put(f"weight {self._known[id(value)]}")
        elif isinstance(value, nn.Module):  # one that the model does not know of
            self.write([*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)])
            self.write_module(value)
            self.write(dict(value.named_children()))
        elif isinstance(value, types.FunctionType):
            self._write_function(value)
        elif hasattr(value, "to_dict") and not isinstance(value, type):
            self._write_configuration(value)
        elif not is_closed(value) and _is_object(value):
            own = written_when_run(type(value), self._called)
            self._write_classes(value)
            self._write_attributes(vars(value), own)
            self._write_parts([p for p in parts(value) if p.into is not vars(value)])
        else:
            super()._write_inside(value)

    def _write_configuration(self, value: Any) -> None:
        try:
            found = value.to_dict()
        except Exception:  # one that needs arguments, or cannot be written as it is
            found = dict(getattr(value, "__dict__", {}))
        self.write({n: found[n] for n in sorted(map(str, found)) if n in found and n not in OF_A_COPY})

    def _write_function(self, function: types.FunctionType) -> None:
        """Its code, and what it reads and does not fill; of a wrapper of torch's what it wraps."""
        if TORCH_FOLDER in function.__code__.co_filename.replace("\\", "/"):
            held = [v for part in parts(function) for v in part.values if isinstance(v, _FUNCTIONS)]
            self._put(f"{function.__module__}.{function.__qualname__}")
            self.write(held)
            return
        own = joined(map(written_by, codes_of(function)))
        for part in parts(function):
            names = tuple(part.names) if part.names is not None else ()
            for name, each in zip(names, part.values, strict=False):
                if not (name in own.filled and not isinstance(each, PLAIN)):
                    self._put(str(name))
                    self.write(each)

    def _write_class(self, kind: type) -> None:
        """By its name, and once by the code and the plain values of what is not Python's or torch's own."""
        self._put(_name(kind))
        if kind in self._classes:
            return
        self._classes[kind] = len(self._classes)
        own = written_when_run(kind, _FORWARD | self._called)
        for name, value in sorted(vars(kind).items()) if not is_given(kind) else ():
            codes = list(codes_of(value))
            if codes:
                self._put(name, *map(code_text, codes))
            elif isinstance(value, (*_VALUES,)) and not name.startswith("__") and name not in own.set | own.filled:
                self._put(name)
                self.write(value)

    def _write_classes(self, value: Any) -> None:
        if type(value).__module__ != "builtins":
            for kind in own_classes(value):
                self._write_class(kind)

    def _write_parts(self, held: Iterable[Part]) -> None:
        for part in held:
            self._put("part")
            for name, each in _named(part):
                if not str(name).startswith(_OF_COMPILERS):
                    self.write(name)
                    self.write(each)

    def _write_tensor(self, tensor: Tensor) -> None:
        if holds_none(tensor):
            self._put(f"{tensor.dtype} {tuple(tensor.shape)}")
        else:
            super()._write_tensor(tensor.detach().cpu())

    def _alone(self, value: Any) -> str:
        """What can be told by nothing else is told by its class."""
        return _name(type(value))


def _own_codes(module: nn.Module) -> Iterator[types.CodeType]:
    """The code of a forward that was put into this one module, and of its hooks."""
    hooks = [hook for name in _HOOKS for hook in getattr(module, name, {}).values()]
    for each in (vars(module).get("forward"), *hooks):
        yield from codes_of(each)


_FUNCTIONS = (types.FunctionType, types.MethodType)
_VALUES = (int, float, str, bool, complex, bytes, type(None), torch.dtype, list, tuple, Tensor, np.ndarray)


def _is_object(value: Any) -> bool:
    """Is it of a class that somebody wrote, with attributes of its own?"""
    return not isinstance(value, (type, Tensor)) and hasattr(value, "__dict__") and any(own_classes(value))


def _named(part: Part) -> Iterator[tuple[Any, Any]]:
    """Names and values, by name where they have names: another may have set them in another order."""
    if part.names is None:
        yield from enumerate(part.values)
    else:
        yield from sorted(zip(part.names, part.values, strict=False), key=lambda pair: repr(pair[0]))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
