"""Spellings of a selective scan with a scalar decay per head: ``s_t = exp(dt_t A) s_(t-1) + dt_t B_t x_t``, ``y_t = C_t
s_t``.

``x``: (batch, tokens, heads, width), ``dt``: (batch, tokens, heads), ``A``: (heads,), ``B``, ``C``: (batch, tokens,
states).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from testing.spellings.common import HEADS, WIDTH, Spelling, Tokens

STATES = 3


class Scanning(Tokens):
    """x + V (scan(Wx) silu(z)): one projection gives what the scan takes, and its gate."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.fused = nn.Linear(WIDTH, 2 * WIDTH + HEADS + 2 * STATES)
        self.rates = nn.Parameter(torch.rand(HEADS))
        self.down = nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        u, z, dt, B, C = self.fused(x).split([WIDTH, WIDTH, HEADS, STATES, STATES], -1)
        y = self.spelling(F.silu(u).unflatten(-1, (HEADS, -1)), F.softplus(dt), -self.rates.exp(), B, C)
        return x + self.down(y.flatten(2) * F.silu(z))  # type: ignore[no-any-return]


host = Scanning


def loop(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    decay, inputs = torch.exp(dt * A), dt[..., None, None] * x[..., None] * B[:, :, None, None]
    state, results = torch.zeros_like(inputs[:, 0]), []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None, None] * state + inputs[:, t]
        results.append((state * C[:, t, None, None]).sum(-1))
    return torch.stack(results, 1)


def discretised_inside(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    state, results = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]), []
    for x_t, dt_t, B_t, C_t in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        state = state * (dt_t * A).exp()[..., None, None] + (dt_t[..., None] * x_t)[..., None] * B_t[:, None, None, :]
        results.append(torch.einsum("bhpn,bn->bhp", state, C_t))
    return torch.stack(results, 1)


def without_zeros(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    inputs = torch.einsum("bth,btn,bthp->bthpn", dt, B, x)
    states = [inputs[:, 0]]
    for t in range(1, x.shape[1]):
        states.append(inputs[:, t] + states[-1] * torch.exp(dt[:, t] * A)[:, :, None, None])
    return torch.einsum("bthpn,btn->bthp", torch.stack(states, 1), C)


def in_place(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    y, state = torch.zeros_like(x), torch.zeros(*x[:, 0].shape, B.shape[-1], dtype=x.dtype)
    for t in range(x.shape[1]):
        state *= torch.exp(dt[:, t] * A)[:, :, None, None]
        state += (dt[:, t, :, None] * x[:, t]).unsqueeze(-1) * B[:, t].reshape(-1, 1, 1, STATES)
        y[:, t] = (state @ C[:, t, None, :, None]).squeeze(-1)
    return y


def transposed_state(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    decay = (dt * A).exp()
    state, results = x.new_zeros(x.shape[0], HEADS, STATES, x.shape[-1]), []
    for t in range(x.shape[1]):
        written = B[:, t, None, :, None] @ (x[:, t] * dt[:, t].unsqueeze(-1)).unsqueeze(-2)
        state = written + decay[:, t].view(-1, HEADS, 1, 1) * state
        results.append((C[:, t, None, None, :] @ state).squeeze(-2))
    return torch.cat([r.unsqueeze(1) for r in results], 1)


def state_by_state(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    decay, inputs = torch.exp(A * dt).unsqueeze(-1), dt.unsqueeze(-1) * x
    y = 0
    for n in range(STATES):
        state, results = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = torch.addcmul(inputs[:, t] * B[:, t, n, None, None], decay[:, t], state)
            results.append(C[:, t, n, None, None] * state)
        y = y + torch.stack(results, 1)
    return y  # type: ignore[return-value]


def _decays(dt: Tensor, A: Tensor) -> Tensor:
    """(batch, heads, tokens, tokens): what is left at token t of what token s wrote."""
    total = (dt * A).cumsum(1).transpose(1, 2)
    hidden = torch.ones(dt.shape[1], dt.shape[1], dtype=torch.bool).triu(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(hidden, float("-inf")).exp()


def weights_between_tokens(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    weights = (C @ B.transpose(1, 2)).unsqueeze(1) * _decays(dt, A)
    return (weights @ (x * dt.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2)


def step_in_the_weights(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    weights = torch.einsum("btn,bsn,bhts,bsh->bhts", C, B, _decays(dt, A), dt)
    return torch.einsum("bhts,bshp->bthp", weights, x)


def segment_sum(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    n = x.shape[1]
    logs = (dt * A).transpose(1, 2)[..., None].expand(-1, -1, -1, n)
    segments = logs.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(-1), 0).cumsum(-2)
    L = torch.exp(segments.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(0), -torch.inf))
    G = torch.einsum("btn,bsn->bts", C, B)
    return torch.einsum("bts,bhts,bshp->bthp", G, L, x * dt[..., None])


def states_between_tokens(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    written = (dt[..., None] * x)[..., None] * B[:, :, None, None]
    states = torch.einsum("bhts,bshpn->bthpn", _decays(dt, A), written)
    return (states * C[:, :, None, None]).sum(-1)


def cumulative_sum(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    total = torch.cumsum(dt * A, 1)[..., None, None]
    written = (x * dt[..., None])[..., None] * B[:, :, None, None] * torch.exp(-total)
    return torch.einsum("btn,bthpn->bthp", C, torch.exp(total) * written.cumsum(1))


def cumulative_product(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    left = torch.cumprod(torch.exp(dt * A), 1)[..., None, None]
    written = x[..., None] * (dt[..., None] * B[:, :, None]).unsqueeze(-2) / left
    return (written.cumsum(1) * left * C[:, :, None, None]).sum(-1)


def chunks(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    size, length = 3, x.shape[1]
    pad = -length % size
    x, B, C = F.pad(x * dt[..., None], (0, 0, 0, 0, 0, pad)), F.pad(B, (0, 0, 0, pad)), F.pad(C, (0, 0, 0, pad))
    steps = F.pad(dt, (0, 0, 0, pad))
    state, results = 0.0, []
    for i in range(0, length + pad, size):
        x_c, B_c, C_c, total = (
            x[:, i : i + size],
            B[:, i : i + size],
            C[:, i : i + size],
            (steps[:, i : i + size] * A).cumsum(1),
        )
        inside = torch.einsum("btn,bsn,bhts,bshp->bthp", C_c, B_c, _decays(steps[:, i : i + size], A), x_c)
        before = torch.einsum("btn,bhpn->bthp", C_c, state) * total.exp().unsqueeze(-1) if i else 0.0
        written = torch.einsum("bsn,bsh,bshp->bhpn", B_c, torch.exp(total[:, -1:] - total), x_c)
        state = written + (total[:, -1].exp()[..., None, None] * state if i else 0.0)
        results.append(inside + before)
    return torch.cat(results, 1)[:, :length]


SPELLINGS = [
    loop, discretised_inside, without_zeros, in_place, transposed_state, state_by_state, weights_between_tokens,
    step_in_the_weights, segment_sum, states_between_tokens, cumulative_sum, cumulative_product, chunks,
]  # fmt: skip
