"""The command line: what it prints, what it refuses and with which words, its exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import lrp_fx
from lrp_fx.cli import inputs as loading
from lrp_fx.cli.app import app
from lrp_fx.preprocess.media import read_image
from lrp_fx.preprocess.open import load_model, load_tokenizer
from lrp_fx.recognize.recognisers import RECOGNISERS
from lrp_fx.rule import covers, registered

MODELS = Path(__file__).parent.parent / "examples" / "models"
STORIES, ROPE, DIGITS = (str(MODELS / name) for name in ("stories260k", "synth_rope", "vit_mnist"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_explain_prints_heatmap_parts_and_ledger_and_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "story.html"
    text = "Once upon a time, there was a little girl named"
    result = run("explain", STORIES, "--text", text, "--html", str(page), "--hide", "0")
    assert result.exit_code == 0, result.output
    for expected in (
        "next token: ' Lily'",
        "Once upon a time",
        "content",
        "position",
        "sink softmax",
        "cancellation",
        "tokens cancel",
        "hidden, not in the colours: #0 <s> ",
        f"wrote {page}",
    ):
        assert expected in result.output.replace("\n", " ") or expected in result.output
    assert "Position sites" in page.read_text(encoding="utf-8") and "hidden, not" in page.read_text(encoding="utf-8")


def test_explain_contrast_of_ids_without_a_tokenizer() -> None:
    result = run(
        "explain",
        ROPE,
        "--ids",
        "1,12,3,14,15,6",
        "--contrast",
        "4",
        "LABEL_2",
        "--rules",
        "attnlrp",
        "--conserve",
        "site",
    )
    assert result.exit_code == 0, result.output
    assert (
        "Contrast(a=4, b=2" in result.output
        and "rules attnlrp" in result.output
        and "leaf position" not in result.output
    )


def test_explain_an_image_from_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(MODELS / "vit_mnist" / "eval.npz")["images"][0].astype(np.float32) / 127.5 - 1)
    result = run("explain", DIGITS, "--image", str(tmp_path / "x.npy"), "--target", "7")
    assert result.exit_code == 0, result.output
    assert "pixel_values" in result.output and "leaf learned" in result.output


def test_inspect_groups_layers_and_names_sources() -> None:
    result = run("inspect", ROPE)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert any(row[:1] == ["model.layers.*.self_attn"] and "3" in row and "attention.taylor" in row for row in rows)
    assert all(
        word in result.output
        for word in ("normalisation", "rotary, half-split", "input_ids: content", "coverage", "modeling_llama.py:")
    )


def test_inspect_prints_equal_blocks_once_unless_told_otherwise() -> None:
    once, whole = run("inspect", ROPE), run("inspect", ROPE, "--blocks", "all")
    assert once.exit_code == whole.exit_code == 0, once.output + whole.output
    repeated = "# the same 2 times more: model.layers.1, model.layers.2, each with weights of its own\n"
    assert repeated in once.output and repeated not in whole.output
    assert len(once.output.splitlines()) < 0.7 * len(whole.output.splitlines())
    wrong = run("inspect", ROPE, "--blocks", "twice")
    assert wrong.exit_code == 2 and "twice" in wrong.output


def test_dump_prints_all_blocks_unless_told_otherwise() -> None:
    until = ("dump", ROPE, "--until", "assign_rules")
    whole, once = run(*until), run(*until, "--blocks", "once")
    assert whole.exit_code == once.exit_code == 0, whole.output + once.output
    assert "# the same 2 times more" in once.output and "times more" not in whole.output


def test_inspect_says_why_a_node_is_what_it_is() -> None:
    model = load_model(ROPE)
    rewritten = lrp_fx.convert(model, loading.trial_inputs(model)).rewritten
    name = next(n.name for n, a in rewritten.applications.items() if a.kind == "normalise")
    result = run("inspect", ROPE, "--why", name)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"%{name} = aten.mul") and "coverage" not in result.output
    for part in (
        "modeling_llama.py:",
        "normalise: a broadcast statistic",
        "recognised as: normalisation",
        "not scan: ",
    ):
        assert part in result.output, part
    wrong = run("inspect", ROPE, "--why", "mull_1")
    assert wrong.exit_code == 1 and "no node 'mull_1'" in wrong.output and "mul_1" in wrong.output


def test_inspect_shows_what_approximated_operations_came_nearest_to() -> None:
    rules = lrp_fx.Ruleset("tangents", frozenset({"content", "position"}), kinds={"normalise": "tangent.unexplained"})
    with registered(rules):
        result = run("inspect", ROPE, "--rules", "tangents")
    assert result.exit_code == 0, result.output
    assert result.output.count("refused in strict mode") == 5 and "more" in result.output.splitlines()[-1]
    assert "near:  not " in result.output and "next:  " in result.output


def test_recognisers_are_listed_in_order() -> None:
    result = run("recognisers")
    lines = [line.split("  ")[0] for line in result.output.splitlines()]
    names = [name for name in lines if name in {r.name for r in RECOGNISERS}]
    assert names == [r.name for r in RECOGNISERS]


def test_verify_passes_and_says_what_it_compared() -> None:
    result = run("verify", DIGITS)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ok") and "bitwise equal" in result.output


def test_verify_fails_with_exit_code_1_when_a_rule_loses_relevance() -> None:
    leak = lrp_fx.Rule(
        name="leak",
        kind="elementwise",
        law="wrong on purpose",
        cites=("bach2015",),
        ops=covers("aten", "silu gelu relu"),
        surrogate=lambda call: _leak(call),
    )
    rules = lrp_fx.Ruleset(
        "leaky", frozenset({"content", "position", "learned", "segment"}), kinds={"elementwise": "leak"}
    )
    with registered(leak, rules):
        result = run("verify", ROPE, "--rules", "leaky")
        with pytest.raises(lrp_fx.ConservationError):
            lrp_fx.convert(load_model(ROPE), rules="leaky")(input_ids=torch.tensor([[1, 12, 3, 14, 6]]))
    assert result.exit_code == 1
    assert result.output.startswith("FAILED") and "[leak]" in result.output


def _leak(call: lrp_fx.rule.Call) -> torch.Tensor:
    """Equal in value, linear, but half of the relevance goes nowhere."""
    (x,) = call.operands()
    y = call.value
    return lrp_fx.rule.carry(y, 0.5 * x * lrp_fx.rule.freeze(torch.sigmoid(x.detach())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "no/such/folder", "--text", "x"], "there is no folder"),
        (["explain", "surely-not-a-model-of-the-hub", "--text", "x"], "cannot load a model"),
        (["explain", ROPE, "--text", "x"], "without a tokenizer"),
        (["explain", ROPE, "--ids", "1,two"], "not a list of numbers"),
        (["explain", ROPE, "--ids", "1,2,3,4", "--hide", "first"], "places of tokens such as 0,-1"),
        (["explain", ROPE, "--ids", "1,2,3,4", "--hide", "4"], "the places 0 to 3"),
        (["explain", ROPE], "give --text, --ids or --image"),
        (["explain", ROPE, "--ids", "1,2", "--target", "1", "--contrast", "1", "2"], "not both"),
        (["explain", ROPE, "--ids", "1,2,3,4,5,6", "--target", "99"], "no such class"),
        (["explain", ROPE, "--ids", "1,2", "--target", "cat"], "neither a class"),
        (["explain", ROPE, "--ids", "1,2", "--rules", "nonsense"], "nonsense"),
        (["explain", DIGITS, "--image", "none.png"], "there is no file"),
        (["inspect", ROPE, "--dtype", "int8"], "not a floating-point type"),
    ],
)
def test_mistakes_are_answered_in_one_paragraph(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    result = run("inspect", str(tmp_path))
    assert result.exit_code == 1 and "config.json" in result.output


def test_no_vocabulary_is_invented(tmp_path: Path) -> None:
    import transformers

    transformers.T5Config(vocab_size=96).save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)) is None
    assert load_tokenizer(STORIES) is not None


def test_rules_lists_every_preset() -> None:
    result = run("rules")
    assert all(name in result.output for name in lrp_fx.rulesets())


def test_pictures_are_scaled_to_the_model(tmp_path: Path) -> None:
    import matplotlib.image

    matplotlib.image.imsave(tmp_path / "x.png", np.zeros((56, 56, 3)))
    pixels = read_image(load_model(DIGITS).config, tmp_path / "x.png")
    assert pixels.shape == (1, 1, 28, 28) and bool((pixels == -1).all())
