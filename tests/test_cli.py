"""The command line: what it prints, what it refuses and with which words, its exit codes."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import lrp_fx
from lrp_fx.cli import inputs as loading
from lrp_fx.cli.app import app
from lrp_fx.cli.checks import Refusal
from lrp_fx.cli.evaluating import read_data
from lrp_fx.cli.main import main
from lrp_fx.preprocess.media import read_image
from lrp_fx.preprocess.open import load_model, load_tokenizer
from lrp_fx.recognize.recognisers import RECOGNISERS
from lrp_fx.rule import covers, registered

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "examples" / "models"
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
        "LABEL_4 (class 4) rather than LABEL_2 (class 2)" in result.output
        and "rules attnlrp" in result.output
        and "leaf position" not in result.output
    )


def test_explain_an_image_from_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(MODELS / "vit_mnist" / "eval.npz")["images"][0].astype(np.float32) / 127.5 - 1)
    table = tmp_path / "x.csv"
    result = run("explain", DIGITS, "--image", str(tmp_path / "x.npy"), "--target", "7", "--csv", str(table))
    assert result.exit_code == 0, result.output
    assert "pixel_values" in result.output and "leaf learned" in result.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 49 and {row["input"] for row in rows} == {"pixel_values"}, "a row for each patch"


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
        (["explain", ROPE, "--ids", "1,2", "--html", "no/such/page.html"], "there is no folder no/such"),
        (["explain", ROPE, "--ids", "1,2", "--csv", str(MODELS)], "that is a folder"),
        (["explain", ROPE, "--ids", "1,2", "--png", "x.txt"], "has to end in one of .png"),
        (["explain", ROPE, "--ids", "1,2", "--text", "x"], "not both"),
        (["explain", ROPE, "--ids", "1,2", "--json", "--csv", "-"], "both take standard output"),
        (["explain", STORIES, "--span", " cat", "--ids", "1,2"], "--span goes on one --text"),
        (["inspect", ROPE, "--image", "none.npy"], "there is no file"),
        (["evaluate", STORIES, "none.jsonl"], "there is no file none.jsonl"),
        (["evaluate", STORIES, str(MODELS / "stories260k" / "config.json")], "line 1: not JSON"),
        (["evaluate", STORIES, __file__, "--metrics", "abcp"], "did you mean 'abpc'"),
    ],
)
def test_mistakes_are_answered_in_one_paragraph(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", ROPE, "--ids", "1,2", "--html", "no/such/page.html"],
        ["explain", DIGITS, "--image", "none.png"],
        ["evaluate", STORIES, "none.jsonl"],
    ],
)
def test_what_cannot_be_read_or_written_is_said_in_one_line_before_anything_is_loaded(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrp_fx.preprocess.open.load_model", lambda *_: pytest.fail("loaded"))
    result = run(*arguments)
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1


def test_a_wrong_option_is_a_usage_error() -> None:
    result = run("inspect", ROPE, "--dtype", "int8")
    assert result.exit_code == 2 and "bfloat16" in result.output


# ------------------------------------------------------------------------------------------------ data
def test_json_is_all_that_is_printed() -> None:
    result = run("explain", ROPE, "--ids", "1,12,3,14,15,6", "--target", "4", "--json", "--depth")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (example,) = found["examples"]
    assert found["ruleset"] == "pa-lrp" and example["indices"] == [4]
    assert [t["text"] for t in example["tokens"]] == ["1", "12", "3", "14", "15", "6"]
    ledger = example["ledger"]
    booked = sum(ledger["leaves"].values()) + sum(ledger["sinks"].values())
    assert booked == pytest.approx(example["score"], rel=1e-4)
    total = sum(t["relevance"] for t in example["tokens"])
    assert total == pytest.approx(sum(ledger["leaves"].values()), rel=1e-4)
    (depth,) = example["depth"].values()
    assert len(depth) == 4 and all(len(row) == 6 for row in depth)


def test_several_texts_from_standard_input_as_a_table_of_numbers() -> None:
    result = CliRunner().invoke(app, ["explain", STORIES, "--text", "-", "--csv", "-"], input="One day\n\nThe end.\n")
    assert result.exit_code == 0, result.output
    heading, *rows = csv.reader(result.stdout.splitlines())
    assert heading == ["example", "input", "place", "text", "content", "position", "relevance"]
    assert {row[0] for row in rows} == {"0", "1"} and rows[0][3] == "<s>"
    for row in rows:
        assert float(row[4]) + float(row[5]) == pytest.approx(float(row[6]), abs=1e-5)


def test_a_figure_and_depths(tmp_path: Path) -> None:
    figure = tmp_path / "x.png"
    result = run("explain", ROPE, "--ids", "1,12,3,14,15,6", "--depth", "--png", str(figure))
    assert result.exit_code == 0, result.output
    assert figure.read_bytes().startswith(b"\x89PNG") and f"wrote {figure}" in result.output.replace("\n", "")
    (heading,) = (line for line in result.output.splitlines() if line.startswith("before block"))
    assert heading.split() == ["before", "block", "0", "1", "2", "end"]


def test_what_a_model_goes_on_to_say_is_explained_together() -> None:
    result = run("explain", STORIES, "--text", "Once upon a time", "--span", ", there was", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    model, tokenizer = load_model(STORIES), load_tokenizer(STORIES)
    ids = tokenizer("Once upon a time, there was", return_tensors="pt")["input_ids"]
    begun = tokenizer("Once upon a time")["input_ids"]
    assert ids[0, : len(begun)].tolist() == begun
    with torch.no_grad():
        logits = model(ids).logits[0, len(begun) - 1 : -1]
    expected = float(logits.gather(1, ids[0, len(begun) :].unsqueeze(1)).sum())
    assert found["examples"][0]["score"] == pytest.approx(expected, rel=1e-5)
    assert len(found["examples"][0]["tokens"]) == ids.shape[1]
    assert found["examples"][0]["indices"] == ids[0, len(begun) :].tolist()


def test_evaluate_measures_examples_of_a_file(tmp_path: Path) -> None:
    data, values = tmp_path / "examples.jsonl", tmp_path / "values.csv"
    data.write_text(
        '{"input_ids": [1, 12, 3, 14, 15, 6], "target": 2}\n\n{"input_ids": [1, 9, 8, 7, 4, 6], "label": 0}\n'
    )
    options = ["--metrics", "abpc", "--fill", "0", "--against", "attnlrp", "--csv", str(values)]
    result = run("evaluate", ROPE, str(data), *options)
    assert result.exit_code == 0, result.output
    assert "2 examples; taken away: tokens of input_ids; in their place: id 0" in result.output
    for label in ("pa-lrp", "attnlrp", "random order", "later tokens first"):
        assert f"\n{label} " in result.output
    rows = list(csv.DictReader(values.read_text().splitlines()))
    assert len(rows) == 2 * 4 and {r["metric"] for r in rows} == {"ABPC"}
    assert rows[0]["target"] == "LABEL_2 (2)"
    again = run("evaluate", ROPE, str(data), *options[:4], "--json", "--count", "1", "--target", "LABEL_3")
    found = json.loads(again.stdout)
    assert found["examples"] == 1 and found["targets"] == ["LABEL_3 (3)"]


def test_lines_of_data_are_texts_or_objects_with_one(tmp_path: Path) -> None:
    lines, plain = tmp_path / "lines.jsonl", tmp_path / "lines.txt"
    lines.write_text('"One day"\n{"sentence": "The end", "target": "x"}\n{"prompt": "Once", "label": 1}\n')
    plain.write_text("One day\n\nThe end\n")
    assert read_data(lines, None) == (["One day", "The end", "Once"], [None, "x", None])
    assert read_data(plain, 1) == (["One day"], [None])
    lines.write_text('{"image": "lines.txt", "target": 3}\n')
    assert read_data(lines, None) == ([plain], [3])
    lines.write_text('{"image": "none.png"}\n')
    with pytest.raises(Refusal, match="line 1: there is no file"):
        read_data(lines, None)
    lines.write_text('{"words": "One day"}\n')
    with pytest.raises(Refusal, match="line 1: no text, sentence, prompt, input_ids or image, there are words"):
        read_data(lines, None)


def test_verify_as_json() -> None:
    result = run("verify", ROPE, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["ok"] and found["bitwise"] and found["worst_sites"]


def test_generate_explains_what_a_model_writes(tmp_path: Path) -> None:
    page, table = tmp_path / "x.html", tmp_path / "x.csv"
    asked = ["generate", STORIES, "--text", "Once upon", "--then", " a time"]
    result = run(*asked, "--html", str(page), "--csv", str(table), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert page.stat().st_size > 1000 and len(rows) == len(found["steps"]) * len(found["sources"])
    assert [step["text"] for step in found["steps"]] == [" a", " time"]
    for k, step in enumerate(found["steps"]):
        total = sum(float(r["relevance"]) for r in rows if r["step"] == str(k))
        assert total == pytest.approx(sum(step["content"]) + sum(step["position"]), abs=1e-4)
        assert total + sum(step["rest"].values()) == pytest.approx(step["score"], rel=1e-4)
    for wrong, said in (
        (["--then", " a", "--max-new-tokens", "3"], "not both"),
        (["--html", "no/such/x.html"], "there is no folder"),
        (["--then", "-", "--text", "-"], "standard input is one text"),
    ):
        result = run("generate", STORIES, "--text", "Once", *wrong)
        assert result.exit_code == 1 and said in result.output


# ------------------------------------------------------------------------------------------------ the command itself
def started(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120, **options
    )


def test_help_and_versions_do_not_wait_for_torch() -> None:
    told = "import sys; from lrp_fx.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for option in ("--help", "--version"):
        done = started("-c", told, option)
        assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
    assert done.stdout.startswith(f"lrp-fx {lrp_fx.__version__}, torch {torch.__version__}")
    assert "explain" in started("-m", "lrp_fx", "--help").stdout


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lrp_fx", "recognisers"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None and command.stderr is not None
        command.stdout.close()
        said = command.stderr.read()
    assert command.returncode == 0 and not said


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.util.find_spec

    def without(*gone: str) -> Any:
        return lambda name, *more: None if name in gone else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without("typer"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == 'lrp-fx needs typer: pip install "lrp-fx[cli]"\n'
    for package, extra, option in (("transformers", "hf", []), ("matplotlib", "plot", ["--png", "x.png"])):
        monkeypatch.setattr(importlib.util, "find_spec", without(package))
        result = run("explain", ROPE, "--ids", "1,2,3", *option)
        assert result.exit_code == 1 and f'pip install "lrp-fx[{extra}]"' in result.output


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
