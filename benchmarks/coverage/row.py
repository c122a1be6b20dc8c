"""What is known of one model type: the row that the sweep stores and the page shows."""

from __future__ import annotations

from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any

#: How far a model type came, worst first.
STAGES = ("not built", "no forward", "not captured", "not converted", "not explained", "open", "closed")


@dataclass
class Row:
    """One model type. ``stage``: how far it came (`STAGES`); ``reason``: why no farther, or what is short, in one
    phrase.

    ``shares``: relevance-path nodes served by a listed rule, by inference, and only approximated. ``approximated``: the
    operations of the latter. ``positions``: kinds of position sites found; ``expected``: does the model have modules,
    parameters or buffers that are named after positions (a label for this page only)? ``padding``: what padding
    changed.
    ``forward``: largest difference to the model's own output, relative to its largest value. ``ledger``, ``site``:
    worst error of the ledger and of a site over two inputs. ``gradient``: largest difference of the preset ``gradient``
    from what autograd says of the model, relative to the largest value. ``dtype``: float64 where the model runs in it.
    ``revision``, ``versions``: of this package, and of torch and transformers.
    """

    model_type: str
    task: str
    head: str = ""
    stage: str = "not built"
    reason: str = ""
    dtype: str = "float64"
    method: str = ""
    parameters: int = 0
    nodes: int = 0
    relevance_nodes: int = 0
    shares: tuple[int, int, int] = (0, 0, 0)
    approximated: dict[str, int] = field(default_factory=dict)
    positions: list[str] = field(default_factory=list)
    expected: bool = False
    padding: str = "-"
    forward: float = float("nan")
    ledger: float = float("nan")
    site: float = float("nan")
    gradient: float = float("nan")
    seconds: float = 0.0
    revision: str = ""
    versions: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its fields, without those that nothing is known of and with three digits of errors."""
        said = {n: float(f"{v:.3g}") if isinstance(v, float) else v for n, v in asdict(self).items()}
        return {f.name: said[f.name] for f in fields(self) if not _same(said[f.name], f)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Row:
        known = {f.name for f in fields(Row)}
        return Row(**{k: tuple(v) if k == "shares" else v for k, v in values.items() if k in known})

    @property
    def runs(self) -> bool:
        """Does the model itself run forward?"""
        return self.stage not in ("not built", "no forward")

    @property
    def captured(self) -> bool:
        return self.runs and self.stage != "not captured"

    @property
    def closed(self) -> bool:
        return self.stage == "closed"

    @property
    def explained(self) -> bool:
        """Is no node of the relevance path only approximated?"""
        return self.closed and self.shares[2] == 0


def _same(value: Any, field_: Field[Any]) -> bool:
    """Is it what a row has where nothing is known?"""
    default = field_.default_factory() if field_.default_factory is not MISSING else field_.default
    return bool(value == default) or (value != value and default != default)
