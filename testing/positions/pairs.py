"""Scaled queries, numbers per pair of tokens, rows per distance; and models without position."""

from __future__ import annotations

import torch
from torch import nn

from testing.architectures import BY_NAME, DECODER, SPECIAL, VOCAB, image, without
from testing.positions.kind import ABSOLUTE, COMPLEX, NET, NONE, ROWS, SCALE, SLOPES, TABLE, WAVES, Kind, some
from testing.positions.library import (
    CONFORMED,
    CONFORMER,
    LAYOUT,
    PATCHES,
    SAM,
    SWIN,
    T5,
    WAVE,
    boxes,
    hf,
    llama4,
    sound,
)
from testing.positions.small import HEAD, HEADS, WIDTH, Small, linear, network, shaw, steps, table, transformer_xl

KINDS = [
    Kind("temperature of queries", "Llama-4", llama4([0, 0]), *SCALE, slow=True),
    Kind("temperature of queries, beside rotation", "Llama-4", llama4([1, 0]), *SCALE, also=(COMPLEX,)),
    Kind(
        "temperature of queries, by hand",
        "hand-written",
        lambda: Small(turn=lambda q, k: (q * (1 + 0.3 * torch.log1p(torch.floor((steps(q) + 1) / 3)))[:, None], k)),
        *SCALE,
    ),
    Kind("buckets, shared by the layers", "T5", BY_NAME["t5"], *TABLE, slow=True),
    Kind("buckets, encoder only", "T5", hf("T5ForTokenClassification", {**T5, "num_labels": 3}), *TABLE),
    Kind(
        "buckets, one table per layer",
        "UMT5",
        hf("UMT5ForTokenClassification", {**T5, "num_labels": 3}),
        *TABLE,
        slow=True,
    ),
    Kind("linear, from the mask", "BLOOM", BY_NAME["bloom"], *SLOPES),
    Kind(
        "linear, a constant",
        "MPT",
        hf("MptForCausalLM", dict(vocab_size=VOCAB, d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **SPECIAL)),
        *SLOPES,
    ),
    Kind("linear, distance times slope", "hand-written", lambda: Small(scores=linear), *SLOPES),
    Kind("table in windows", "Swin", BY_NAME["swin"], *TABLE),
    Kind("network in windows", "Swin-v2", hf("Swinv2ForImageClassification", SWIN, image), *NET, slow=True),
    Kind(
        "network of the distance",
        "hand-written",
        lambda: Small(scores=network, net=nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, HEADS))),
        *NET,
    ),
    Kind(
        "table over patches",
        "BEiT",
        hf("BeitForImageClassification", {**PATCHES, "use_relative_position_bias": True}, image),
        *TABLE,
        learned=1,
    ),
    Kind(
        "tables of distances on a page",
        "LayoutLMv3",
        hf("LayoutLMv3ForTokenClassification", LAYOUT, boxes),
        *TABLE,
        also=(ABSOLUTE,),
        options={"roles": {"bbox": "position"}},
    ),
    Kind("disentangled, gathered", "DeBERTa-v2", BY_NAME["deberta_v2"], *ROWS),
    Kind(
        "disentangled, a row per pair",
        "Wav2Vec2-BERT",
        hf(
            "Wav2Vec2BertForCTC",
            {
                **CONFORMER,
                "feature_projection_input_dim": 16,
                "left_max_position_embeddings": 4,
                "right_max_position_embeddings": 2,
            },
            sound,
        ),
        *ROWS,
        slow=True,
    ),
    Kind(
        "disentangled, a row per pair, by hand",
        "hand-written",
        lambda: Small(scores=shaw, rows=nn.Embedding(9, HEAD)),
        *ROWS,
    ),
    Kind(
        "disentangled, rows and columns",
        "SAM",
        hf("SamVisionModel", SAM, image, "SamVisionConfig"),
        *ROWS,
        also=(ABSOLUTE,),
        target=some,
    ),
    Kind(
        "disentangled, sinusoidal",
        "XLNet",
        hf(
            "XLNetForSequenceClassification",
            dict(vocab_size=VOCAB, d_model=32, n_layer=2, n_head=4, d_inner=48, num_labels=3, **SPECIAL),
        ),
        *WAVES,
        slow=True,
    ),
    Kind(
        "disentangled, sinusoidal, both sides",
        "Wav2Vec2-Conformer",
        hf(
            "Wav2Vec2ConformerForCTC", {**CONFORMED, "position_embeddings_type": "relative"}, BY_NAME["wav2vec2"].inputs
        ),
        *WAVES,
    ),
    Kind(
        "disentangled, sinusoidal, by hand",
        "hand-written",
        lambda: Small(
            scores=transformer_xl, map=nn.Linear(WIDTH, WIDTH, bias=False), u=table(1, HEAD), v=table(1, HEAD)
        ),
        *WAVES,
    ),
    Kind("convolution", "wav2vec2", BY_NAME["wav2vec2"], *NONE),
    Kind("convolution", "HuBERT", hf("HubertForCTC", WAVE, BY_NAME["wav2vec2"].inputs), *NONE, slow=True),
    Kind(
        "none",
        "SmolLM3",
        hf("SmolLM3ForCausalLM", without(DECODER, "head_dim", no_rope_layers=[0, 0])),
        *NONE,
        slow=True,
    ),
    Kind("none, by hand", "hand-written", Small, *NONE),
]
