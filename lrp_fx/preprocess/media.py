"""Media: images and sounds as a processor wants them, and plain pictures for a model that has none."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.errors import InputError, needed


def as_list(value: Any) -> list[Any]:
    """One thing, or several, as several."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def picture_of(value: Any) -> Any:
    """An image that a processor takes: what a path names, anything else as it is."""
    if not isinstance(value, (str, Path)):
        return value
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("reading a picture needs Pillow: pip install pillow, or give an array") from error
    path = Path(value)
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InputError(f"{path} is no picture: {error}") from error


def samples_of(value: Any, rate: int) -> Any:
    """The samples of one sound, taken ``rate`` times a second: an array (which is trusted to be), a mapping with
    ``array`` (or ``raw``) and ``sampling_rate``, or a wave file.

    Raises `InputError` for a sound of another rate: it would have to be resampled.
    """
    own: Any = rate
    if isinstance(value, (str, Path)):
        value, own = _wave(Path(value))
    elif isinstance(value, Mapping):
        own = value.get("sampling_rate", rate)
        value = value["array"] if "array" in value else value["raw"]
    if int(own) != rate:
        raise InputError(
            f"the sound has {own} samples a second, the model takes {rate}\n    next: resample it, for example with "
            "torchaudio.functional.resample"
        )
    return np.asarray(value, dtype=np.float32)


def _wave(path: Path) -> tuple[np.ndarray[Any, Any], int]:
    """A wave file of 16 or 32 bits, its channels averaged, between -1 and 1; and its rate."""
    try:
        with wave.open(str(path)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"cannot read {path} as a wave file: {error}; give its samples as an array") from error
    if width not in (2, 4):
        raise InputError(f"{path} has {8 * width} bits a sample; give its samples as an array")
    samples = np.frombuffer(data, np.int16 if width == 2 else np.int32).reshape(-1, channels)
    return samples.mean(1) / float(2 ** (8 * width - 1)), rate


def image_size(config: Any) -> tuple[int, int]:
    """(height, width) that a model was made for."""
    size = getattr(config, "image_size", 224)
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def read_image(config: Any, path: Path) -> Tensor:
    """(1, C, H, W): an array file as it is, a picture in -1..1, resized to the model's size by nearest neighbours.

    Pictures are scaled as ``2 x / 255 - 1``; where a model was trained with other statistics, save an array instead.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.suffix == ".npy":
        array = torch.from_numpy(np.load(path)).to(torch.float32)
        return array.reshape((1,) * (4 - array.dim()) + tuple(array.shape))
    image = needed("matplotlib.image", "plot")

    pixels = torch.from_numpy(np.array(image.imread(path))).to(torch.float32)
    pixels = pixels / 255 if float(pixels.max()) > 1 else pixels
    planes = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels[..., :3]
    channels = int(getattr(config, "num_channels", 3))
    planes = planes.mean(-1, keepdim=True) if channels == 1 else planes.expand(*planes.shape[:2], 3)
    return torch.nn.functional.interpolate(planes.permute(2, 0, 1).unsqueeze(0) * 2 - 1, size=image_size(config))
