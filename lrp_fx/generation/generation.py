"""Generation: what a model wrote, step by step, and how much each step has from what stands before it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.generation.hops import handed_on
from lrp_fx.render import matrix as drawing
from lrp_fx.render.matrix import Matrix
from lrp_fx.report.ledger import Ledger
from lrp_fx.report.parts import rows_of
from lrp_fx.report.tables import as_json, pandas
from lrp_fx.report.words import text_of, word_spans


@dataclass(frozen=True)
class Piece:
    """Tokens that count together: of ``input``, at the places ``start`` to before ``stop``; their ``ids``, and the
    ``tokens`` as the vocabulary writes them. ``step``: the number of the step in which the first of them was written,
    None for what was given. An input that counts as a whole (an image, a sound) has neither ids nor tokens.
    """

    input: str
    start: int
    stop: int
    ids: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()
    step: int | None = None

    @property
    def text(self) -> str:
        """What it reads, with the space in front of it; ids where tokens have no names."""
        return text_of(self.tokens) if self.tokens else " ".join(map(str, self.ids)) or self.input


@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    """Relevance of every step of a text to what stood before it; amounts are in units of the explained logits.

    ``targets``: the n rows, what was written in each step (or span of steps). ``sources``: the S columns: the tokens of
        every text, what is given first and then what was written, and other inputs as one column each.
    ``content``, ``position`` (n, S): `matrix` is their sum; zero where a source comes after the step.
    ``scores`` (n,): the logit of what was written (of a span, the sum; against something else, the difference).
    ``probabilities``, ``entropy`` (n,): of what was written in its row of the output (entropy in nats); of a span the
        product, and the sum. NaN where the output was not kept, or nothing was explained.
    ``rest``: name -> (n,): what went to no source, as in the ledger; ``scores = matrix.sum(1) + sum of rest``.
    ``ledger``: the books of each step, without positions by site; None for steps in which both texts say the same.
    ``against``: what might have been written instead, one text for each row; empty where that was not asked.
    """

    targets: tuple[Piece, ...]
    sources: tuple[Piece, ...]
    content: Tensor
    position: Tensor
    scores: Tensor
    probabilities: Tensor
    entropy: Tensor
    rest: dict[str, Tensor]
    ledger: tuple[Ledger | None, ...]
    ruleset: str
    against: tuple[str, ...] = ()
    hopped: int = 0

    @property
    def matrix(self) -> Tensor:
        """(n, S): content and position together."""
        return self.content + self.position

    @property
    def tokens(self) -> list[str]:
        """What the sources read, by column."""
        return [piece.text for piece in self.sources]

    @property
    def written(self) -> list[str]:
        """What the steps wrote, by row."""
        return [piece.text for piece in self.targets]

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.targets)

    def __getitem__(self, index: Any) -> Generation:
        """Some of the rows: a number, a slice, a list of numbers or truth values."""
        rows = rows_of(index, len(self))

        def some(values: Any) -> Any:
            return values[rows] if isinstance(values, Tensor) else tuple(values[k] for k in rows)

        kept = {n: some(t) for n, t in self.rest.items()}
        names = ("targets", "content", "position", "scores", "probabilities", "entropy", "ledger")
        values = {n: some(getattr(self, n)) for n in names}
        return replace(self, **values, rest=kept, against=some(self.against) if self.against else ())

    def __iter__(self) -> Iterator[Generation]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        hops = f", {self.hopped} hops" if self.hopped else ""
        text = text_of([t for piece in self.targets for t in piece.tokens]) or " ".join(self.written)
        text = f"{text[:57]}..." if len(text) > 60 else text
        steps = f"{len(self)} step{'s' * (len(self) != 1)}"
        return f"Generation({text!r}: {steps} from {len(self.sources)} sources{hops})"

    # ------------------------------------------------------------------------------------------------ other readings
    def words(self) -> Generation:
        """Words instead of tokens, in rows and columns; sums stay, and so do the places where the prompt ends.

        Scores and entropies of a word are summed, its probability is the product. Without names of tokens
        (`lrp_fx.convert(model, tokenizer=...)`) raises `InputError`.
        """
        if not any(piece.tokens for piece in self.sources):
            raise InputError("tokens have no names here: convert(model, tokenizer=...) knows what makes a word")
        rows, columns = _words(self.targets), _words(self.sources)
        return replace(
            self,
            targets=tuple(_joined(self.targets[a:b]) for a, b in rows),
            sources=tuple(_joined(self.sources[a:b]) for a, b in columns),
            content=_summed(_summed(self.content, rows, 0), columns, 1),
            position=_summed(_summed(self.position, rows, 0), columns, 1),
            scores=_summed(self.scores, rows, 0),
            entropy=_summed(self.entropy, rows, 0),
            probabilities=torch.stack([self.probabilities[a:b].prod() for a, b in rows]),
            rest={n: _summed(t, rows, 0) for n, t in self.rest.items()},
            ledger=tuple(self.ledger[a] if b == a + 1 else None for a, b in rows),
            against=tuple(" ".join(self.against[a:b]) for a, b in rows) if self.against else (),
        )

    def hops(self, count: int | None = None) -> Generation:
        """Relevance of what was written handed on to what it was written from, ``count`` times; None: until all of it
        lies on what was given.

        One hop takes what a step has from an earlier step j and gives it to the sources of j, in the proportions of j's
        own books: ``M' = M - M_w + M_w diag(1 / scores) M0``, with ``M0`` the matrix of single steps and ``M_w`` the
        columns of what was written; likewise for every part of ``rest``, so that each row still adds up to its score.
        A step whose parts cancel (absolute amounts above ten times its score), or of which nothing was explained, has
        no proportions: what it was to hand on is in ``rest["not handed on"]``.

        Raises `InputError` where rows are spans, words or some of the steps, or relevance was handed on before.
        """
        steps = [t.step for t in self.targets if t.step is not None and t.stop == t.start + 1]
        if self.hopped or steps != list(range(len(self))):
            raise InputError("hops() takes a generation with one row for each token written, as it was explained")
        if count is not None and count < 0:
            raise InputError(f"hops({count}): give how often relevance is handed on, or nothing")
        columns = {s.step: n for n, s in enumerate(self.sources) if s.step is not None}
        own = [columns[step] for step in steps]
        times = len(self) if count is None else count
        content, position, rest = handed_on(self.content, self.position, self.scores, self.rest, own, times)
        return replace(self, content=content, position=position, rest=rest, hopped=times, ledger=(None,) * len(self))

    # ------------------------------------------------------------------------------------------------ pictures
    def show(self, console: Any = None) -> None:
        """Print each step with its probability, score and sources; colours have one scale.

        console: a `rich.console.Console` (default: standard output).
        """
        drawing.show(self._drawn(), console)

    def to_html(self, path: Any = None) -> str:
        """The matrix as a self-contained page, steps by sources; written to ``path`` if one is given."""
        return drawing.to_html(self._drawn(), path)

    def _repr_html_(self) -> str:
        return drawing.fragment(self._drawn())

    def plot(self) -> Any:
        """A `matplotlib.figure.Figure` of the matrix. Raises `InputError` without matplotlib (``lrp-fx[plot]``)."""
        return drawing.plot(self._drawn())

    def _drawn(self) -> Matrix:
        def numbers(values: Tensor) -> Any:
            return values.detach().to("cpu", torch.float64).numpy()

        rest = sum(self.rest.values(), torch.zeros_like(self.scores))
        hops = f", handed on {self.hopped} times" if self.hopped else ""
        return Matrix(
            f"{'logit differences' if self.against else 'logits'} of what was written{hops}",
            self.ruleset,
            tuple(self.written),
            tuple(self.tokens),
            sum(s.step is None for s in self.sources),
            numbers(self.matrix),
            numbers(self.scores),
            numbers(self.probabilities),
            numbers(rest),
            self.against,
        )

    # ------------------------------------------------------------------------------------------------ tables
    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as JSON has them: sources, and for each step its text, score and amounts."""
        return {
            "ruleset": self.ruleset,
            "hops": self.hopped,
            "sources": [_told(piece) for piece in self.sources],
            "steps": [
                {
                    **_told(piece),
                    **({"against": self.against[k]} if self.against else {}),
                    "score": float(self.scores[k]),
                    "probability": _or_none(self.probabilities[k]),
                    "entropy": _or_none(self.entropy[k]),
                    "content": self.content[k].tolist(),
                    "position": self.position[k].tolist(),
                    "rest": {n: float(t[k]) for n, t in self.rest.items()},
                }
                for k, piece in enumerate(self.targets)
            ],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The same as text, written to ``path`` if one is given."""
        return as_json(self.to_dict(), path)

    def to_frame(self) -> Any:
        """The matrix as a `pandas.DataFrame`: rows by (step, text), columns by (input, place, text)."""
        pd = pandas()
        columns = [(s.input, s.start, s.text) for s in self.sources]
        return pd.DataFrame(
            self.matrix.detach().cpu().numpy(),
            index=pd.MultiIndex.from_tuples([(t.step, t.text) for t in self.targets], names=["step", "written"]),
            columns=pd.MultiIndex.from_tuples(columns, names=["input", "place", "token"]),
        )


def _told(piece: Piece) -> dict[str, Any]:
    return {"input": piece.input, "place": piece.start, "ids": list(piece.ids), "text": piece.text, "step": piece.step}


def _or_none(value: Tensor) -> float | None:
    number = float(value)
    return number if number == number else None


def _words(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Spans of pieces that make a word; texts end where an input does, and what is written begins a word."""
    names = ["".join(p.tokens) or f"<{p.input}>" for p in pieces]
    pairs = itertools.pairwise(pieces)
    breaks = {n + 1 for n, (a, b) in enumerate(pairs) if a.input != b.input or (a.step is None) != (b.step is None)}
    return word_spans(names, breaks)


def _joined(pieces: Sequence[Piece]) -> Piece:
    ids, tokens = (tuple(x for p in pieces for x in getattr(p, name)) for name in ("ids", "tokens"))
    return Piece(pieces[0].input, pieces[0].start, pieces[-1].stop, ids, tokens, pieces[0].step)


def _summed(values: Tensor, spans: Sequence[tuple[int, int]], axis: int) -> Tensor:
    return torch.stack([values.narrow(axis, a, b - a).sum(axis) for a, b in spans], axis)
