"""What is installed is what is here: rules under one name, machine and knowledge apart, the README's commands the
tested ones.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import lrp_fx
import lrp_fx.rules
from lrp_fx.rule import registry

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def machine() -> list[Path]:
    """Python files of lrp_fx itself, without the rules that the symbolic link shows there."""
    return sorted(p for p in (ROOT / "lrp_fx").rglob("*.py") if p.relative_to(ROOT / "lrp_fx").parts[0] != "rules")


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def commands() -> dict[str, str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"<!-- command: (\w+) -->\n```bash\n(.*?)\n```", readme, re.S))


def test_rules_are_imported_under_one_name_only() -> None:
    done = python("import rules", ROOT)
    assert done.returncode != 0 and "import lrp_fx.rules, not rules" in done.stderr
    assert not {"rules"} & set(sys.modules)


@pytest.mark.parametrize("path", machine(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_machine_names_no_rule(path: Path) -> None:
    words = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not words & set(registry.rules)


@pytest.mark.parametrize("path", sorted((ROOT / "rules").glob("*.py")), ids=lambda p: p.name)
def test_rule_files_import_only_torch_and_the_vocabulary(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    ours = {name for name in imported if name.split(".")[0] == "lrp_fx"}
    others = (
        {name.split(".")[0] for name in imported} - {"lrp_fx", "torch", "__future__"} - set(sys.stdlib_module_names)
    )
    assert not others
    folders = ("lrp_fx.rules.", "lrp_fx.kernels.")
    assert all(name in ("lrp_fx.rule", "lrp_fx.aggregation") or name.startswith(folders) for name in ours)


def test_every_folder_with_code_is_packaged() -> None:
    folders = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "lrp_fx").rglob("__init__.py")} | {
        "lrp_fx.rules"
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders
    assert not [p for p in (ROOT / "rules").iterdir() if p.is_dir() and p.name != "__pycache__"], "keep rules/ flat"


def test_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == lrp_fx.__version__
    assert f"[{lrp_fx.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_fix_every_direct_dependency() -> None:
    fixed = {
        line.split("==")[0]
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    own = f"{PROJECT['project']['name']}["
    declared = [
        *PROJECT["project"]["dependencies"],
        *(d for name in ("cli", "data", "hf", "plot", "dev") for d in extras[name]),
    ]
    declared = [d for d in declared if not d.startswith(own)]
    assert {re.split(r"[<>=~! ]", d)[0] for d in declared} <= fixed


def test_the_versions_that_are_claimed_were_run() -> None:
    """The oldest of each dependency, on the oldest Python; the newest and the oldest torch on each Python."""
    page = (ROOT / "docs" / "measured" / "releases.md").read_text(encoding="utf-8")
    headings, _, *rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    run = {row[0]: dict(zip(headings, row, strict=True)) for row in rows}
    assert {name for name, row in run.items() if "passed" in row["result"]} == set(run)
    extras = PROJECT["project"]["optional-dependencies"]
    claims = [*PROJECT["project"]["dependencies"], *(d for name in ("cli", "hf", "plot") for d in extras[name])]
    floors = dict(sorted((d.split(">=") for d in claims), key=lambda d: headings.index(d[0])))
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert {name: run[f"oldest-{oldest}"][name] for name in floors} == {
        name: version + ".0" * (run[f"oldest-{oldest}"][name].count(".") - version.count("."))
        for name, version in floors.items()
    }
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"Python {oldest}, " + ", ".join(f"{name} {version}" for name, version in floors.items()) in readme
    python = "Programming Language :: Python :: "
    claimed = {c.removeprefix(python) for c in PROJECT["project"]["classifiers"] if c.startswith(python)}
    assert {f"{age}-{version}" for version in claimed for age in ("oldest", "newest")} <= set(run)


def test_the_readmes_commands_are_those_the_checks_run() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(commands()) == {"demo", "test"}
    for name, command in commands().items():
        assert f"$(command_of {name})" in script
        assert "\n" not in command.strip() and "constraints.txt" in command and "-m venv" in command


def test_the_checks_read_the_commands_as_written(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    function = re.search(r"^command_of\(\) \{.*?^\}", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.S | re.M)
    assert function is not None
    for name, command in commands().items():
        done = subprocess.run(
            [bash, "-c", f"{function[0]}\ncommand_of {name}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == command


def test_the_readme_names_every_preset() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in lrp_fx.rulesets() if f"| `{name}`" not in readme]


# ------------------------------------------------------------------------------------------------ what is not installed
def test_the_core_needs_no_extra() -> None:
    """Import, explain, draw a page: without what extras bring; what needs one names it."""
    hidden = ("transformers", "rich", "typer", "matplotlib", "pandas", "scipy", "captum", "inseq", "pyarrow")
    code = f"""
import sys
for name in {hidden}:
    sys.modules[name] = None
import torch, lrp_fx
model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
explainer = lrp_fx.convert(model.eval())
relevance = explainer(torch.tensor([[1, 2, 3]]))
assert "Ledger" in relevance.to_html()
for attempt in (relevance.show, relevance.plot, lambda: lrp_fx.convert("examples/models/synth_rope")):
    try:
        attempt()
    except Exception as error:
        assert isinstance(error, (lrp_fx.LrpError, ImportError)), error
        print(str(error).split("pip install ")[1].split(",")[0].strip('"'))
found = lrp_fx.evaluate(explainer, {{"input": torch.tensor([[1, 2, 3], [4, 5, 6]])}}, fill=0)
assert len(found.comparisons) == 8
"""
    done = python(code, ROOT)
    assert done.stdout.split() == ["lrp-fx[cli]", "lrp-fx[plot]", "lrp-fx[hf]"], done.stdout + done.stderr


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    code = """
import sys, lrp_fx
assert "torch" not in sys.modules
from lrp_fx.rule import registry
assert "pa-lrp" in registry.rulesets, "the registry fills itself"
names = lrp_fx.api.__all__
assert set(names) <= set(dir(lrp_fx)) and all(getattr(lrp_fx, n) is getattr(lrp_fx.api, n) for n in names)
from lrp_fx import *
print(convert is lrp_fx.convert, lrp_fx.rule.Rule is lrp_fx.Rule)
print(hasattr(lrp_fx, "nonsense"), hasattr(lrp_fx, "_private"))
"""
    done = python(code, ROOT)
    assert done.stdout.split() == ["True", "True", "False", "False"], done.stdout + done.stderr


def test_links_of_the_readme_lead_somewhere_on_a_package_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute, where there is a public address; else they are no links."""
    import setuptools

    given: dict[str, str] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    described = runpy.run_path(str(ROOT / "setup.py"))["for_the_index"]
    relative = re.compile(r"\]\((?!https?:|#)")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert relative.search(readme) and not relative.search(given["long_description"])
    assert described("see [a tour](docs/tour.md)", None) == "see a tour (docs/tour.md)"
    assert described("see [`x.py`](x.py), [x](https://x.org)", None) == "see `x.py`, [x](https://x.org)"
    assert (
        described("see [a tour](docs/tour.md)", "https://x.org/y")
        == "see [a tour](https://x.org/y/blob/main/docs/tour.md)"
    )


@pytest.mark.slow
def test_wheel_and_source_archive_install_outside_the_checkout(tmp_path: Path) -> None:
    archive = packed(tmp_path)
    checkout = tmp_path / "checkout"
    for number, source in enumerate((checkout, archive)):
        target = tmp_path / f"site{number}"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(target),
            str(source),
        ]
        subprocess.run(pip, check=True, capture_output=True)
        assert (
            not (target / "rules").exists()
            and (target / "lrp_fx" / "rules" / "linear.py").is_file()
            and (target / "lrp_fx" / "py.typed").is_file()
        )
        done = python(
            "import lrp_fx.rules; from lrp_fx.rule import registry; print(lrp_fx.__file__, len(registry.rules))",
            tmp_path,
            PYTHONPATH=str(target),
        )
        assert done.stdout.split() == [str(target / "lrp_fx" / "__init__.py"), str(len(registry.rules))], done.stderr


@pytest.mark.slow
def test_the_tests_run_from_the_source_archive(tmp_path: Path) -> None:
    """Installed as the README says, in place: an archive holds no symbolic link to the rules."""
    archive = packed(tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    site = tmp_path / "site"
    options = ["-q", "--no-deps", "--no-build-isolation", "--target", str(site), "-e", str(unpacked)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True, capture_output=True)
    chosen = [
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_metrics.py",
        "tests/test_rule_order.py",
        "tests/test_layers.py",
    ]
    code = f"import site, sys; site.addsitedir({str(site)!r}); import pytest; sys.exit(pytest.main({chosen!r}))"
    done = python(code, unpacked)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr


def packed(folder: Path) -> Path:
    """The source archive of a copy of the checkout."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, folder / "checkout", symlinks=True, ignore=ignored)
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(folder / "dist")]
    subprocess.run(command, cwd=folder / "checkout", check=True, capture_output=True)
    (archive,) = (folder / "dist").glob("*.tar.gz")
    return archive
