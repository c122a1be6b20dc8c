"""Models without weights: converted, bound later, and explained as if they had had them from the start; offloading."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.arange(3, 27).view(2, 12)


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.maps, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        q, k, v = self.maps(self.norm(x)).chunk(3, -1)
        scores = (q @ k.transpose(-1, -2)).masked_fill(hidden, float("-inf"))
        return x + self.out(scores.softmax(-1) @ v)


class Small(nn.Module):
    """A decoder with what makes trouble: a tied head, buffers that files hold and that they do not, a scalar."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(2))
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(1.5))
        self.register_buffer("places", torch.linspace(-1, 1, 64).unsqueeze(1).expand(-1, width).clone())
        self.register_buffer("causal", torch.ones(64, 64).triu(1).bool(), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        x = self.embed(input_ids) * self.scale + self.places[:length]
        for layer in self.layers:
            x = layer(x, self.causal[:length, :length])
        return self.head(x)


def made() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def empty() -> Small:
    with lrp_fx.parameters_on_meta():
        return Small().eval()


def state(model: nn.Module) -> dict[str, Tensor]:
    """What a file holds: a tensor once."""
    return {n: t.clone() for n, t in model.state_dict().items() if n != "head.weight"}


def shards(model: nn.Module, folder: Path) -> Path:
    """Two files and their index."""
    held = state(model)
    parts = (dict(list(held.items())[:5]), dict(list(held.items())[5:]))
    for number, part in enumerate(parts):
        safetensors.torch.save_file(part, folder / f"model-{number}.safetensors")
    index = {name: f"model-{number}.safetensors" for number, part in enumerate(parts) for name in part}
    place = folder / "model.safetensors.index.json"
    place.write_text(json.dumps({"weight_map": index}))
    return place


def same(a: lrp_fx.Relevance, b: lrp_fx.Relevance) -> bool:
    """To the bit?"""
    found = [(x.tokens, x.score, x.output, *x.content.values()) for x in (a, b)]
    return all(torch.equal(x, y) for x, y in zip(*found, strict=True))


SOURCES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "index": shards,
    "folder": lambda model, folder: shards(model, folder).parent,
    "state dict": lambda model, folder: model.state_dict(),
}


# ------------------------------------------------------------------------------------------------ right weights
@pytest.mark.parametrize(
    "source", [pytest.param(s, id=n, marks=[pytest.mark.slow] * (n == "index")) for n, s in SOURCES.items()]
)
def test_relevance_is_that_of_the_model_with_its_weights(
    source: Callable[[nn.Module, Path], Any], tmp_path: Path, quiet: None
) -> None:
    real, meta = made(), empty()
    explain = lrp_fx.convert(meta, {"input_ids": IDS})
    assert explain.statistics.captures == 1 and explain.relevance_graph is not None
    explain.bind(source(real, tmp_path))
    assert same(explain(input_ids=IDS), lrp_fx.convert(real)(input_ids=IDS))
    assert all(p.is_meta for p in meta.parameters())  # it was not modified
    assert explain.model.head.weight is explain.model.embed.weight  # type: ignore[union-attr]


def test_buffers_have_the_numbers_of_the_file_and_the_others_their_own(tmp_path: Path, quiet: None) -> None:
    real = made()
    real.scale.fill_(0.7)
    meta = empty()
    explain = lrp_fx.convert(meta)
    explain.bind(shards(real, tmp_path))
    assert float(explain.model.scale) == pytest.approx(0.7) and float(meta.scale) == 1.5  # type: ignore[arg-type]
    assert same(explain(input_ids=IDS), lrp_fx.convert(real)(input_ids=IDS))


def test_what_was_captured_without_weights_is_used_when_they_come(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = lrp_fx.convert(empty(), {"input_ids": IDS})
    explain.bind(made().state_dict())
    monkeypatch.setattr("lrp_fx.capture.ladder.export", lambda *args, **others: pytest.fail("it was traced again"))
    explain(input_ids=IDS)


class Turned(Small):
    """What it computes depends on whether it is traced: shapes do not tell."""

    def forward(self, input_ids: Tensor) -> Tensor:
        found = super().forward(input_ids)
        return found if torch.compiler.is_compiling() else found * 2


@pytest.mark.slow
def test_a_capture_that_is_not_right_for_the_weights_is_not_used(quiet: None) -> None:
    """It was right on abstract values; compared with the model it is not, and the model cannot be captured."""
    with lrp_fx.parameters_on_meta():
        model = Turned().eval()
    explain = lrp_fx.convert(model, {"input_ids": IDS})
    explain.bind(made().state_dict())
    with pytest.raises(lrp_fx.CaptureError, match="differs from the model"):
        explain(input_ids=IDS)


def test_copies_of_an_explainer_wait_for_weights_too(quiet: None) -> None:
    explain = copy.deepcopy(lrp_fx.convert(empty()))
    with pytest.raises(lrp_fx.InputError, match="no weights yet"):
        explain(input_ids=IDS)
    explain.bind(made().state_dict())
    assert same(explain(input_ids=IDS), lrp_fx.convert(made())(input_ids=IDS))


@pytest.mark.slow
def test_a_folder_of_a_model_is_opened_without_its_weights(quiet: None) -> None:
    folder = Path(__file__).parents[1] / "examples" / "models" / "stories260k"
    ids = torch.arange(5, 17).view(1, 12)
    explain = lrp_fx.convert(folder, weights=False)
    explain.bind()
    assert torch.equal(explain(input_ids=ids).tokens, lrp_fx.convert(folder)(input_ids=ids).tokens)


def test_weights_of_a_narrower_type_become_the_models(quiet: None) -> None:
    narrow = made().bfloat16()
    explain = lrp_fx.convert(empty())
    explain.bind(narrow.state_dict())
    assert torch.equal(explain.model.head.weight, narrow.head.weight.float())  # type: ignore[union-attr, arg-type]


# ------------------------------------------------------------------------------------------------ refusals
def without(held: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {n: t for n, t in held.items() if n != name}


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda held: without(held, "embed.weight"), "do not hold embed.weight\n    next: the names"),
    "renamed": (
        lambda held: {f"model.{n}": t for n, t in held.items()},
        "do not hold embed.weight.*; it holds model.*, which the model does not have",
    ),
    "unexpected": (lambda held: {**held, "more": torch.zeros(1)}, "hold more, which .*\n    next: bind.*strict=False"),
    "shape": (
        lambda held: {**held, "embed.weight": torch.zeros(50, 8)},
        r"other shapes: embed.weight \(50, 8\), and the model's is \(50, 32\)",
    ),
    "type": (
        lambda held: {**held, "embed.weight": held["embed.weight"].double()},
        "embed.weight is torch.float64, and the model's torch.float32",
    ),
    "not finite": (
        lambda held: {**held, "embed.weight": torch.full((50, 32), float("nan"))},
        "not finite: embed.weight",
    ),
    "meta": (lambda held: {n: t.to("meta") for n, t in held.items()}, "no numbers to bind"),
    "no file": (lambda held: "no/such/folder", "no safetensors file at no/such/folder\n    next: give"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_wrong_weights_are_refused_by_name(change: Callable[[dict[str, Tensor]], Any], says: str, quiet: None) -> None:
    explain = lrp_fx.convert(empty())
    with pytest.raises(lrp_fx.InputError, match=says):
        explain.bind(change(state(made())))
    with pytest.raises(lrp_fx.InputError, match="no weights yet"):
        explain(input_ids=IDS)
    explain.bind({**state(made()), "more": torch.zeros(1)}, strict=False)


def test_broken_files_and_indices_are_refused(tmp_path: Path, quiet: None) -> None:
    explain, index = lrp_fx.convert(empty()), shards(made(), tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(lrp_fx.InputError, match="names model-1.safetensors, and there is no such file"):
        explain.bind(tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0 nothing")
    with pytest.raises(lrp_fx.InputError, match="cannot be read as safetensors"):
        explain.bind(index)
    index.write_text('{"weight_map": {"embed.weight": "../model-0.safetensors"}}')
    with pytest.raises(lrp_fx.InputError, match="which is no file beside it"):
        explain.bind(index)
    index.write_text("[]")
    with pytest.raises(lrp_fx.InputError, match="is no index"):
        explain.bind(index)


def test_what_needs_weights_says_so(quiet: None, tmp_path: Path) -> None:
    explain = lrp_fx.convert(empty(), {"input_ids": IDS})
    for ask in (
        lambda: explain(input_ids=IDS),
        lambda: explain.save(tmp_path / "graph.lrp"),
        lambda: explain.parameters({"input_ids": IDS}),
        lambda: explain.patched(input_ids=IDS, values={"residual": 0.0}),
        lambda: explain.verify(input_ids=IDS),
        lambda: list(explain.map([{"input_ids": [1, 2, 3]}])),
    ):
        with pytest.raises(lrp_fx.InputError, match=r"no weights yet.*\n    next: explainer.bind\(folder\)"):
            ask()
    with pytest.raises(lrp_fx.InputError, match="the model has its weights"):
        lrp_fx.convert(made()).bind(made().state_dict())
    with pytest.raises(lrp_fx.InputError, match="weights=False leaves the weights of a folder"):
        lrp_fx.convert(made(), weights=False)


def test_buffers_that_no_file_holds_are_refused_by_name() -> None:
    with pytest.raises(lrp_fx.InputError, match=r"causal on the meta device.*\n.*lrp_fx.parameters_on_meta\(\)"):
        lrp_fx.convert(empty().to("meta"))


class Deciding(Small):
    def forward(self, input_ids: Tensor) -> Tensor:
        found = super().forward(input_ids)
        return found if bool(found.sum() > 0) else -found


@pytest.mark.slow
def test_a_model_that_decides_by_numbers_needs_them(quiet: None) -> None:
    with lrp_fx.parameters_on_meta():
        model = Deciding().eval()
    explain = lrp_fx.convert(model)
    with pytest.raises(lrp_fx.LrpError, match="bind"):
        explain.trace(input_ids=IDS)
    explain.bind(made().state_dict())
    explain(input_ids=IDS)


# ------------------------------------------------------------------------------------------------ offloading
class Hook:
    """What accelerate's hooks are, as far as it is asked for: where a module's weights are, by name."""

    def __init__(self, weights_map: dict[str, Tensor]) -> None:
        self.weights_map = weights_map


def offload(model: nn.Module, modules: tuple[str, ...]) -> nn.Module:
    """As `accelerate.dispatch_model` does: parameters of these modules are fetched when they run, and let go."""
    for path in modules:
        module = model.get_submodule(path)
        held = {n: p.detach() for n, p in module._parameters.items() if p is not None}
        original = module.forward

        def forward(*args: Any, _module: Any = module, _held: Any = held, _own: Any = original, **kwargs: Any) -> Any:
            _module._parameters.update({n: nn.Parameter(t) for n, t in _held.items()})
            try:
                return _own(*args, **kwargs)
            finally:
                _module._parameters.update({n: nn.Parameter(t.to("meta")) for n, t in _held.items()})

        vars(module).update(_hf_hook=Hook(held), _old_forward=original, forward=forward)
        module._parameters.update({n: nn.Parameter(t.to("meta")) for n, t in held.items()})
    return model


def test_an_offloaded_model_is_explained_as_it_was_before(quiet: None) -> None:
    before = lrp_fx.convert(made())(input_ids=IDS)
    model = offload(made(), ("layers.0.maps", "layers.1.norm", "head"))
    explain = lrp_fx.convert(model)
    assert same(explain(input_ids=IDS), before)
    assert model.layers[0].maps.weight.is_meta  # type: ignore[union-attr, index]
    assert explain.model.embed.weight is model.embed.weight  # type: ignore[union-attr]
    assert torch.equal(model(IDS), made()(IDS))
    with pytest.warns(UserWarning, match=r"the weights are offloaded.*\n    next:"):
        lrp_fx.convert(model)


def test_what_no_hook_fetches_is_refused_by_name(quiet: None) -> None:
    model = offload(made(), ("layers.0.maps",))
    model.layers[0].out.to("meta")  # type: ignore[union-attr, index, operator]
    with pytest.raises(lrp_fx.InputError, match="layers.0.out.weight is on the meta device, and no hook"):
        lrp_fx.convert(model)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["forced hooks", "cpu", "disk", "mixed"])
def test_models_that_accelerate_has_dispatched(how: str, tmp_path: Path, quiet: None) -> None:
    accelerate = pytest.importorskip("accelerate")
    before, model, cpu = lrp_fx.convert(made())(input_ids=IDS), made(), torch.device("cpu")
    if how == "forced hooks":
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    elif how == "cpu":
        accelerate.cpu_offload(model, execution_device=cpu)
    elif how == "disk":
        accelerate.disk_offload(model, str(tmp_path), execution_device=cpu)
    else:
        places = {"embed": "cpu", "layers.0": "disk", "layers.1": "cpu", "head": "cpu"}
        places |= {"scale": "cpu", "places": "cpu", "causal": "cpu"}
        accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(tmp_path))
    assert same(lrp_fx.convert(model)(input_ids=IDS), before)
