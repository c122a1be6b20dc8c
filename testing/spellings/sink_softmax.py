"""Spellings of a softmax with a sink: one more score for each head, learned, whose weight goes nowhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Sunk as host  # noqa: F401


def cut_off(s: Tensor, sink: Tensor) -> Tensor:
    column = sink.reshape(1, -1, 1, 1).expand(s.shape[0], -1, s.shape[2], 1)
    return torch.cat([s, column], -1).softmax(-1)[..., :-1]


def in_front(s: Tensor, sink: Tensor) -> Tensor:
    column = sink[None, :, None, None].expand(*s.shape[:3], 1)
    return F.softmax(torch.cat((column, s), dim=-1), dim=-1)[..., 1:]


def shifted(s: Tensor, sink: Tensor) -> Tensor:
    column = sink.view(1, -1, 1, 1).repeat(s.shape[0], 1, s.shape[2], 1)
    logits = torch.cat([s, column], -1)
    logits = logits - logits.max(-1, keepdim=True).values
    return torch.split(logits.softmax(-1), [s.shape[-1], 1], -1)[0]


def narrowed(s: Tensor, sink: Tensor) -> Tensor:
    column = torch.ones_like(s[..., :1]) * sink[:, None, None]
    weights = torch.softmax(torch.concat([s, column], 3), 3)
    return weights.narrow(-1, 0, s.shape[-1])


def padded(s: Tensor, sink: Tensor) -> Tensor:
    logits = F.pad(s, (0, 1)) + F.pad(torch.zeros_like(s), (0, 1), value=1.0) * sink[:, None, None]
    return logits.softmax(-1)[..., : s.shape[-1]]


def exponentials(s: Tensor, sink: Tensor) -> Tensor:
    e = s.exp()
    return e / (e.sum(-1, keepdim=True) + sink.exp()[:, None, None])


def less_the_largest(s: Tensor, sink: Tensor) -> Tensor:
    largest = s.amax(-1, keepdim=True)
    e = torch.exp(s - largest)
    return e / (torch.exp(sink[:, None, None] - largest) + e.sum(-1, keepdim=True))


def less_the_largest_detached(s: Tensor, sink: Tensor) -> Tensor:
    largest = torch.maximum(s.amax(-1, keepdim=True), sink[:, None, None]).detach()
    e = torch.exp(s - largest)
    return e * (1.0 / (e.sum(-1, keepdim=True) + torch.exp(sink[:, None, None] - largest)))


def over_joint_normaliser(s: Tensor, sink: Tensor) -> Tensor:
    column = sink[:, None, None].expand(*s.shape[:3], 1)
    logits = torch.cat([s, column], -1)
    return torch.exp(logits - logits.logsumexp(-1, keepdim=True))[..., :-1]


SPELLINGS = [
    cut_off,
    in_front,
    shifted,
    narrowed,
    padded,
    exponentials,
    less_the_largest,
    less_the_largest_detached,
    over_joint_normaliser,
]
SLOW = {"in_front", "shifted", "narrowed", "less_the_largest_detached", "over_joint_normaliser"}
