"""Does the preset `attnlrp` compute what lxt computes? ``python -m benchmarks agreement [MODEL ...] [--length N]``."""

from __future__ import annotations

import argparse
import warnings

from torch import Tensor

import lrp_fx
from benchmarks.page import Command
from benchmarks.speed.contenders import Unavailable, lxt
from benchmarks.speed.models import MODELS


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks agreement", description=__doc__)
    parser.add_argument("models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--length", type=int, default=128)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    print("| model | largest difference, of the largest relevance |\n|---|---|")
    for name in options.models:
        timed = MODELS[name]
        model, inputs = timed.build(), timed.inputs(options.length if timed.words else timed.lengths[0], 1)
        try:
            theirs = lxt(timed, model)(inputs)
        except Unavailable as error:
            print(f"| {name} | {error} |", flush=True)
            continue
        ours = lrp_fx.convert(model, rules="attnlrp")(**inputs).content["input_ids"]
        assert isinstance(theirs, Tensor)
        print(f"| {name} | {float((ours - theirs).abs().max() / theirs.abs().max()):.1e} |", flush=True)


BENCHMARK = Command("agreement", "Does the preset `attnlrp` compute what lxt computes?", main)
