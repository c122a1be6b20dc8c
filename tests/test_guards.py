"""Guards: one way to ask whether a graph serves a call, in an explainer and from a file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.file.read import ManifestReader
from lrp_fx.file.write import ManifestWriter
from lrp_fx.guards.guard import Arguments, Guard, refusal
from lrp_fx.guards.inputs import DeviceGuard, PlainGuard, TensorGuard, ValueGuard
from lrp_fx.guards.kinds import KINDS, decode_guard, encode_guard
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.guards.sizes import SizeGuard, Sizes
from lrp_fx.ir.program import Input
from testing.architectures import BY_NAME
from testing.handmade import Small, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


def call(**bound: Any) -> Arguments:
    roles = {"words": "content", "mask": "mask"}
    return Arguments(bound, {n: roles[n] for n, v in bound.items() if isinstance(v, Tensor)})


def written_and_read(guard: Guard) -> Guard:
    """The guard after it was in a file."""
    writer = ManifestWriter()
    text = json.dumps(encode_guard(guard, writer))
    families = frozenset(("aten",))
    return decode_guard(json.loads(text), ManifestReader(writer.weights | writer.values, torch.device("cpu"), families))


def mask_guard() -> MaskGuard:
    """Of a window of three tokens that is only causal up to there, and of a mask of ones."""

    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

        def forward(self, words: Tensor, mask: Tensor) -> Tensor:
            x, place = self.embed(words)[:, None], torch.arange(words.shape[1])
            behind = place[:, None] - place
            seen = (behind >= 0) & (behind < 20) & (mask[:, None, None] != 0)
            return self.head(nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=seen)[:, 0].mean(1))

    explain = lrp_fx.convert(ready(Windowed()))
    explain(words=ids(), mask=torch.ones_like(ids()))
    (found,) = [g for g in explain._compiler.current.guards if isinstance(g, MaskGuard)]  # type: ignore[union-attr]
    return found


WORDS = Input("words", "content", torch.int64, (2, 6), (False, True))
SIZES = Sizes({"words": ("s0", "s1")}, ("s1 < 9",), ("s0", "3"))
ONES = torch.ones(2, 6, dtype=torch.int64)
#: Kind -> a guard, a call that it admits, and calls that it refuses with the words of the refusal.
CASES: dict[str, tuple[Any, Arguments, list[tuple[Arguments, str]]]] = {
    "tensors": (
        lambda: TensorGuard((WORDS,)),
        call(words=ids()),
        [
            (call(mask=ONES), "this graph was made for words; got mask"),
            (call(), "this graph was made for words; got no tensor"),
            (call(words=ids().float()), "words must be torch.int64 of shape (2, any); got torch.float32 (2, 6)"),
            (call(words=ids(3)), "words must be torch.int64 of shape (2, any); got torch.int64 (3, 6)"),
        ],
    ),
    "plain": (
        lambda: PlainGuard({"scale": "0.5"}),
        call(scale=0.5, other=None),
        [
            (call(), "this graph was made for scale=0.5 beside its tensors; got no other values"),
            (call(scale=2), "this graph was made for scale=0.5 beside its tensors; got scale=2"),
        ],
    ),
    "sizes": (
        lambda: SizeGuard(lambda: SIZES, {frozenset({"s1"}): True, frozenset({"s0"}): False}),
        call(words=ids(2, 1)),
        [
            (call(words=ids(2, 9)), "this graph does not hold for these sizes: made for sizes with words.shape[1] < 9"),
            (
                call(words=ids(1, 1)),
                "nobody has compared this graph with the model where words.shape[0], words.shape[1] is 1: explain such "
                "an input before saving it",
            ),
        ],
    ),
    "values": (
        lambda: ValueGuard({"words": ids()}),
        call(words=ids()),
        [
            (
                call(words=ids(seed=4)),
                "this graph is the record of one call and holds for its values only; other values were given for words",
            )
        ],
    ),
    "masks": (
        mask_guard,
        call(words=ids(2, 20), mask=torch.ones(2, 20, dtype=torch.int64)),
        [
            (
                call(words=ids(), mask=torch.tril(ONES)),
                "this graph does without masks: it is for calls in which mask holds 1 everywhere",
            ),
            (
                call(words=ids(2, 21), mask=torch.ones(2, 21, dtype=torch.int64)),
                "this graph does without masks, which say something for these sizes",
            ),
        ],
    ),
    "device": (
        lambda: DeviceGuard("cpu", fused=True),
        call(words=ids()),
        [
            (
                call(words=ids().to("meta")),
                "this graph calls the fused attention of cpu, which meta does not have: explain the model on meta and "
                "save it there",
            )
        ],
    ),
}


def test_every_kind_has_a_case() -> None:
    assert CASES.keys() == KINDS.keys()
    assert set(KINDS.values()) == set(Guard.__subclasses__()), "what is not listed cannot be read from a file"


@pytest.mark.parametrize("kind", CASES)
def test_a_guard_says_the_same_from_a_file(kind: str) -> None:
    make, admitted, refused = CASES[kind]
    guard = make()
    for same in (guard, written_and_read(guard)):
        assert type(same) is KINDS[kind]
        assert same.refusal(admitted) is None
        assert [same.refusal(other) for other, _ in refused] == [words for _, words in refused]


def test_the_model_is_asked_once_for_sizes_of_one() -> None:
    asked: list[Arguments] = []
    guard = SizeGuard(lambda: SIZES, compare=lambda given: bool(asked.append(given)) or given.shapes["words"][0] == 1)
    alone, short = call(words=ids(1, 6)), call(words=ids(2, 1))
    assert [guard.refusal(c) is None for c in (alone, alone, short, short)] == [True, True, False, False]
    assert asked == [alone, short]
    assert guard.refusal(short) == "the model computes something else than this graph where words.shape[1] is 1"
    read = written_and_read(guard)
    assert read.refusal(alone) is None and "nobody has compared" in str(read.refusal(short)), "a file has no model"


def test_the_first_refusal_counts() -> None:
    guards = (PlainGuard({}), TensorGuard((WORDS,)), SizeGuard(lambda: SIZES))
    assert refusal(guards, call(words=ids())) is None
    assert "beside its tensors" in str(refusal(guards, call(mask=ONES, scale=1)))
    assert "got mask" in str(refusal(guards, call(mask=ONES))), "sizes are not asked of tensors that are not there"


def kinds(guards: tuple[Guard, ...]) -> list[str]:
    return [guard.kind for guard in guards]


def test_a_file_has_the_guards_of_the_explainer(tmp_path: Path) -> None:
    """One list for a graph: in the same order, and shared by the graphs of one capture."""
    architecture = BY_NAME["llama"]
    explain = lrp_fx.convert(architecture.build("sdpa"))
    explain(**architecture.inputs())
    explain.save(tmp_path / "graph.lrp", targets=[None, lrp_fx.targets.Contrast(0, 1)])
    entries = [kept.entry for kept in explain._compiler.entries]
    live = {tuple(kinds(built.guards)) for entry in entries for built in entry.graphs.values()}
    saved = lrp_fx.load(tmp_path / "graph.lrp")._graphs
    assert len(saved) == 4, "two targets, with masks and without"
    assert live <= {tuple(kinds(executable.guards)) for _, executable in saved}
    assert {tuple(kinds(e.guards)) for _, e in saved} == {
        ("plain", "tensors", "sizes", "device"),
        ("plain", "tensors", "sizes", "masks", "device"),
    }
    with zipfile.ZipFile(tmp_path / "graph.lrp") as file:
        manifest = json.loads(file.read("manifest.json"))
    assert sorted(g["kind"] for g in manifest["guards"]) == sorted(["plain", "tensors", "sizes", "masks", "device"])


def test_several_targets_from_a_file(tmp_path: Path) -> None:
    """As with the explainer: targets of one kind run together."""
    explain = lrp_fx.convert(ready(Small()))
    goals = [0, lrp_fx.targets.Contrast(1, 2), 2]
    theirs = explain(input_ids=ids(), targets=goals)
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    ours = loaded(input_ids=ids(), targets=goals)
    assert [str(r.target) for r in ours] == [str(r.target) for r in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert torch.equal(our.score, their.score)
        assert torch.equal(our.content["input_ids"], their.content["input_ids"])
    with pytest.raises(lrp_fx.InputError, match="not both"):
        loaded(input_ids=ids(), target=0, targets=[1])


def test_a_graph_of_autocast_is_the_same_outside_of_it(tmp_path: Path) -> None:
    """The casts are part of the graph: live, from a file, inside of a region and outside the bits are the same."""
    explain = lrp_fx.convert(ready(Small()).float(), conserve="off")
    with torch.autocast("cpu", torch.bfloat16):
        theirs = explain(input_ids=ids(), target=1)
        explain.save(tmp_path / "graph.lrp")
        inside = lrp_fx.load(tmp_path / "graph.lrp")(input_ids=ids(), target=1)
    outside = lrp_fx.load(tmp_path / "graph.lrp")(input_ids=ids(), target=1)
    assert theirs.output.dtype == torch.bfloat16
    for ours in (inside, outside):
        assert torch.equal(ours.output, theirs.output)
        assert torch.equal(ours.content["input_ids"], theirs.content["input_ids"])


@pytest.mark.parametrize(
    ("found", "step"),
    [(4, "save it again from the model"), (6, "save it again from the model"), (8, "load it with the version")],
)
def test_other_formats_are_refused_with_the_next_step(found: int, step: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "graph.lrp", "w") as file:
        file.writestr("manifest.json", json.dumps({"format": found}))
        file.writestr("weights.safetensors", b"")
    with pytest.raises(lrp_fx.InputError, match=f"has format {found}, this version of lrp_fx reads format 7: {step}"):
        lrp_fx.load(tmp_path / "graph.lrp")
