"""Settings: what `lrp_fx.convert` is asked for, checked before any work; the presets and aggregations there are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrp_fx.errors import InputError
from lrp_fx.ir.passes import check_names
from lrp_fx.ir.program import ROLES
from lrp_fx.rule import Ruleset, registry
from lrp_fx.runtime.pipeline import PIPELINE

CONSERVE = ("total", "site", "off")
CHECKS = ("changes", "every")


def check_settings(
    *,
    conserve: str,
    dynamic: Any,
    check: str,
    checkpoint: bool,
    compile: bool,
    differentiable: bool,
    without: Any,
) -> None:
    """Raise `InputError` for a value that a setting cannot have, and for two that do not go together."""
    if conserve not in CONSERVE:
        raise InputError(f"conserve={conserve!r}; there are {', '.join(CONSERVE)}")
    if dynamic not in (True, False, "auto"):
        raise InputError(f"dynamic={dynamic!r}; there are True, False and 'auto'")
    if check not in CHECKS:
        raise InputError(f"check={check!r}; there are {', '.join(CHECKS)}")
    if checkpoint and compile:
        raise InputError(
            "checkpoint=True and compile=True do not go together: a compiler may merge what is computed twice"
        )
    if differentiable and compile:
        raise InputError(
            "differentiable=True and compile=True do not go together: a compiler keeps no derivative of a derivative"
            "\n    next: leave compile=True out"
        )
    if differentiable and checkpoint:
        raise InputError(
            "differentiable=True and checkpoint=True do not go together: autograd keeps what it needs of every "
            "operation, and computing blocks twice would keep it twice\n    next: leave checkpoint=True out"
        )
    if isinstance(without, str):
        raise InputError(f"without= takes a list of names, such as ({without!r},)")
    check_names(PIPELINE, without)


def check_gradients() -> None:
    """Raise `InputError` where no gradient can be had: `torch.no_grad` can be left, inference mode cannot."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "relevance cannot carry gradients inside torch.inference_mode()\n    next: explain outside of it, or leave "
            "differentiable=True out"
        )


def check_roles(model: nn.Module, roles: Mapping[str, str]) -> None:
    """Raise `InputError` for roles of arguments that forward does not take, and for roles that there are not."""
    takes = inspect.signature(model.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    strange = [n for n in roles if n.split(".")[0] not in takes and not anything]
    if strange:
        raise InputError(f"roles for {', '.join(strange)}, but forward takes {', '.join(takes)}")
    unknown = [f"{n}: {r!r}" for n, r in roles.items() if r not in ROLES]
    if unknown:
        raise InputError(f"unknown role for {', '.join(unknown)}; a role is one of {', '.join(ROLES)}")


def aggregations() -> dict[str, str]:
    """Names of the ways to sum position relevance per token, and what each does."""
    return {name: a.law for name, a in registry.aggregations.items()}


def rulesets() -> dict[str, str]:
    """Names of the presets and what each is."""
    return {name: r.about for name, r in registry.rulesets.items()}


def ruleset_of(rules: str | Ruleset) -> Ruleset:
    """The ruleset of that name, or the one given; raises `InputError` for names that there are not."""
    if isinstance(rules, Ruleset):
        unknown = [name for name in rules.named() if name not in registry.rules]
        if unknown:
            raise InputError(
                f"ruleset {rules.name!r} names unknown rules: {', '.join(unknown)}; known are "
                f"{', '.join(sorted(registry.rules))}"
            )
        return rules
    if rules not in registry.rulesets:
        raise InputError(f"no ruleset {rules!r}; there are {', '.join(registry.rulesets)}")
    return registry.rulesets[rules]
