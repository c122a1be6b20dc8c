"""``evaluate``: how well explanations of many texts fit what the model does with them."""

from __future__ import annotations

import json as jsons
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_fx.cli.checks import STDIN, STDOUT, Refusal
from lrp_fx.cli.records import write_table
from lrp_fx.datasets.values import whole_number
from lrp_fx.evaluation import Evaluation, evaluate
from lrp_fx.evaluation.metric import chosen
from lrp_fx.preprocess.open import load_model, load_processor, load_tokenizer
from lrp_fx.runtime.convert import convert

_TEXT = ("text", "sentence", "prompt")


@dataclass(frozen=True)
class Measured:
    """What the command line asks to be measured, and where it is to be written."""

    metrics: str
    fill: str
    against: tuple[str, ...]
    target: str | None
    count: int | None
    seed: int
    json: bool
    csv: Path | None


def run_evaluate(name: str, data: Path, asked: Measured, *, rules: str, dtype: str) -> None:
    """Measure, print and write."""
    metrics = chosen(m.strip() for m in asked.metrics.split(",") if m.strip())
    texts, targets = read_data(data, asked.count)
    model = load_model(name, dtype)
    explainer = convert(model, tokenizer=load_tokenizer(name), processor=load_processor(name), rules=rules)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that parts of one picture cancel is no news in a mean over many
        found = evaluate(
            explainer,
            texts,
            metrics,
            fill=int(asked.fill) if asked.fill.isdecimal() else asked.fill,
            against=list(asked.against),
            targets=_targets(asked.target, targets),
            seed=asked.seed,
        )
    if asked.csv is not None:
        _write_values(found, asked.csv)
    if asked.json:
        print(jsons.dumps({"model": name, **found.to_dict()}, ensure_ascii=False, indent=1))
    elif str(asked.csv) != STDOUT:
        print(found)


def _targets(given: str | None, read: list[Any]) -> Any:
    """One target for all, those of the data, or None."""
    if given is not None:
        number = whole_number(given)
        return given if number is None else number
    return read if any(t is not None for t in read) else None


def read_data(path: Path, count: int | None) -> tuple[list[Any], list[Any]]:
    """Texts and their targets (None where none is given), of JSON by the line or of plain lines.

    A line of JSON is a text, or an object with ``text`` (or ``sentence``, ``prompt``), ``input_ids``, or ``image`` (a
    file, looked for beside the data where its name is relative); ``target`` says what is explained. (``label`` does
    not: it is what is true, and what the model says is explained.)
    """
    lines = sys.stdin.read().splitlines() if str(path) == STDIN else path.read_text(encoding="utf-8").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:count]
    if not numbered:
        raise Refusal(f"{path} holds no text")
    as_json = path.suffix in (".jsonl", ".json", ".ndjson") or all(line.lstrip()[:1] == "{" for _, line in numbered)
    rows = [_row(path, number, line) if as_json else (line, None) for number, line in numbered]
    return [text for text, _ in rows], [target for _, target in rows]


def _row(path: Path, number: int, line: str) -> tuple[Any, Any]:
    try:
        found = jsons.loads(line)
    except jsons.JSONDecodeError as error:
        raise Refusal(f"{path}, line {number}: not JSON ({error.msg})") from None
    if isinstance(found, str):
        return found, None
    if not isinstance(found, dict):
        raise Refusal(f"{path}, line {number}: a text, or an object with a text, is needed")
    target = found.get("target")
    for key in _TEXT:
        if isinstance(found.get(key), str):
            return found[key], target
    if isinstance(found.get("input_ids"), list):
        return {"input_ids": [found["input_ids"]]}, target
    if isinstance(found.get("image"), str):
        image = path.parent / found["image"]
        if not image.is_file():
            raise Refusal(f"{path}, line {number}: there is no file {image}")
        return image, target
    known = f"{', '.join(_TEXT)}, input_ids or image"
    raise Refusal(f"{path}, line {number}: no {known}, there are {', '.join(found) or 'none'}")


def _write_values(found: Evaluation, path: Path) -> None:
    """Every value: example, target, ranking, metric, value."""
    rows = [
        (number, found.targets[number], label, name, float(value))
        for label, row in found.values.items()
        for name, values in row.items()
        for number, value in enumerate(values)
    ]
    write_table(path, ("example", "target", "ranking", "metric", "value"), rows)
    if str(path) != STDOUT:
        print(f"wrote {path}", file=sys.stderr)
