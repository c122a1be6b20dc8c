"""Models and inputs for the command line: read from a folder or hub name, with nothing assumed about the
architecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.datasets.values import whole_number
from lrp_fx.errors import InputError, TargetError
from lrp_fx.preprocess.forward import forward_of
from lrp_fx.preprocess.media import image_size, read_image
from lrp_fx.preprocess.reader import Reader, decoder_ids
from lrp_fx.report.hiding import LARGEST
from lrp_fx.targets import Class, Contrast, Predicted

_TRIAL_TOKENS = 12


def model_inputs(
    model: nn.Module,
    reader: Reader,
    *,
    texts: list[str] | None = None,
    ids: str | None = None,
    image: Path | None = None,
    decoder_text: str | None = None,
) -> dict[str, Tensor]:
    """The forward's arguments for what was given on the command line.

    Raises `InputError` when the texts cannot be tokenised, the ids are no numbers, or the image does not fit the model.
    """
    if image is not None and image.suffix != ".npy" and reader.processor is not None:
        return reader.inputs(images=[image], decoder_text=decoder_text)
    if image is not None:
        inputs: dict[str, Tensor] = {forward_of(model).main: read_image(model.config, image)}
    elif ids is not None:
        inputs = {forward_of(model).main: _numbers(ids)}
    elif texts:
        if reader.tokenizer is None:
            raise InputError("this model comes without a tokenizer: give the token ids instead, --ids 1,2,3")
        return reader.inputs(texts if len(texts) > 1 else texts[0], decoder_text=decoder_text)
    else:
        raise InputError("nothing to explain: give --text, --ids or --image")
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = decoder_ids(model.config, reader.tokenizer, decoder_text)
    return forward_of(model).cast(inputs)


def trial_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Inputs of a plausible shape, for looking at a model without data: ids spread over the vocabulary, or a soft
    gradient as image or sound.
    """
    config, name = model.config, forward_of(model).main
    vision = getattr(config, "vision_config", config)
    if name.endswith("ids"):
        size = int(
            getattr(config, "vocab_size", 0) or getattr(getattr(config, "text_config", config), "vocab_size", 100)
        )
        inputs = {name: torch.linspace(min(5, size - 1), size - 1, _TRIAL_TOKENS).to(torch.int64).unsqueeze(0)}
    elif name == "pixel_values":
        height, width = image_size(vision)
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
        inputs["decoder_input_ids"] = decoder_ids(model.config, None, None)
    return forward_of(model).cast(inputs)


def sized_inputs(model: nn.Module, tokens: int, batch: int) -> dict[str, Tensor]:
    """Trial inputs of so many examples, and of so many tokens where they are ids."""
    inputs, main = trial_inputs(model), forward_of(model).main
    if main.endswith("ids"):
        inputs[main] = inputs[main].repeat(1, -(-tokens // inputs[main].shape[1]))[:, :tokens]
    return {n: v.expand(batch, *v.shape[1:]).contiguous() for n, v in inputs.items()}


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
    number = whole_number(name)
    if number is not None:
        return number
    return Reader(model, tokenizer).output_index(name)
