"""Models and inputs for the command line: read from a folder or hub name, with nothing assumed about the
architecture.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_fx.errors import InputError, TargetError
from lrp_fx.report.hiding import LARGEST
from lrp_fx.targets import Class, Contrast, Predicted

_TRIAL_TOKENS = 12
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "*.model")


def load_model(name: str, dtype: str = "float32") -> nn.Module:
    """The model of a local folder or hub name, in eval mode; its class is the one its configuration names.

    Raises `InputError` when there is no such model, or its class is unknown to the installed transformers.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    _check_folder(name)
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise InputError(f"--dtype {dtype}: not a floating-point type; there are float32, float64, bfloat16, float16")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        declared = config.architectures or []
        cls = getattr(transformers, declared[0], None) if declared else transformers.AutoModel
        if cls is None:
            raise InputError(f"{name} is a {declared[0]}, which transformers {transformers.__version__} does not have")
        model: nn.Module = cls.from_pretrained(name, dtype=kind)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load a model from {name!r}: {_first_sentence(error)}") from None
    return model.eval()


def load_tokenizer(name: str) -> Any:
    """The tokenizer that belongs to a model, or None (some classes invent a vocabulary where a folder has none)."""
    import transformers

    if Path(name).is_dir() and not any(f for pattern in _TOKENIZER_FILES for f in Path(name).glob(pattern)):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except Exception:  # whatever is missing or broken: the command line then asks for --ids
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


def model_inputs(
    model: nn.Module,
    tokenizer: Any,
    *,
    text: str | None = None,
    ids: str | None = None,
    image: Path | None = None,
    decoder_text: str | None = None,
) -> dict[str, Tensor]:
    """The forward's arguments for what was given on the command line.

    Raises `InputError` when the text cannot be tokenised, the ids are no numbers, or the image does not fit the model.
    """
    if image is not None:
        inputs: dict[str, Tensor] = {main_input(model): read_image(model, image)}
    elif ids is not None:
        inputs = {main_input(model): _numbers(ids)}
    elif text is not None:
        inputs = _tokenise(model, tokenizer, text)
    else:
        raise InputError("nothing to explain: give --text, --ids or --image")
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _decoder_ids(model, tokenizer, decoder_text)
    return _cast(model, inputs)


def main_input(model: nn.Module) -> str:
    """Name of the argument that carries the content."""
    return str(getattr(model, "main_input_name", None) or next(iter(inspect.signature(model.forward).parameters)))


def trial_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs of a plausible shape, for looking at a model without data: ids spread over the vocabulary, or a soft
    gradient as image or sound.
    """
    config, name = model.config, main_input(model)
    vision = getattr(config, "vision_config", config)
    if name.endswith("ids"):
        size = int(
            getattr(config, "vocab_size", 0) or getattr(getattr(config, "text_config", config), "vocab_size", 100)
        )
        inputs = {name: torch.linspace(min(5, size - 1), size - 1, _TRIAL_TOKENS).to(torch.int64).unsqueeze(0)}
    elif name == "pixel_values":
        height, width = _image_size(vision)
        inputs = {
            name: torch.linspace(-1, 1, height * width)
            .reshape(1, 1, height, width)
            .repeat(1, int(getattr(vision, "num_channels", 3)), 1, 1)
        }
    elif name == "input_features":
        frames = 2 * int(getattr(config, "max_source_positions", 50))
        inputs = {name: torch.linspace(-1, 1, frames).repeat(1, int(getattr(config, "num_mel_bins", 80)), 1)}
    else:
        inputs = {name: torch.linspace(-20, 20, 4000).sin().unsqueeze(0)}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _decoder_ids(model, None, None)
    return _cast(model, inputs)


def _cast(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    like = next(p for p in model.parameters() if p.is_floating_point())
    return {n: v.to(like.dtype) if v.is_floating_point() else v for n, v in inputs.items()}


def _tokenise(model: nn.Module, tokenizer: Any, text: str) -> dict[str, Tensor]:
    if tokenizer is None:
        raise InputError("this model comes without a tokenizer: give the token ids instead, --ids 1,2,3")
    accepted = inspect.signature(model.forward).parameters
    return {n: v for n, v in tokenizer(text, return_tensors="pt").items() if n in accepted}


def read_places(text: str | None) -> str | list[int] | None:
    """``largest``, or places of tokens such as ``0,-1``; raises `InputError` for anything else."""
    if text is None or text == LARGEST:
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--hide {text}: `{LARGEST}`, or places of tokens such as 0,-1") from None


def _numbers(ids: str) -> Tensor:
    try:
        return torch.tensor([[int(i) for i in ids.replace(",", " ").split()]])
    except ValueError:
        raise InputError(f"--ids {ids}: not a list of numbers such as 1,2,3") from None


def _decoder_ids(model: nn.Module, tokenizer: Any, text: str | None) -> Tensor:
    start = getattr(model.config, "decoder_start_token_id", None)
    start = getattr(model.config, "bos_token_id", 0) if start is None else start
    rest = [] if text is None or tokenizer is None else tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([[int(start or 0), *rest]])


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(config, "image_size", 224)
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def read_image(model: nn.Module, path: Path) -> Tensor:
    """(1, C, H, W): an array file as it is, a picture in -1..1, resized to the model's size by nearest neighbours.

    Pictures are scaled as ``2 x / 255 - 1``; where a model was trained with other statistics, save an array instead.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix == ".npy":
        array = torch.from_numpy(np.load(path)).to(torch.float32)
        return array.reshape((1,) * (4 - array.dim()) + tuple(array.shape))
    import matplotlib.image

    pixels = torch.from_numpy(np.array(matplotlib.image.imread(path))).to(torch.float32)
    pixels = pixels / 255 if float(pixels.max()) > 1 else pixels
    planes = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels[..., :3]
    channels = int(getattr(model.config, "num_channels", 3))
    planes = planes.mean(-1, keepdim=True) if channels == 1 else planes.expand(*planes.shape[:2], 3)
    return torch.nn.functional.interpolate(planes.permute(2, 0, 1).unsqueeze(0) * 2 - 1, size=_image_size(model.config))


def read_target(
    model: nn.Module, tokenizer: Any, target: str | None, contrast: tuple[str, str] | None, position: int | None
) -> Class | Contrast | Predicted:
    """The target that the options name. Classes are numbers, class labels of the configuration, or single tokens."""
    if target is not None and contrast is not None:
        raise TargetError("give --target or --contrast, not both")
    if contrast is not None:
        a, b = (class_index(model, tokenizer, name) for name in contrast)
        return Contrast(a, b, position)
    return Predicted(position) if target is None else Class(class_index(model, tokenizer, target), position)


def class_index(model: nn.Module, tokenizer: Any, name: str) -> int:
    """A class by number, by label, or by the one token it is written as."""
    if name.isdecimal():
        return int(name)
    labels = {str(label).lower(): int(i) for i, label in (getattr(model.config, "id2label", None) or {}).items()}
    if name.lower() in labels and not type(model).__name__.endswith(("LM", "ConditionalGeneration")):
        return labels[name.lower()]
    found = [] if tokenizer is None else tokenizer(name, add_special_tokens=False)["input_ids"]
    if len(found) != 1:
        known = ", ".join(list(labels)[:12]) if labels else "numbers"
        raise TargetError(f"{name!r} is neither a class ({known}) nor a single token of the vocabulary")
    return int(found[0])
