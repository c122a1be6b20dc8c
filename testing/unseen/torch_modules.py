"""torch's own modules: nn.Transformer, nn.TransformerEncoder, nn.MultiheadAttention, each with its formula written
out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from testing.handmade import ready
from testing.unseen.common import CLASSES, HEADS, VOCABULARY, WIDTH, Case, Text, ids, padded, written_as

NEVER = float("-inf")


def written_attention(m: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """What nn.MultiheadAttention computes on (B, T, ·), from its parameters; the mask is added to the scores."""
    b = m.in_proj_bias
    if m._qkv_same_embed_dim:
        wq, wk, wv = m.in_proj_weight.chunk(3)
    else:
        wq, wk, wv = m.q_proj_weight, m.k_proj_weight, m.v_proj_weight
    bq, bk, bv = b.chunk(3) if b is not None else (None, None, None)
    q, k, v = F.linear(q, wq, bq), F.linear(k, wk, bk), F.linear(v, wv, bv)
    extra = 0
    if m.bias_k is not None and m.bias_v is not None:
        k, v = (torch.cat([t, s.expand(t.shape[0], 1, -1)], 1) for t, s in ((k, m.bias_k), (v, m.bias_v)))
        extra += 1
    if m.add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros(t.shape[0], 1, t.shape[2])], 1) for t in (k, v))
        extra += 1
    if mask is not None and extra:
        mask = F.pad(mask, (0, extra))
    q, k, v = (t.unflatten(-1, (m.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return m.out_proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def causal(n: int, like: Tensor) -> Tensor:
    return torch.zeros(n, n, dtype=like.dtype, device=like.device).masked_fill(
        torch.ones(n, n, dtype=torch.bool, device=like.device).triu(1), NEVER
    )


class Encoder(Text):
    """nn.TransformerEncoder, with padding; the mean is over the tokens that are there."""

    def __init__(self, nested: bool = False, norm_first: bool = False, activation: str = "relu") -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 12, activation=activation, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=nested)

    def encode(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, padding: Tensor) -> Tensor:
        x = self.encode(self.embed(input_ids), padding)
        kept = (~padding).unsqueeze(-1).to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]


class WrittenEncoder(Encoder):
    def encode(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[0], 1, 1, x.shape[1], dtype=x.dtype, device=x.device).masked_fill(
            padding[:, None, None], NEVER
        )
        for layer in self.encoder.layers:

            def feed(y: Tensor, layer: nn.TransformerEncoderLayer = layer) -> Tensor:  # type: ignore[assignment]
                return layer.linear2(layer.activation(layer.linear1(y)))  # type: ignore[no-any-return, operator]

            if layer.norm_first:
                y = layer.norm1(x)
                x = x + written_attention(layer.self_attn, y, y, y, mask)
                x = x + feed(layer.norm2(x))
            else:
                x = layer.norm1(x + written_attention(layer.self_attn, x, x, x, mask))
                x = layer.norm2(x + feed(x))
        return self.encoder.norm(x)  # type: ignore[no-any-return]


class Translator(nn.Module):
    """nn.Transformer with a causal target, two texts and a mask of each."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 1, 12, batch_first=True, activation="gelu")

    def forward(self, input_ids: Tensor, decoder_ids: Tensor, padding: Tensor) -> Tensor:
        target = self.words(decoder_ids)
        mask = nn.Transformer.generate_square_subsequent_mask(decoder_ids.shape[1], dtype=target.dtype)
        return self.head(self.translate(self.words(input_ids), target, mask, padding))  # type: ignore[no-any-return]

    def translate(self, source: Tensor, target: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
        return self.transformer(
            source,
            target,
            tgt_mask=mask,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )  # type: ignore[no-any-return]


class WrittenTranslator(Translator):
    def translate(self, source: Tensor, target: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
        hidden = torch.where(padding, NEVER, 0.0).to(source.dtype)[:, None, None]
        (e,), (d,) = self.transformer.encoder.layers, self.transformer.decoder.layers
        m = e.norm1(source + written_attention(e.self_attn, source, source, source, hidden))
        m = self.transformer.encoder.norm(e.norm2(m + e.linear2(F.gelu(e.linear1(m)))))
        x = d.norm1(target + written_attention(d.self_attn, target, target, target, mask))
        x = d.norm2(x + written_attention(d.multihead_attn, x, m, m, hidden))
        x = d.norm3(x + d.linear2(F.gelu(d.linear1(x))))
        return self.transformer.decoder.norm(x)  # type: ignore[no-any-return]


def two_texts(batch: int, length: int) -> dict[str, Tensor]:
    first = padded(batch, length)
    return {
        "input_ids": first["input_ids"],
        "decoder_ids": ids(batch, length - 2)["input_ids"],
        "padding": first["padding"],
    }


class Attentions(Text):
    """nn.MultiheadAttention with and without weights, under masks of both kinds, batch first and not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, bias=i != 1) for i in range(3))
        self.d = nn.MultiheadAttention(WIDTH, HEADS)

    def between(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        later = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        x = x + self.a(x, x, x, attn_mask=later, need_weights=False)[0]
        x = x + self.b(x, x, x, attn_mask=causal(n, x), need_weights=True)[0]
        x = x + self.c(x, x, x, need_weights=True, average_attn_weights=False)[0]
        y = x.transpose(0, 1)
        return x + self.d(y, y, y, attn_mask=later, is_causal=True, need_weights=False)[0].transpose(0, 1)  # type: ignore[no-any-return]


class WrittenAttentions(Attentions):
    def between(self, x: Tensor) -> Tensor:
        for m, masked in ((self.a, True), (self.b, True), (self.c, False), (self.d, True)):
            x = x + written_attention(m, x, x, x, causal(x.shape[1], x) if masked else None)
        return x


class OddAttentions(nn.Module):
    """Keys and values of other widths, learned keys and values, a zero key, padding; two outputs, the second the
    weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words, self.keys, self.values, self.head = (nn.Embedding(VOCABULARY, n) for n in (WIDTH, 6, 5, CLASSES))
        self.head = nn.Linear(WIDTH, CLASSES)  # type: ignore[assignment]
        self.other = nn.MultiheadAttention(WIDTH, HEADS, kdim=6, vdim=5, batch_first=True)
        self.learned = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True, batch_first=True)
        self.zero = nn.MultiheadAttention(WIDTH, HEADS, add_zero_attn=True, batch_first=True)

    def attend(self, m: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return m(q, k, v, key_padding_mask=padding)[0]  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(input_ids)
        x = x + self.attend(self.other, x, self.keys(input_ids), self.values(input_ids), padding)
        x = x + self.attend(self.learned, x, x, x, padding)
        x = x + self.attend(self.zero, x, x, x, padding)
        return self.head(x[:, 0]), x.detach()


class WrittenOddAttentions(OddAttentions):
    def attend(self, m: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor) -> Tensor:
        return written_attention(m, q, k, v, torch.where(padding, NEVER, 0.0).to(q.dtype)[:, None, None])


CASES = [
    Case(
        "encoder, slow path",
        lambda: ready(Encoder()),
        written_as(WrittenEncoder),
        {"attention": 2, "normalisation": 5},
        padded,
    ),
    Case(
        "encoder, nested tensors",
        lambda: ready(Encoder(nested=True)),
        written_as(WrittenEncoder),
        {"attention": 2, "normalisation": 5},
        padded,
    ),
    Case(
        "encoder, norm first",
        lambda: ready(Encoder(norm_first=True, activation="gelu")),
        written_as(lambda: WrittenEncoder(norm_first=True, activation="gelu")),
        {"attention": 2, "normalisation": 5},
        padded,
    ),
    Case(
        "nn.Transformer",
        lambda: ready(Translator()),
        written_as(WrittenTranslator),
        {"attention": 3, "normalisation": 7},
        two_texts,
    ),
    Case("nn.MultiheadAttention", lambda: ready(Attentions()), written_as(WrittenAttentions), {"attention": 4}),
    Case(
        "nn.MultiheadAttention, odd",
        lambda: ready(OddAttentions()),
        written_as(WrittenOddAttentions),
        {"attention": 3},
        padded,
    ),
]
