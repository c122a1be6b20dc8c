"""The ways in which transformers inject position, at least one tiny model of random weights for each.

``kind`` and ``variant`` are what the report should say, ``also`` names what else the same model has:

    absolute      a vector per token, added to tokens or joined to their features: learned, sinusoidal
    rotary        queries and keys are turned by an angle: half-split, interleaved, complex
    scale         queries are scaled by their place: temperature
    bias          one number per pair of tokens, added to attention scores: learned table, network, fixed
    disentangled  rows of a table, one per distance, in a product with queries or keys: learned or sinusoidal table
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from testing.architectures import (
    BATCH,
    BY_NAME,
    DECODER,
    ENCODER,
    LENGTH,
    SPECIAL,
    TOWER,
    VOCAB,
    Architecture,
    draw_floats,
    draw_ids,
    image,
    text,
    two_texts,
    without,
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Kind:
    """One way to inject position in one model; ``options`` for `lrp_fx.convert`, ``target`` where the default does not
    fit.

    ``learned``: how many learned tokens the model has. ``slow``: takes long, and others are like it.
    """

    name: str
    architecture: str
    model: Architecture | Callable[[], nn.Module]
    kind: str | None
    variant: str | None = None
    also: tuple[Pair, ...] = ()
    learned: int = 0
    tokens: Callable[[], dict[str, Tensor]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target: Callable[[Tensor], Tensor] | None = None
    slow: bool = False

    @property
    def expected(self) -> set[Pair]:
        """Every (kind, variant) that the model has."""
        return {*self.also, *([(self.kind, self.variant or "")] if self.kind else [])}

    def build(self) -> nn.Module:
        if isinstance(self.model, Architecture):
            return vary(self.model.build())
        torch.manual_seed(0)
        return vary(self.model())

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of the model's forward."""
        return (
            self.tokens()
            if self.tokens is not None
            else self.model.inputs()
            if isinstance(self.model, Architecture)
            else {"input_ids": draw_ids(BATCH, LENGTH)}
        )


def vary(model: nn.Module) -> nn.Module:
    """Randomise what is the same everywhere (zero tokens, zero tables), and make small matrices large enough for
    attention to attend.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.numel() > 1 and bool((p == p.flatten()[0]).all()):
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
            if p.dim() > 1 and float(p.std()) < 0.2:
                p.mul_(0.2 / p.std())
    return model.eval()


def some(output: Tensor) -> Tensor:
    """A target for outputs without classes: a fifth of the numbers of each example."""
    return output.flatten(1)[:, ::5].sum(1)


# ---------------------------------------------------------------------------------------------- written by hand
WIDTH, HEADS = 32, 4
HEAD = WIDTH // HEADS


class Small(nn.Module):
    """Two pre-norm causal layers; functions inject position into tokens, queries and keys, or scores; ``parts`` are
    theirs.
    """

    def __init__(self, place: Any = None, turn: Any = None, scores: Any = None, **parts: Any) -> None:
        super().__init__()
        self.place, self.turn, self.scores = place, turn, scores
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = (nn.ModuleList(nn.Linear(WIDTH, n * WIDTH) for _ in range(2)) for n in (3, 1))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids)
        x = self.place(self, x) if self.place else x
        n = x.shape[1]
        hidden = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            q, k, v = (t.reshape(-1, n, HEADS, HEAD).transpose(1, 2) for t in qkv(norm(x)).chunk(3, -1))
            q, k = self.turn(q, k) if self.turn else (q, k)
            scores = self.scores(self, q, k) if self.scores else q @ k.transpose(-1, -2)
            x = x + out(((scores / HEAD**0.5).masked_fill(hidden, -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(x[:, -1])


def steps(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)


def angles(x: Tensor, width: int = HEAD, base: float | Tensor = 100.0) -> Tensor:
    return torch.outer(
        steps(x),
        torch.as_tensor(base, dtype=x.dtype) ** (-torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width),
    )


def sinusoids(x: Tensor) -> Tensor:
    a = angles(x, WIDTH)
    return torch.stack([a.sin(), a.cos()], -1).flatten(1)


def of_their_type(x: Tensor) -> Tensor:
    """Sinusoids in the type and the sizes of the values they are added to, which say nothing about those values."""
    return sinusoids(torch.zeros(1).type_as(x).expand_as(x[0]))[None].expand_as(x)


def interleaved(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs of features at even and odd places turn, in four products joined by stack."""
    cos, sin, a, b = angle.cos(), angle.sin(), x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def complex_numbers(x: Tensor, angle: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def half_split(x: Tensor, angle: Tensor) -> Tensor:
    (a, b), cos, sin = x.chunk(2, -1), angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    return x * cos + torch.cat([-b, a], -1) * sin


def rotary(
    how: Callable[[Tensor, Tensor], Tensor], base: Callable[[Tensor], Any] = lambda q: 100.0
) -> Callable[[], nn.Module]:
    return lambda: Small(turn=lambda q, k: (how(q, angles(q, base=base(q))), how(k, angles(k, base=base(q)))))


def longer(q: Tensor) -> Tensor:
    """Dynamic NTK: the base grows with the length of the text, by the length only."""
    return 100.0 * torch.clamp(torch.ones((), dtype=q.dtype) * q.shape[-2] / 4 * 2 - 1, min=1.0) ** (HEAD / (HEAD - 2))


def rows_and_columns(x: Tensor, angle: Tensor) -> Tensor:
    """Half of the features turn with the row, half with the column of tokens laid out in rows of five."""
    n, speeds = steps(x), angles(x, HEAD // 2)[1]
    places = torch.div(n, 5, rounding_mode="floor"), torch.remainder(n, 5)
    return torch.cat(
        [interleaved(part, torch.outer(place, speeds)) for part, place in zip(x.chunk(2, -1), places, strict=True)], -1
    )


def xpos(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation with a decay that cancels up to the distance: queries grow, keys shrink."""
    zeta = (torch.arange(0, HEAD, 2, dtype=q.dtype, device=q.device) + 0.4 * HEAD) / (1.4 * HEAD)
    scale = (zeta ** (steps(q) / 8)[:, None]).repeat(1, 2)
    return half_split(q, angles(q)) * scale, half_split(k, angles(k)) / scale


def distance(q: Tensor) -> Tensor:
    return steps(q)[:, None] - steps(q)


def linear(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """ALiBi in the other spelling: minus the distance, times a slope per head."""
    slopes = 2.0 ** -torch.arange(1, HEADS + 1, dtype=q.dtype, device=q.device)
    return q @ k.transpose(-1, -2) - slopes[:, None, None] * distance(q).abs()


def network(model: Any, q: Tensor, k: Tensor) -> Tensor:
    signed_log = distance(q).sign() * distance(q).abs().log1p()
    bias: Tensor = model.net(signed_log.unsqueeze(-1)).permute(2, 0, 1)
    return q @ k.transpose(-1, -2) + bias


def transformer_xl(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """Sinusoids of distances through a learned map, met by the queries; the rows are slid into place by reshaping."""
    n = q.shape[-2]
    r = model.map(sinusoids(q).flip(0)).reshape(n, HEADS, HEAD).transpose(0, 1)
    content: Tensor = (q + model.u) @ k.transpose(-1, -2)
    by_place = nn.functional.pad((q + model.v) @ r.transpose(-1, -2), (1, 0))
    return content + by_place.reshape(q.shape[0], HEADS, n + 1, n)[:, :, 1:]


def shaw(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """A learned row per clipped distance, met by the queries (Shaw et al. 2018)."""
    return q @ k.transpose(-1, -2) + torch.einsum(
        "bhqd,qkd->bhqk", q, model.rows(distance(q).to(torch.int64).clamp(-4, 4) + 4)
    )


def sliced(model: Any, x: Tensor) -> Tensor:
    rows: Tensor = model.table[:, : x.shape[1]]
    return x + rows


def picked_flat(model: Any, x: Tensor) -> Tensor:
    """Rows for all tokens of all texts in one list, then laid out again."""
    place = torch.ones(x.shape[:2], dtype=torch.int64, device=x.device).cumsum(1)
    rows: Tensor = model.table[0].index_select(0, place.view(-1)).view(x.shape[0], x.shape[1], -1)
    return x + rows


def beside(model: Any, x: Tensor) -> Tensor:
    mixed: Tensor = model.mix(torch.cat([x, model.table[:, : x.shape[1]].expand_as(x)], -1))
    return mixed


def behind_prefix(model: Any, x: Tensor) -> Tensor:
    """Prompt tuning: learned tokens in front, positions for them and for the text."""
    return sliced(model, torch.cat([model.prefix.expand(x.shape[0], -1, -1), x], 1))


def table(n: int = 64, width: int = WIDTH) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, n, width))


# ------------------------------------------------------------------------------------------------- from transformers
def hf(
    model: str,
    settings: dict[str, Any],
    inputs: Callable[[], dict[str, Tensor]] = text,
    config: str = "",
    **build_options: Any,
) -> Architecture:
    stem = re.sub(r"For[A-Z].*|(MT)?Model$", "", model)
    return Architecture(model, model, config or f"{stem}Config", settings, inputs, build_options=build_options)


def llama(**rope: Any) -> Architecture:
    return hf("LlamaForCausalLM", {**DECODER, "rope_parameters": {"rope_theta": 100.0, **rope}})


def llama4(layers: list[int]) -> Architecture:
    settings = without(
        DECODER,
        intermediate_size_mlp=48,
        moe_layers=[],
        num_local_experts=2,
        no_rope_layers=layers,
        floor_scale=3,
        attn_scale=0.3,
        attention_chunk_size=16,
    )
    return hf("Llama4ForCausalLM", settings, config="Llama4TextConfig")


def masked_image() -> dict[str, Tensor]:
    return {**image(), "bool_masked_pos": torch.arange(BATCH * 16).reshape(BATCH, 16) % 3 == 0}


def boxes() -> dict[str, Tensor]:
    corner = torch.randint(0, 20, (BATCH, LENGTH, 2), generator=torch.Generator().manual_seed(4))
    return {**text(), "bbox": torch.cat([corner, corner + 9], -1)}


def sound() -> dict[str, Tensor]:
    return {"input_features": draw_floats(BATCH, 24, 16)}


BART, T5, SWIN, WAVE = (BY_NAME[n].settings for n in ("bart", "t5", "swin", "wav2vec2"))
PATCHES = dict(image_size=32, patch_size=8, num_labels=3, **TOWER)
WHISPER = without(
    BY_NAME["whisper"].settings,
    "decoder_start_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    classifier_proj_size=16,
    num_labels=3,
)
SPEECH = without(
    BART,
    "max_position_embeddings",
    "forced_eos_token_id",
    max_source_positions=64,
    max_target_positions=32,
    input_feat_per_channel=16,
    conv_channels=16,
    conv_kernel_sizes=(3, 3),
)
CONFORMER = dict(vocab_size=VOCAB, conv_depthwise_kernel_size=3, max_source_positions=64, **TOWER, **SPECIAL)
CONFORMED = {**WAVE, **CONFORMER}
PHI3 = without(DECODER, "head_dim", original_max_position_embeddings=8)
LONG = dict(rope_type="longrope", rope_theta=100.0, short_factor=[1.0] * 4, long_factor=[1.0, 1.5, 2.0, 4.0])
LAYOUT = without(
    ENCODER,
    max_2d_position_embeddings=64,
    coordinate_size=6,
    shape_size=4,
    rel_pos_bins=8,
    max_rel_pos=16,
    rel_2d_pos_bins=8,
    max_rel_2d_pos=16,
    visual_embed=False,
)
DEEPSEEK = without(
    DECODER,
    "head_dim",
    first_k_dense_replace=2,
    kv_lora_rank=16,
    q_lora_rank=None,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    num_key_value_heads=4,
    n_routed_experts=4,
    num_experts_per_tok=2,
)
QWEN_VL = dict(
    text_config=without(
        DECODER, "head_dim", rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
    ),
    vision_config=dict(depth=1, embed_dim=16, num_heads=2, hidden_size=32, patch_size=4),
)
SAM = dict(
    image_size=32,
    patch_size=8,
    output_channels=8,
    window_size=0,
    global_attn_indexes=[0, 1],
    mlp_dim=48,
    initializer_range=0.2,
    **without(TOWER, "intermediate_size"),
)

ABSOLUTE, SINES = ("absolute", "learned"), ("absolute", "sinusoidal")
HALVES, NEIGHBOURS, COMPLEX = ("rotary", "half-split"), ("rotary", "interleaved"), ("rotary", "complex")
SCALE = ("scale", "temperature")
TABLE, NET, SLOPES = ("bias", "learned table"), ("bias", "network"), ("bias", "fixed")
ROWS, WAVES = ("disentangled", "learned table"), ("disentangled", "sinusoidal table")
NONE = (None, None)

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
    Kind("rotary, half-split", "Llama", BY_NAME["llama"], *HALVES, slow=True),
    Kind(
        "rotary, positions given",
        "Llama",
        BY_NAME["llama"],
        *HALVES,
        tokens=lambda: {**text(), "position_ids": torch.arange(LENGTH).expand(BATCH, -1).contiguous()},
        slow=True,
    ),
    Kind("rotary, half-split, by hand", "hand-written", rotary(half_split), *HALVES),
    Kind("rotary, interleaved, from a table", "GPT-J", BY_NAME["gptj"], *NEIGHBOURS, slow=True),
    Kind(
        "rotary, interleaved",
        "Cohere",
        hf("CohereForCausalLM", without(DECODER, "head_dim", logit_scale=1.0)),
        *NEIGHBOURS,
        slow=True,
    ),
    Kind("rotary, interleaved and partial", "GLM", hf("GlmForCausalLM", DECODER), *NEIGHBOURS, slow=True),
    Kind("rotary, sinusoidal table", "RoFormer", hf("RoFormerForSequenceClassification", ENCODER), *NEIGHBOURS),
    Kind("rotary, complex numbers", "Llama-4", llama4([1, 1]), *COMPLEX, slow=True),
    Kind(
        "rotary, complex numbers, a part of the head",
        "DeepSeek-V2",
        hf("DeepseekV2ForCausalLM", DEEPSEEK),
        *COMPLEX,
        slow=True,
    ),
    Kind("rotary, complex numbers, by hand", "hand-written", rotary(complex_numbers), *COMPLEX),
    Kind(
        "rotary, four products, joined by cat",
        "GPT-OSS",
        hf(
            "GptOssForCausalLM",
            without(DECODER, num_local_experts=4, num_experts_per_tok=2, sliding_window=6),
            experts_implementation="batched_mm",
        ),
        *HALVES,
        learned=2,
        slow=True,
    ),
    Kind("rotary, four products, joined by stack", "hand-written", rotary(interleaved), *NEIGHBOURS),
    Kind("rotary, partial", "GPT-NeoX", BY_NAME["gpt_neox"], *HALVES, slow=True),
    Kind("rotary, partial", "Phi", BY_NAME["phi"], *HALVES, slow=True),
    Kind(
        "rotary, of hidden states",
        "Wav2Vec2-Conformer",
        hf("Wav2Vec2ConformerForCTC", {**CONFORMED, "position_embeddings_type": "rotary"}, BY_NAME["wav2vec2"].inputs),
        *HALVES,
        slow=True,
    ),
    Kind("rotary, linear scaling", "Llama", llama(rope_type="linear", factor=4.0), *HALVES, slow=True),
    Kind(
        "rotary, dynamic NTK",
        "Llama",
        hf(
            "LlamaForCausalLM",
            {
                **DECODER,
                "max_position_embeddings": 8,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0},
            },
        ),
        *HALVES,
    ),
    Kind("rotary, dynamic NTK, by hand", "hand-written", rotary(half_split, longer), *HALVES),
    Kind(
        "rotary, YaRN",
        "Llama",
        llama(rope_type="yarn", factor=8.0, original_max_position_embeddings=8),
        *HALVES,
        slow=True,
    ),
    Kind(
        "rotary, Llama 3",
        "Llama",
        llama(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8,
        ),
        *HALVES,
        slow=True,
    ),
    Kind("rotary, LongRoPE", "Phi-3", hf("Phi3ForCausalLM", {**PHI3, "rope_parameters": LONG}), *HALVES, slow=True),
    Kind("rotary, xPos", "hand-written", lambda: Small(turn=xpos), *HALVES),
    Kind("rotary, several sections", "Qwen2-VL", hf("Qwen2VLForConditionalGeneration", QWEN_VL), *HALVES, slow=True),
    Kind(
        "rotary, two-dimensional",
        "DINOv3",
        hf("DINOv3ViTModel", {**without(PATCHES, "num_labels"), "num_register_tokens": 2}, image),
        *HALVES,
        learned=2,
        options={"output": "pooler_output"},
    ),
    Kind(
        "rotary, two-dimensional, images packed",
        "Pixtral",
        hf("PixtralVisionModel", without(PATCHES, "num_labels"), image, "PixtralVisionConfig"),
        *HALVES,
        tokens=lambda: {"pixel_values": draw_floats(1, 3, 32, 32)},
        options={"dynamic": False},
        target=some,
    ),
    Kind("rotary, two-dimensional, by hand", "hand-written", rotary(rows_and_columns), *NEIGHBOURS),
    Kind("rotary, other frequencies per layer", "Gemma-3", BY_NAME["gemma3"], *HALVES, slow=True),
    Kind("rotary, other frequencies per layer", "ModernBERT", BY_NAME["modernbert"], *HALVES, slow=True),
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
    Kind(
        "registers",
        "DINOv2",
        hf(
            "Dinov2WithRegistersForImageClassification",
            {**without(PATCHES, "intermediate_size"), "num_register_tokens": 2},
            image,
        ),
        *ABSOLUTE,
        learned=2,
    ),
    Kind(
        "mask token",
        "BEiT",
        hf(
            "BeitForMaskedImageModeling",
            {**PATCHES, "use_mask_token": True, "use_absolute_position_embeddings": True},
            masked_image,
        ),
        *ABSOLUTE,
        learned=2,
    ),
    Kind(
        "mask token",
        "ViT",
        hf("ViTForMaskedImageModeling", {**PATCHES, "encoder_stride": 8}, masked_image),
        *ABSOLUTE,
        learned=2,
        options={"output": "reconstruction"},
        target=some,
        slow=True,
    ),
    Kind("prefix", "hand-written", lambda: Small(behind_prefix, table=table(), prefix=table(4)), *ABSOLUTE, learned=1),
]
