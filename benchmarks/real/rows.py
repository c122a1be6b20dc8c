"""Rows: what was measured of each model, kept in a file, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import lrp_fx
from benchmarks.history import TreeError, measured_in
from benchmarks.page import ROOT
from benchmarks.real.shipped import SHIPPED

MODULE = "benchmarks.real.measure"
#: Numbers of tokens that costs are measured for, as far as the model takes them; one where it has no tokens.
LENGTHS = {
    **dict.fromkeys(("smollm2", "gemma3"), (16, 128, 512, 2048)),
    **dict.fromkeys(("minilm", "rxnmapper", "antiberty"), (16, 128, 512)),
    "whisper": (16, 128),
    "fracast": (2048,),
    "efficientnet": (1,),
}
Job = tuple[str, ...]
KINDS = ("sense", "books", "costs", "memory")


def versions(name: str) -> dict[str, str]:
    """What a measurement of a model was made with."""
    import transformers

    return {
        "packages": ", ".join(SHIPPED[name].packages),
        "lrp_fx": lrp_fx.__version__,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def jobs(name: str) -> list[Job]:
    """All that is measured of a model, in order."""
    lengths = [str(n) for n in LENGTHS[name]]
    return [
        ("sense",),
        ("books",),
        *(("costs", n) for n in lengths),
        *(("memory", whom, n) for n in lengths for whom in ("gradient", "lrp_fx")),
    ]


@dataclass
class Rows:
    """What was found, by model and job; a failure is a row with the error's last line. file: where rows are kept."""

    file: Path | None = None
    found: dict[tuple[str, Job], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path | None) -> Rows:
        """Those of a file that were measured with the versions that are here."""
        rows = cls(file)
        for line in file.read_text().splitlines() if file and file.exists() else ():
            row = json.loads(line)
            if row["model"] in SHIPPED and row["versions"] == versions(row["model"]):
                rows.found[row["model"], tuple(row["job"])] = row
        return rows

    def get(self, name: str, *job: str) -> Any:
        """What a job gave; None where it was not done, or failed."""
        return self.found.get((name, job), {}).get("found")

    def complete(self, name: str) -> bool:
        """Was all measured of a model, and did nothing fail?"""
        return all(self.get(name, *job) is not None for job in jobs(name))

    def missing(self, name: str) -> list[str]:
        """Jobs of a model that were not done."""
        return [" ".join(job) for job in jobs(name) if (name, job) not in self.found]

    def failures(self, name: str) -> list[str]:
        """Jobs of a model that failed, and why."""
        return [f"{' '.join(j)}: {r['failed']}" for (n, j), r in self.found.items() if n == name and "failed" in r]

    def measure(self, names: list[str], kinds: Sequence[str] = KINDS) -> Iterator[None]:
        """Measure what is not there yet of these kinds, one model after the other, each job in a fresh process."""
        for name in names:
            for job in jobs(name):
                if job[0] in kinds and (name, job) not in self.found:
                    self._add(name, job)
                    yield

    def _add(self, name: str, job: Job) -> None:
        row: dict[str, Any] = {"model": name, "job": job, "versions": versions(name)}
        try:
            row["found"] = measured_in(ROOT, MODULE, job[0], name, *job[1:])
        except TreeError as error:
            row["failed"] = str(error)[:200]
        self.found[name, job] = row
        print(name, *job, str(row.get("found", row.get("failed")))[:150], sep=" | ", flush=True)
        if self.file:
            with self.file.open("a") as file:
                print(json.dumps(row), file=file)
