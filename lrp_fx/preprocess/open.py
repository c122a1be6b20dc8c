"""Open: a model with what belongs to it, from a folder, a name on the hub, or a pipeline of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrp_fx.errors import InputError, needed
from lrp_fx.preprocess.unloaded import parameters_on_meta

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Opened:
    """A model, and what turns texts, images and sounds into its arguments (None where there is no such thing).

    ``files``: where its weights are, if they were left there.
    """

    model: nn.Module
    tokenizer: Any = None
    processor: Any = None
    files: str | None = None


def opened(model: Any, tokenizer: Any = None, processor: Any = None, *, weights: bool = True) -> Opened:
    """The model itself, that of a pipeline, or the one that a folder or hub name holds; what is given comes before what
    is found beside it.

    weights: False leaves those of a folder or hub name where they are.

    Raises `InputError` for anything else, and where nothing can be loaded.
    """
    if isinstance(model, (str, Path)):
        name = str(model)
        loaded = load_model(name, weights=weights)
        found = Opened(loaded, load_tokenizer(name), load_processor(name), None if weights else name)
    elif not weights:
        raise InputError(
            "weights=False leaves the weights of a folder or hub name there, and this is a model\n    next: give its "
            "name, or a model with its parameters on the meta device"
        )
    elif not isinstance(model, nn.Module) and isinstance(getattr(model, "model", None), nn.Module):
        found = _of_pipeline(model)
    elif isinstance(model, nn.Module):
        found = Opened(model)
    else:
        raise InputError(
            "convert() takes a torch.nn.Module, a pipeline, or the folder or name of a model, got "
            f"{type(model).__name__}"
        )
    return Opened(
        found.model,
        found.tokenizer if tokenizer is None else _loaded(tokenizer, load_tokenizer, "tokenizer"),
        found.processor if processor is None else _loaded(processor, load_processor, "processor"),
        found.files,
    )


def _loaded(part: Any, load: Callable[[str], Any], what: str) -> Any:
    """The part itself, or what a folder or hub name holds."""
    if not isinstance(part, (str, Path)):
        return part
    found = load(str(part))
    if found is None:
        raise InputError(f"cannot load a {what} from {str(part)!r}")
    return found


def _of_pipeline(pipeline: Any) -> Opened:
    """What a pipeline holds: some have a processor, others an image processor or a feature extractor."""
    parts = (getattr(pipeline, name, None) for name in ("processor", "image_processor", "feature_extractor"))
    return Opened(pipeline.model, getattr(pipeline, "tokenizer", None), next((p for p in parts if p is not None), None))


def load_model(name: str, dtype: str = "float32", *, weights: bool = True) -> nn.Module:
    """The model of a local folder or hub name, in eval mode; its class is the one its configuration names. Without
    ``weights`` its parameters lie on the meta device.

    Raises `InputError` when there is no such model, or its class is unknown to the installed transformers.
    """
    _check_folder(name)
    transformers = needed("transformers", "hf")
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise InputError(f"--dtype {dtype}: not a floating-point type; there are float32, float64, bfloat16, float16")
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name)
            declared = config.architectures or []
            cls = getattr(transformers, declared[0], None) if declared else transformers.AutoModel
            if cls is None:
                raise InputError(
                    f"{name} is a {declared[0]}, which transformers {transformers.__version__} does not have"
                )
            model: nn.Module = cls.from_pretrained(name, dtype=kind) if weights else _empty(cls, config, kind)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a model from {name!r}: {_first_sentence(error)}") from None
    return model.eval()


def _empty(cls: Any, config: Any, kind: torch.dtype) -> nn.Module:
    """A model of these sizes, without its weights; its buffers hold what it computes by itself."""
    with parameters_on_meta():
        make = getattr(cls, "_from_config", None) or cls.from_config  # of a class, of one that chooses the class
        model: nn.Module = make(config, dtype=kind)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and remarks, for a while."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a model, or None (some classes invent a vocabulary where a folder has none)."""
    transformers = needed("transformers", "hf")
    if Path(name).is_dir() and not any(f for pattern in _TOKENIZER_FILES for f in Path(name).glob(pattern)):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except Exception:  # whatever is missing or broken: a text is refused then, with what to do
        return None


def load_processor(name: str) -> Any:
    """What turns images or sounds into a model's arguments, or None."""
    transformers = needed("transformers", "hf")
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in _PROCESSOR_FILES):
        return None
    for kind in ("AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor"):
        try:
            found = getattr(transformers, kind).from_pretrained(name)
        except Exception:  # there is none of this kind, or a package is missing
            continue
        if not hasattr(found, "convert_ids_to_tokens"):  # AutoProcessor falls back to a tokenizer
            return found
    return None


def _check_folder(name: str) -> None:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(
                f"the folder {name} holds no config.json: give the folder a model was saved to with save_pretrained()"
            )
    elif (
        path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or (path.parent.is_dir() and path.parent != Path())
    ):
        raise InputError(f"there is no folder {name}")


def _first_sentence(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
