"""Saving: a relevance graph travels in one file, gives the same numbers to the bit, and no file can make anything
run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx import targets
from lrp_fx.file.container import write_parts
from lrp_fx.file.contents import FORMAT
from testing.architectures import BY_NAME
from testing.handmade import ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


class Tied(nn.Module):
    """Tied weights, a transposed one, a mask, sinusoids computed on the way, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.mix = nn.Parameter(torch.zeros(8, 8).t())
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        x = x + torch.sin(torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10 ** (torch.arange(8) / 8))
        scores = (x @ self.mix @ x.mT).masked_fill(attention_mask[:, None] == 0, float("-inf"))
        x = x + scores.softmax(-1) @ self.norm(x)
        return {"logits": self.head(x), "hidden": x}


def inputs(batch: int = 2, length: int = 6) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -2:] = 0
    return {"input_ids": ids(batch, length), "attention_mask": mask}


def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(ready(Tied()), conserve="site")


def same(ours: lrp_fx.Relevance, theirs: lrp_fx.Relevance) -> None:
    """To the bit: relevances, books, sites."""
    assert torch.equal(ours.score, theirs.score)
    for part in ("content", "learned", "segment"):
        a, b = getattr(ours, part), getattr(theirs, part)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), part
    assert [str(s.error) for s in ours.ledger.sites] == [str(s.error) for s in theirs.ledger.sites]
    assert ours.ledger.sinks.keys() == theirs.ledger.sinks.keys()
    assert all(torch.equal(ours.ledger.sinks[k], theirs.ledger.sinks[k]) for k in ours.ledger.sinks)
    assert [(p.name, p.kind, p.owners) for p in ours.position] == [(p.name, p.kind, p.owners) for p in theirs.position]
    assert all(torch.equal(p.relevance, q.relevance) for p, q in zip(ours.position, theirs.position, strict=True))
    assert all(torch.equal(a.depth, b.depth) for a, b in zip(ours.streams, theirs.streams, strict=True))


def test_there_and_back_to_the_bit_at_any_size(tmp_path: Path) -> None:
    explain = explainer()
    explain(**inputs())
    explain.save(tmp_path / "graph.lrp", targets=[None, targets.Class(0), targets.Contrast(1, 2)])
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    for batch, length in ((2, 6), (1, 4), (3, 9)):
        for target in (None, 3, targets.Class([1] * batch, position=0), targets.Contrast(4, 5)):
            given = inputs(batch, length)
            same(loaded(**given, target=target), explain(**given, target=target))
    assert (loaded.sites, loaded.coverage, loaded.ruleset) == (explain.sites, explain.coverage, explain.ruleset.name)
    given = inputs()
    assert torch.equal(loaded(**given).output["hidden"], explain(**given).output["hidden"])


class Wide(nn.Module):
    """Wide enough for kernels of vectors; one product reads tokens across memory, the last one a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.lower, self.head = (
            nn.Embedding(20, 32),
            nn.Linear(32, 32),
            nn.Conv1d(32, 8, 3),
            nn.Linear(8, 3),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = torch.tanh(self.mix(self.embed(input_ids)))
        return self.head(torch.tanh(self.lower(x.mT).mT))


def moved(model: nn.Module, offset: int) -> nn.Module:
    """The model with every parameter so many bytes into a block of 64 (a file mapped into memory puts them
    anywhere).
    """
    for parameter in model.parameters():
        block = torch.empty(parameter.nbytes + 128, dtype=torch.uint8)
        start = (offset - block.data_ptr()) % 64
        parameter.data = (
            block[start : start + parameter.nbytes].view(parameter.dtype).view(parameter.shape).copy_(parameter.data)
        )
    return model


@pytest.mark.parametrize("keep_output", [True, False])
@pytest.mark.parametrize(("offset", "frozen"), [(0, False), (8, False), (8, True)])
def test_to_the_bit_wherever_the_weights_are(offset: int, frozen: bool, keep_output: bool, tmp_path: Path) -> None:
    """Kernels round by where memory begins, and by whether a weight may be asked for a gradient. (And by how many rows
    they are given: what is made for the sizes of a first call may pick the row that counts earlier than a file does.)
    """
    model = moved(ready(Wide()), offset).requires_grad_(not frozen)
    explain = lrp_fx.convert(model, keep_output=keep_output, dynamic=True)
    theirs = {size: explain(input_ids=ids(*size), target=1) for size in ((1, 9), (2, 9), (2, 10))}
    explain.save(tmp_path / "whole.lrp")
    explain.save(tmp_path / "light.lrp", weights=False)
    safetensors.torch.save_file({"elsewhere": torch.ones(3), **model.state_dict()}, tmp_path / "model.safetensors")
    for loaded in (lrp_fx.load(tmp_path / "whole.lrp"), lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path)):
        for (batch, length), relevance in theirs.items():
            ours = loaded(input_ids=ids(batch, length), target=1)
            same(ours, relevance)
            assert not keep_output or torch.equal(ours.output, relevance.output)


@pytest.mark.parametrize(
    "name", ["llama", "swin", pytest.param("t5", marks=pytest.mark.slow), pytest.param("gpt2", marks=pytest.mark.slow)]
)
def test_models_of_the_library(name: str, tmp_path: Path) -> None:
    explain = lrp_fx.convert(BY_NAME[name].build("eager"))
    theirs = explain(**BY_NAME[name].inputs())
    explain.save(tmp_path / "graph.lrp")
    same(lrp_fx.load(tmp_path / "graph.lrp")(**BY_NAME[name].inputs()), theirs)


def test_it_runs_without_transformers_and_without_the_models_source(tmp_path: Path) -> None:
    explain = lrp_fx.convert(BY_NAME["llama"].build("sdpa"))
    given = BY_NAME["llama"].inputs()
    theirs = explain(**given)
    explain.save(tmp_path / "graph.lrp")
    torch.save({**given, "expected": theirs.content["input_ids"]}, tmp_path / "inputs.pt")
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "import torch, lrp_fx, warnings; warnings.simplefilter('ignore')\n"
        f"given = torch.load({str(tmp_path / 'inputs.pt')!r}); expected = given.pop('expected')\n"
        f"relevance = lrp_fx.load({str(tmp_path / 'graph.lrp')!r})(**given)\n"
        "assert torch.equal(relevance.content['input_ids'], expected)\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'transformers' and sys.modules[m] is not None]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_weights_may_stay_in_the_models_own_file(tmp_path: Path) -> None:
    explain = explainer()
    theirs = explain(**inputs())
    explain.save(tmp_path / "light.lrp", weights=False)
    explain.save(tmp_path / "whole.lrp")
    state = {
        n: t.detach().contiguous() for n, t in explain.model.state_dict().items() if n != "head.weight"
    }  # tied weights are stored once
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    same(lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "model.safetensors")(**inputs()), theirs)
    same(lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path)(**inputs()), theirs)
    safetensors.torch.save_file({f"model.{n}": t for n, t in state.items()}, tmp_path / "prefixed.safetensors")
    same(lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "prefixed.safetensors")(**inputs()), theirs)
    with zipfile.ZipFile(tmp_path / "light.lrp") as light, zipfile.ZipFile(tmp_path / "whole.lrp") as whole:
        assert light.getinfo("weights.safetensors").file_size < whole.getinfo("weights.safetensors").file_size
    with pytest.raises(lrp_fx.InputError, match="saved without weights"):
        lrp_fx.load(tmp_path / "light.lrp")
    with pytest.raises(lrp_fx.InputError, match="no safetensors file"):
        lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "nowhere.safetensors")
    safetensors.torch.save_file({**state, "mix": state["mix"] * 1.001}, tmp_path / "other.safetensors")
    with pytest.raises(lrp_fx.InputError, match=r"other numbers than those explained: mix"):
        lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "other.safetensors")
    del state["mix"]
    safetensors.torch.save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(lrp_fx.InputError, match="does not hold mix"):
        lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "part.safetensors")


def test_what_a_file_cannot_explain_is_refused(tmp_path: Path) -> None:
    explain = explainer()
    with pytest.raises(lrp_fx.InputError, match="nothing captured"):
        explain.save(tmp_path / "graph.lrp")
    explain(**inputs(), target=lambda output: output[:, 0, 0])
    with pytest.raises(lrp_fx.TargetError, match="holds no code"):
        explain.save(tmp_path / "graph.lrp")
    explain.save(tmp_path / "graph.lrp", targets=[1])
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    given = inputs()
    for wrong, message in (
        ({**given, "target": targets.Span([1, 2], start=0)}, "none of the targets"),
        ({**given, "target": 20}, "no such class"),
        ({"input_ids": given["input_ids"], "target": 1}, "made for input_ids, attention_mask"),
        ({**given, "input_ids": given["input_ids"].float(), "target": 1}, "must be torch.int64"),
        ({**given, "input_ids": given["input_ids"][0], "target": 1}, "must be torch.int64 of shape"),
        (
            {**given, "attention_mask": given["attention_mask"][:1], "target": 1},
            "axis 0 of attention_mask must be as long as axis 0 of input_ids: got 1 and 2",
        ),
    ):
        with pytest.raises((lrp_fx.InputError, lrp_fx.TargetError), match=message):
            loaded(**wrong)


class Deciding(nn.Module):
    """Counts its words in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).mean(1)
        return self.head(x if int(input_ids.sum()) % 2 else x * 2)  # type: ignore[no-any-return]


def test_the_record_of_one_call_holds_for_it_alone(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Deciding()))
    theirs = explain(input_ids=ids())
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    same(loaded(input_ids=ids()), theirs)
    with pytest.raises(lrp_fx.InputError, match="the record of one call"):
        loaded(input_ids=ids(seed=5))


# ------------------------------------------------------------------------------------------------ files that are not
# ours
def written(tmp_path: Path) -> Path:
    explain = explainer()
    explain(**inputs())
    explain.save(tmp_path / "graph.lrp")
    return tmp_path / "graph.lrp"


def changed(path: Path, change: Any) -> Path:
    """The file with its manifest changed on purpose: its checksums are right."""
    with zipfile.ZipFile(path) as file:
        manifest, blob = json.loads(file.read("manifest.json")), file.read("weights.safetensors")
    change(manifest)
    other = path.with_name("changed.lrp")
    write_parts(other, {"manifest.json": json.dumps(manifest).encode(), "weights.safetensors": blob})
    return other


def graph(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["graphs"][-1]
    return found


def guard(manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(g for g in manifest["guards"] if g["kind"] == kind)
    return found


def first_call(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(n for n in graph(manifest)["nodes"] if n["op"] == "call_function")


def placeholder(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(n for n in graph(manifest)["nodes"] if n["op"] == "placeholder")


CODE = "__import__('os').system('touch /tmp/owned')"
ATTACKS: dict[str, tuple[Any, str]] = {
    "another format": (lambda m: m.update(format=FORMAT + 1), "has format"),
    "no format": (lambda m: m.pop("format"), "has format None"),
    "a function of Python": (
        lambda m: first_call(m).update(target="os.system"),
        "only torch's own operators are allowed",
    ),
    "a builtin": (lambda m: first_call(m).update(target="builtins.eval"), "only torch's own operators are allowed"),
    "an attribute of torch.ops": (lambda m: first_call(m).update(target="aten.__class__.default"), "does not have"),
    "another library's operator": (
        lambda m: first_call(m).update(target="mylib.secret.default"),
        r"operators=\('mylib',\)",
    ),
    "an unknown overload": (lambda m: first_call(m).update(target="aten.add.nonsense"), "does not have"),
    "an operator that opens files": (lambda m: first_call(m).update(target="aten.from_file.default"), "opens files"),
    "an operator that changes its arguments": (
        lambda m: first_call(m).update(target="aten.add_.Tensor"),
        "changes its arguments",
    ),
    "a method": (lambda m: first_call(m).update(op="call_method", target="__reduce__"), "calls operations only"),
    "code as an argument's name": (lambda m: placeholder(m).update(target=f"x={CODE}"), "a name that is none"),
    "code as a node's name": (lambda m: first_call(m).update(name=f"x; {CODE}"), "a name that is none"),
    "code as a keyword": (
        lambda m: first_call(m).update(kwargs={"dict": [[f"x={CODE}, y", 1]]}),
        "a name that is none",
    ),
    "weights that begin between two numbers": (
        lambda m: next(iter(m["tensors"].values())).update(offset=7),
        "lie where no tensor begins",
    ),
    "weights that begin beyond a block": (
        lambda m: next(iter(m["tensors"].values())).update(offset=64),
        "lie where no tensor begins",
    ),
    "code as an output's size": (lambda m: guard(m, "sizes").update(output=[CODE]), "no expression of sizes"),
    "something of torch that is no type": (
        lambda m: first_call(m).update(args={"tuple": [{"torch": "load"}]}),
        "no type, layout or memory format",
    ),
    "a record of another kind": (
        lambda m: graph(m).update(signature={"record": "Popen", "fields": {}}),
        "unknown kind",
    ),
    "something else": (
        lambda m: first_call(m).update(args={"tuple": [{"pickle": "gASV"}]}),
        "no part of a relevance graph",
    ),
    "a value from nowhere": (
        lambda m: first_call(m).update(args={"tuple": [{"node": "nobody"}]}),
        "used before it is computed",
    ),
    "a missing tensor": (lambda m: m["tensors"].pop(next(iter(m["tensors"]))), "does not hold"),
    "sizes of other inputs": (lambda m: guard(m, "sizes")["axes"].update(input_ids=["s0"]), "is broken"),
    "a size of another kind": (lambda m: guard(m, "sizes")["axes"].update(input_ids=[["s0"], ["s1"]]), "is broken"),
    "code as a size": (lambda m: guard(m, "sizes")["axes"].update(input_ids=["s0", CODE]), "is broken"),
    "code as a condition": (lambda m: guard(m, "sizes")["conditions"].append(CODE), "is broken"),
    "an operator of the JIT alone": (
        lambda m: first_call(m).update(target="aten.manual_seed.default"),
        "is no operation on tensors",
    ),
    "a warning": (lambda m: first_call(m).update(target="aten.warn.default"), "is no operation on tensors"),
    "another family of torch's": (
        lambda m: first_call(m).update(target="prim.device.default"),
        "only torch's own operators are allowed",
    ),
    "a message to other processes": (
        lambda m: first_call(m).update(target="_c10d_functional.all_reduce.default"),
        "only torch's own operators are allowed",
    ),
    "keywords of two kinds": (
        lambda m: first_call(m).update(kwargs={"tuple": [], "dict": []}),
        "no part of a relevance graph",
    ),
    "keywords that are none": (lambda m: first_call(m).update(kwargs={"tuple": []}), "arguments that are none"),
    "arguments with names only": (lambda m: first_call(m).update(args={"dict": []}), "arguments that are none"),
    "a value of two kinds": (
        lambda m: first_call(m).update(args={"tuple": [{"float": "0", "node": "nobody"}]}),
        "no part of a relevance graph",
    ),
    "a record with more than its fields": (
        lambda m: graph(m)["signature"].update(more=1),
        "no part of a relevance graph",
    ),
    "two nodes of one name": (
        lambda m: graph(m)["nodes"].insert(1, dict(placeholder(m), target="other")),
        "two things of one name",
    ),
    "two arguments of one name": (
        lambda m: graph(m)["nodes"].insert(1, dict(placeholder(m), name="other")),
        "two things of one name",
    ),
    "a name that hides a builtin": (lambda m: first_call(m).update(name="len"), "a name that is none"),
    "a number that is none": (lambda m: first_call(m).update(args={"tuple": [{"float": 10**400}]}), "is broken"),
    "a missing part": (lambda m: m.pop("graphs"), "is broken"),
    "no graphs": (lambda m: m["graphs"].clear(), "no graph for some masks"),
    "no guards": (lambda m: graph(m)["guards"].clear(), "does not say which calls it serves"),
    "a guard twice": (lambda m: graph(m)["guards"].append(0), "does not say which calls it serves"),
    "a guard that is none": (lambda m: m["guards"][0].update(kind="os"), "a guard of an unknown kind, 'os'"),
    "sizes of fewer inputs": (lambda m: guard(m, "sizes")["axes"].popitem(), "sizes of other inputs"),
    "inputs that are none": (lambda m: guard(m, "tensors").update(inputs={"tuple": [1]}), "inputs that are none"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("saved"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_is_not_ours_is_refused_before_anything_runs(attack: str, file: Path) -> None:
    change, message = ATTACKS[attack]
    with pytest.raises(lrp_fx.InputError, match=message):
        lrp_fx.load(changed(file, change))


MASKS: dict[str, tuple[Any, str]] = {
    "an operator of Python": (
        lambda m: next(n for n in assumed(m)["nodes"] if n["op"] == "call_function").update(target="os.system"),
        "only torch's own operators",
    ),
    "patterns of no mask": (lambda m: assumed(m)["patterns"].clear(), "masks of which it does not say what they are"),
    "inputs without names": (lambda m: assumed(m)["inputs"].clear(), "masks of which it does not say what they are"),
    "inputs without types": (
        lambda m: assumed(m).update(types={"dict": []}),
        "masks of which it does not say what they are",
    ),
    "masks without axes": (lambda m: assumed(m)["axes"].clear(), "masks of which it does not say what they are"),
    "masks of other inputs": (
        lambda m: assumed(m)["inputs"].update(dict.fromkeys(assumed(m)["inputs"], "others")),
        "guards of other inputs",
    ),
    "no graphs for other masks": (lambda m: m["graphs"].pop(), "no graph for some masks"),
    "other targets for other masks": (
        lambda m: graph(m).update(target={"tuple": ["Class", {"tuple": []}]}),
        "no graph for some masks",
    ),
}


def assumed(manifest: dict[str, Any]) -> dict[str, Any]:
    return guard(manifest, "masks")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("decoder") / "graph.lrp"
    explain = lrp_fx.convert(BY_NAME["llama"].build("sdpa"))
    explain(**BY_NAME["llama"].inputs())
    explain.save(path)
    return path


@pytest.mark.parametrize("attack", MASKS)
def test_what_a_file_assumes_of_masks_is_checked(attack: str, decoder: Path) -> None:
    change, message = MASKS[attack]
    with pytest.raises(lrp_fx.InputError, match=message):
        lrp_fx.load(changed(decoder, change))


def test_files_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "pickled.pt")
    (tmp_path / "text.lrp").write_text("no archive")
    for path, message in (
        (tmp_path / "pickled.pt", "no relevance graph"),
        (tmp_path / "text.lrp", "no relevance graph"),
        (tmp_path / "none.lrp", "no file"),
    ):
        with pytest.raises(lrp_fx.InputError, match=message):
            lrp_fx.load(path)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(torch.tanh(self.embed(input_ids) * scale).mean(1))  # type: ignore[no-any-return]


def test_values_that_are_no_tensors_are_part_of_the_graph(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Scaled()))
    theirs = explain(input_ids=ids(), scale=0.5, target=1)
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    same(loaded(input_ids=ids(), scale=0.5, target=1), theirs)
    for wrong in ({}, {"scale": 2.0}, {"scale": 0.5, "scales": 1}):
        with pytest.raises(lrp_fx.InputError, match=r"made for scale=0\.5 beside its tensors; got"):
            loaded(input_ids=ids(), target=1, **wrong)


def test_autocast_is_not_applied_to_a_file(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Scaled()).float())
    theirs = explain(input_ids=ids(), target=1)
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    with torch.autocast("cpu", torch.bfloat16):
        same(loaded(input_ids=ids(), target=1), theirs)


def test_inputs_that_the_graph_cannot_be_computed_for(tmp_path: Path) -> None:
    with pytest.raises(lrp_fx.InputError, match="index out of range"):
        lrp_fx.load(written(tmp_path))(**{**inputs(), "input_ids": ids() + 20})


def test_fused_attention_stays_on_its_kind_of_device(tmp_path: Path) -> None:
    architecture = BY_NAME["bert"]
    explain = lrp_fx.convert(architecture.build("sdpa"))
    explain(**architecture.inputs(), target=1)
    explain.save(tmp_path / "graph.lrp")
    with pytest.raises(lrp_fx.InputError, match="fused attention of cpu, which meta does not have"):
        lrp_fx.load(tmp_path / "graph.lrp", device="meta")


def test_a_file_of_another_torch_is_read_with_a_warning(file: Path) -> None:
    with pytest.warns(UserWarning, match="made with torch 1.0.0"):
        lrp_fx.load(changed(file, lambda m: m["made_with"].update(torch="1.0.0")))


def test_damaged_files(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    start = whole.index(b"manifest.json") + 40
    (tmp_path / "damaged.lrp").write_bytes(whole[:start] + b"damaged" + whole[start + 7 :])
    for path in (tmp_path / "damaged.lrp", tmp_path):
        with pytest.raises(lrp_fx.InputError, match="no relevance graph"):
            lrp_fx.load(path)


def test_saving_while_others_explain(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Scaled()))
    explain(input_ids=ids(), target=0)
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(
                explain,
                input_ids=ids(1 + n % 3, 5),
                scale=1.0 + n % 4,
                target=targets.Contrast(n % 3, (n + 1) % 3) if n % 2 else n % 3,
            )
            for n in range(24)
        ]
        saves = [pool.submit(explain.save, tmp_path / f"{n}.lrp") for n in range(8)]
        for done in (*calls, *saves):
            done.result()
    for n in range(8):
        loaded = lrp_fx.load(tmp_path / f"{n}.lrp")
        given: dict[str, Any] = {"input_ids": ids(), **{name: float(value) for name, value in loaded.plain.items()}}
        for kind in loaded.targets:
            goal = {"Class": 1, "Contrast": targets.Contrast(0, 1)}[kind[0]]
            same(loaded(**given, target=goal), explain(**given, target=goal))


class Builtin(nn.Module):
    """Arguments that are called like functions of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input: Tensor, max: Tensor) -> Tensor:
        return self.head((self.embed(input) * max.unsqueeze(-1)).sum(1))  # type: ignore[no-any-return]


def test_arguments_may_have_names_of_python(tmp_path: Path) -> None:
    explain = lrp_fx.convert(ready(Builtin()))
    given = {"input": ids(), "max": torch.rand(ids().shape, dtype=torch.float64)}
    theirs = explain(**given)
    explain.save(tmp_path / "graph.lrp")
    same(lrp_fx.load(tmp_path / "graph.lrp")(**given), theirs)


def reordered(manifest: dict[str, Any]) -> None:
    """An argument after a value that has its name, which it would hide."""
    nodes = graph(manifest)["nodes"]
    nodes.insert(
        nodes.index(first_call(manifest)) + 1,
        dict(placeholder(manifest), name="other", target=first_call(manifest)["name"]),
    )


def test_an_argument_hides_no_value(file: Path) -> None:
    with pytest.raises(lrp_fx.InputError, match="two things of one name"):
        lrp_fx.load(changed(file, reordered))


def test_weights_in_no_file_of_weights(tmp_path: Path) -> None:
    explain = explainer()
    explain(**inputs())
    explain.save(tmp_path / "light.lrp", weights=False)
    for content in (b"no weights", b"", b"\xff" * 100):
        (tmp_path / "model.safetensors").write_bytes(content)
        for given in (tmp_path / "model.safetensors", tmp_path):
            with pytest.raises(lrp_fx.InputError, match=r"model\.safetensors cannot be read as safetensors"):
                lrp_fx.load(tmp_path / "light.lrp", weights=given)


def test_weights_of_the_same_bytes_but_another_shape_or_type(tmp_path: Path) -> None:
    explain = explainer()
    explain(**inputs())
    explain.save(tmp_path / "light.lrp", weights=False)
    state = {n: t.detach().contiguous() for n, t in explain.model.state_dict().items() if n != "head.weight"}
    for mix, message in (
        (
            state["mix"].reshape(4, 16),
            r"mix is float64 of shape \(4, 16\), the one explained was float64 of shape \(8, 8\)",
        ),
        (
            state["mix"].view(torch.int64),
            r"mix is int64 of shape \(8, 8\), the one explained was float64 of shape \(8, 8\)",
        ),
    ):
        safetensors.torch.save_file({**state, "mix": mix}, tmp_path / "model.safetensors")
        with pytest.raises(lrp_fx.InputError, match=message):
            lrp_fx.load(tmp_path / "light.lrp", weights=tmp_path / "model.safetensors")
