"""A vector per token: learned or sinusoidal, from a table, a slice, or computed."""

from __future__ import annotations

import torch
from torch import nn

from testing.architectures import BATCH, BY_NAME, draw_floats, draw_ids, image, two_texts, without
from testing.positions.kind import ABSOLUTE, SINES, Kind
from testing.positions.library import BART, SPEECH, WHISPER, hf, sound
from testing.positions.small import WIDTH, Small, beside, of_their_type, picked_flat, sinusoids, sliced, table

KINDS = [
    Kind("learned, indexed by a counter", "GPT-2", BY_NAME["gpt2"], *ABSOLUTE, slow=True),
    Kind("learned, indexed by a buffer", "BERT", BY_NAME["bert"], *ABSOLUTE),
    Kind("learned, counted over what is no padding", "RoBERTa", BY_NAME["roberta"], *ABSOLUTE, slow=True),
    Kind("learned, with an offset, counted by the mask", "OPT", BY_NAME["opt"], *ABSOLUTE),
    Kind("learned, with an offset", "BART", BY_NAME["bart"], *ABSOLUTE, slow=True),
    Kind("learned, without an index", "ViT", BY_NAME["vit"], *ABSOLUTE, learned=1),
    Kind(
        "learned, image tower of CLIP",
        "CLIP",
        hf("CLIPForImageClassification", {**BY_NAME["clip"].settings, "num_labels": 3}, image),
        *ABSOLUTE,
        learned=1,
    ),
    Kind("learned, a sliced parameter", "hand-written", lambda: Small(sliced, table=table()), *ABSOLUTE),
    Kind(
        "learned, beside the features",
        "hand-written",
        lambda: Small(beside, table=table(), mix=nn.Linear(2 * WIDTH, WIDTH)),
        *ABSOLUTE,
    ),
    Kind(
        "sinusoidal, fixed table",
        "Marian",
        hf("MarianMTModel", {**without(BART, "forced_eos_token_id"), "decoder_start_token_id": 0}, two_texts),
        *SINES,
        slow=True,
    ),
    Kind(
        "sinusoidal, fixed table, sound",
        "Whisper encoder",
        hf("WhisperForAudioClassification", WHISPER, lambda: {"input_features": draw_floats(BATCH, 16, 40)}),
        *SINES,
    ),
    Kind(
        "sinusoidal, fixed table, encoder of Pegasus",
        "Pegasus",
        hf("PegasusForConditionalGeneration", without(BART, "forced_eos_token_id"), two_texts),
        *SINES,
        slow=True,
    ),
    Kind(
        "sinusoidal, with an offset, counted over what is no padding",
        "M2M-100",
        hf("M2M100ForConditionalGeneration", without(BART, "forced_eos_token_id"), two_texts),
        *SINES,
        slow=True,
    ),
    Kind(
        "sinusoidal, a sliced buffer",
        "hand-written",
        lambda: Small(sliced, table=nn.Buffer(sinusoids(torch.zeros(64, WIDTH))[None])),
        *SINES,
    ),
    Kind(
        "sinusoidal, picked for all texts at once",
        "hand-written",
        lambda: Small(picked_flat, table=nn.Buffer(sinusoids(torch.zeros(64, WIDTH))[None])),
        *SINES,
    ),
    Kind(
        "sinusoidal, picked in forward",
        "Speech2Text",
        hf(
            "Speech2TextForConditionalGeneration",
            SPEECH,
            lambda: {**sound(), "decoder_input_ids": draw_ids(BATCH, 6, seed=3)},
        ),
        *SINES,
        slow=True,
    ),
    Kind(
        "sinusoidal, computed in forward",
        "hand-written",
        lambda: Small(lambda model, x: x * WIDTH**0.5 + sinusoids(x)),
        *SINES,
    ),
    Kind(
        "sinusoidal, of the type and size of the values",
        "hand-written",
        lambda: Small(lambda model, x: x * WIDTH**0.5 + of_their_type(x)),
        *SINES,
    ),
]
