"""Settings: what a run over a data set is asked for, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrp_fx.datasets.rows import Columns
from lrp_fx.errors import InputError, TargetError
from lrp_fx.targets import At, Custom, Target, check_classes, content_of, is_for_each

#: The share of the environment, as launchers of several processes set it: rank, and how many there are.
ENVIRONMENT = "environment"
_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))


@dataclass(frozen=True)
class Settings:
    """How rows are explained: rows of a batch and of a shard, what is explained, threads of each process (sums are
    rounded by them), processes, and the ``share`` of all shards: every ``share[1]``-th from ``share[0]`` on.
    """

    columns: Columns
    target: Target
    batch_size: int = 32
    rows: int = 512
    threads: int = 1
    processes: int = 1
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows", "threads", "processes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a whole number, at least 1")
        _check_target(self.target)

    @property
    def lasting(self) -> dict[str, Any]:
        """What decides on the numbers, for the manifest: neither processes nor shares do."""
        columns = self.columns
        texts = list(columns.text) if isinstance(columns.text, tuple) else columns.text
        return {
            "batch_size": self.batch_size,
            "rows": self.rows,
            "threads": self.threads,
            "target": content_of(self.target),
            "text_column": texts,
            "ids_column": columns.ids,
            "id_column": columns.id,
            "target_column": columns.target,
        }


def require_one(target: Any, target_column: Any) -> None:
    """Raise `InputError` where rows would have a target of their own, and one for all."""
    if target is not None and target_column is not None:
        raise InputError("give one target for all rows or a column of targets, not both")


def _check_target(target: Target) -> None:
    """Raise `TargetError` for one that no graph of all rows could have."""
    if isinstance(target, (At, Custom)):
        raise TargetError(
            f"map() explains all rows with one graph, which holds no code and no places, and {target!r} asks for such\n"
            "    next: give a class, a Contrast, a Direction or a Span, or explain the rows one by one, explainer(text)"
        )
    check_classes(target)
    if is_for_each(target):  # rows are sorted, and cut into batches: whose would each be?
        raise TargetError(
            f"{target!r} asks for something else in each example, and the target of a data set is one for all its rows"
            "\n    next: put the class of each row into a column of the data, target_column=, or give one target "
            "(a vector as (d,), or with a first axis of 1)"
        )


def share_of(share: Any, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, of how many); ``"environment"``: as torchrun or Slurm set it for this process. None: all shards.

    Raises `InputError` for a rank that there is not, and where the environment says nothing.
    """
    if share is None:
        return 0, 1
    if share == ENVIRONMENT:
        share = _of_environment(os.environ if environment is None else environment)
    try:
        rank, world = (int(part) for part in share)
    except (TypeError, ValueError):
        raise InputError(f"share={share!r}: give (rank, how many processes), or {ENVIRONMENT!r}") from None
    if not 0 <= rank < world:
        raise InputError(f"share={share!r}: ranks of {world} processes go from 0 to {world - 1}")
    return rank, world


def _of_environment(environment: Mapping[str, str]) -> tuple[str, str]:
    for rank, world in _LAUNCHERS:
        if rank in environment and world in environment:
            return environment[rank], environment[world]
    names = " nor ".join(f"{rank} and {world}" for rank, world in _LAUNCHERS)
    raise InputError(f"the environment has neither {names}\n    next: start by torchrun or srun, or give (rank, world)")
