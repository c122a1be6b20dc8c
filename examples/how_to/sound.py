"""Sound: when, and at which frequencies?

A spectrogram's relevance is drawn over both axes, and summed over each of them. `heatmap` is by time. The weights are
random: the numbers mean nothing.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import lrp_fx

torch.manual_seed(0)
sizes = {
    f"{part}_{what}": n
    for part in ("encoder", "decoder")
    for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
}
config = transformers.WhisperConfig(
    vocab_size=100,
    d_model=32,
    num_mel_bins=80,
    max_source_positions=100,
    max_target_positions=20,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=3,
    decoder_start_token_id=4,
    suppress_tokens=None,
    begin_suppress_tokens=None,
    **sizes,
)
model = transformers.WhisperForConditionalGeneration(config).eval()
features = transformers.WhisperFeatureExtractor(chunk_length=2)
seconds = np.arange(32_000) / 16_000
sound = np.sin(2 * np.pi * np.where(seconds < 1, 440, 880) * seconds)  # a tone, and its octave

inputs = features(sound, sampling_rate=16_000, return_tensors="pt")
explainer = lrp_fx.convert(model)
relevance = explainer(input_features=inputs.input_features, decoder_input_ids=torch.tensor([[4, 7, 9]]))
print("content", tuple(relevance.content["input_features"].shape), "(examples, frequencies, times)")
print("by time", tuple(relevance.heatmap("input_features").shape))

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
relevance.to_html(folder / "sound.html")
relevance.plot().savefig(folder / "sound.png")
