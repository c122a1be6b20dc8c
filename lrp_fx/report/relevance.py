"""The result of an explanation: relevance of content and position, per token, and the books."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError, needed, warn_user
from lrp_fx.render import figure, page
from lrp_fx.report import heat
from lrp_fx.report.activation import Activations
from lrp_fx.report.circuit import Circuit, circuit_of
from lrp_fx.report.edges import Edges
from lrp_fx.report.explained import Explained
from lrp_fx.report.hiding import hidden
from lrp_fx.report.kept import as_output, read, write
from lrp_fx.report.ledger import Ledger
from lrp_fx.report.parts import changed, compact, detached, moving, rows_of, taking
from lrp_fx.report.past import past
from lrp_fx.report.pieces import words_at
from lrp_fx.report.position import CREDITS, KEY, PositionSite, find_aggregation
from lrp_fx.report.readings import Readings
from lrp_fx.report.tokens import is_text, not_by_token
from lrp_fx.report.view import picture
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.structure.forms import Form

DEPTHS = ("input", "mean")


@dataclass(frozen=True, eq=False, repr=False)
class Stream:
    """Relevance of one residual stream: ``depth`` (depths, B, T), ``names`` of the values it was read at, ``owner``
    input.

    ``above``: for each depth, the numbers of the position sites that lie above it.
    """

    depth: Tensor
    names: tuple[str, ...]
    module: str
    owner: str | None
    above: tuple[frozenset[int], ...] = ()

    def __repr__(self) -> str:
        return f"Stream({self.owner or self.module or 'model'}, depth {tuple(self.depth.shape)})"


@dataclass(frozen=True, eq=False, repr=False)
class Relevance(Readings):
    """What an explainer returns. ``len``, ``[i]``, slices, lists of numbers and iteration take examples of it.

    ``score`` (B,): the explained quantity. ``output``: the model's own output, untouched (None without
              ``keep_output``). ``content``: input name ->
    (B, T) for index inputs, the input's own shape for floating inputs. ``position``: one entry per injection.
    ``learned``, ``segment``: raw relevance of learned tokens and segment embeddings, by leaf name. ``streams``:
    relevance along the residual streams. ``cached``: input name -> relevance of what was computed for earlier tokens
    and given in a cache (keys, values, states), in its own shape; `past` sums it by earlier token. ``vocabulary``: what
    ids and classes are called, where the explainer knows it. ``target``: what is explained, for each example, by
    index, name, place and probability; as text, the target as it was given. ``forms``: input
    name -> what its axes stand for (time, patches in one list), as the model reads it. ``apart``: names in ``content``
    whose rows are in an order that is not known, and stand for no token. ``at``: the places inside the
    model that were asked for (``explainer(..., at=...)``), by name. ``edges``: what passes between places, None unless
    it was asked for (``explainer(..., edges=...)``); `graph` draws it.
    """

    score: Tensor
    output: Any
    content: dict[str, Tensor]
    position: list[PositionSite]
    learned: dict[str, Tensor]
    segment: dict[str, Tensor]
    ledger: Ledger
    inputs: dict[str, Tensor]
    target: Explained
    ruleset: str
    streams: list[Stream] = field(default_factory=list)
    cached: dict[str, Tensor] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    forms: dict[str, Form] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    at: Activations = field(default_factory=Activations)
    edges: Edges | None = None

    def __post_init__(self) -> None:
        if self.vocabulary is not None and self.target.vocabulary is not self.vocabulary:
            object.__setattr__(self, "target", replace(self.target, vocabulary=self.vocabulary))

    def __len__(self) -> int:
        """How many examples there are."""
        return self.score.numel()

    def __getitem__(self, index: Any) -> Relevance:
        """Some of the examples, as a result of its own: padding and all. A number gives a batch of one.

        index: a number, a slice, a list of numbers or truth values. Balances of sites (``ledger.sites``) are sums over
            the whole batch: a part of a batch has none.
        """
        rows = rows_of(index, len(self))
        if rows == list(range(len(self))):
            return self
        part = changed(self, taking(rows, len(self)))
        return replace(part, ledger=replace(part.ledger, sites=[]))

    def __iter__(self) -> Iterator[Relevance]:
        return (self[n] for n in range(len(self)))

    def to(self, *args: Any, **kwargs: Any) -> Relevance:
        """On another device, or in another floating type: the arguments of `torch.Tensor.to`."""
        return changed(self, moving(*args, **kwargs))

    def detach(self) -> Relevance:
        """The same numbers without gradients (``convert(differentiable=True)``); itself where there are none."""
        return changed(self, detached) if self.score.requires_grad else self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold what belongs to the result, and nothing that it was cut or computed from."""
        whole = changed(self.detach(), compact)
        return {f.name: getattr(whole, f.name) for f in fields(whole)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def save(self, path: str | Path, *, positions: bool = True, output: bool = True) -> None:
        """Write the result to one file (safetensors with a JSON header), for `load`.

        positions: False keeps position relevance as signed sums by token, a small part of its raw form; other
            aggregations cannot be read then. output: False leaves out what the model returned.

        Raises `InputError` where the file cannot be written; what was there stays then.
        """
        sites = self.position if positions else [site.sums() for site in self.position]
        books = self.ledger.token_books if positions else replace(self.ledger.token_books, position=sites)
        made = replace(
            self,
            position=sites,
            output=as_output(self.output) if output else None,
            ledger=replace(self.ledger, token_books=books),
        )
        write(path, made, (Relevance, Stream))

    @staticmethod
    def load(path: str | Path) -> Relevance:
        """The result in a file, its tensors to the bit. What the model returned is a tensor, or by name
        (``output.logits``) where it was more. Nothing that a file holds is run.

        Raises `InputError` for a file that is none of `save`, of another version, or damaged.
        """
        found: Relevance = read(path, Relevance, (Relevance, Stream))
        return found

    def __repr__(self) -> str:
        scores = ", ".join(f"{s:+.4g}" for s in self.score[:3].tolist()) + (", ..." if len(self) > 3 else "")
        shapes = ", ".join(f"{n} {tuple(R.shape)}" for n, R in self.content.items())
        return f"Relevance({len(self)} of {self.target}, score {scores}, content {shapes}, rules {self.ruleset})"

    @property
    def tokens(self) -> Tensor | dict[str, Tensor]:
        """Content and position credited to tokens, signed: (B, T), or a dict where there are several token inputs."""
        return self.per_token()

    @property
    def past(self) -> Tensor | dict[str, Tensor]:
        """(B, T): relevance of a cache's rows, keys and values of all layers together, one for each earlier token; a
        dict by the name of the cache where there are several (of a decoder's own tokens, and of the encoder's).

        Layers that keep the last tokens only are counted for these. Raises `InputError` for calls without a cache, or
        with states that have no rows.
        """
        return past(self.cached)

    @property
    def depth(self) -> Tensor | dict[str, Tensor]:
        """(blocks + 1, B, T): relevance of the residual stream before each block and after the last.

        Each depth is one account of the same score: with what was booked above it, it closes (``ledger.depths``). A
        dict by input (or by module, where a stream's rows are no input's tokens) if there are several streams.
        """
        if not self.streams:
            raise InputError("no residual stream was recognised in this model")
        if len(self.streams) == 1:
            return self.streams[0].depth
        names = [s.owner or s.module or "stream" for s in self.streams]
        return {
            n if names.count(n) == 1 else f"{n}:{i}": s.depth
            for i, (n, s) in enumerate(zip(names, self.streams, strict=True))
        }

    def per_token(
        self,
        position: str | None = "signed",
        *,
        content: bool = True,
        credit: str = KEY,
        depth: str = "input",
        hide: Any = None,
    ) -> Tensor | dict[str, Tensor]:
        """Relevance per token: content, plus position aggregated in one of the ways of `lrp_fx.aggregations`, or not at
        all.

        position: ``signed``, ``positive``, ``absolute``, ``paper-positive``, ``paper-absolute`` (or one of your own),
            None.
        credit: to which token of a pair a bias between tokens goes: ``key``, ``query`` or ``both``.
        depth: ``input`` reads content where it enters; ``mean`` averages over the depths of the residual stream, at
            each of which position counts that was injected above it.
        hide: tokens to leave out, 0 in the result: ``"largest"`` (in each example the one that got most of the signed
            sum of content and position, whatever its sign), places (the same in each example, of padding too: where it
            stands on the left, give truth values), truth values (B, T), or a dict by input of these.

        Returns (B, T), or (B, texts, T) where an example has several (answers to choose from); a dict by input name
        where several inputs have tokens. Only ``signed`` adds up to the ledger, where nothing is left out.
        """
        if position is not None:
            find_aggregation(position)
        if credit not in CREDITS or depth not in DEPTHS:
            raise InputError(
                f"credit is one of {', '.join(CREDITS)}, depth one of {', '.join(DEPTHS)}; got {credit!r}, {depth!r}"
            )
        rows = self._stream_rows() if depth == "mean" else self._token_rows()
        result = {n: (R.clone() if content else torch.zeros_like(R)) for n, R in rows.items()}
        self._check_tokens(result)
        if position is not None:
            self._add_position(result, position, credit, depth)
        if hide is not None:
            out = hidden(hide, self._hideable(result))
            result = {n: R.masked_fill(out[n], 0) if n in out else R for n, R in result.items()}
        return next(iter(result.values())) if len(result) == 1 else result

    def _hideable(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each token got, as the ledger has it; where position is not told by token, as it is read."""
        books = self.ledger.token_books.rows
        return {n: books[n] if n in books and books[n].shape == R.shape else R for n, R in rows.items()}

    def _token_rows(self) -> dict[str, Tensor]:
        """Content by token: of each text, or of the several texts of an example."""
        texts = {n for n, x in self.inputs.items() if not x.is_floating_point() and x.dim() > 2}
        return {n: R for n, R in self.content.items() if R.dim() == 2 or n in texts}

    def _check_tokens(self, rows: dict[str, Tensor]) -> None:
        """Refuse where nothing, or nothing that is known by token, was read."""
        if not rows:
            raise InputError("this model has no token input; use .content (in the input's own shape) or .heatmap()")
        if all(name in self.apart for name in rows):
            raise InputError(
                f"of which tokens the rows of {', '.join(rows)} are is not known: they may stand in another order than "
                "those of the input, or be no rows\n    next: .content has what they got, as it is read"
            )

    def _add_position(self, result: dict[str, Tensor], position: str, credit: str, depth: str) -> None:
        missing = []
        for number, site in enumerate(self.position):
            name = site.owner(credit)
            texts = result[name].shape[1:-1].numel() if name is not None and name in result else 1
            share = site.per_token(position, credit, texts)
            if share is not None and name is not None and name in result:
                self._check_rows(name, result[name])
                counted = self._counted(number, name) if depth == "mean" else 1.0
                own = counted * site.of_owner(share, credit, result[name].shape[-1]).to(result[name].dtype)
                result[name] = result[name] + (own.view_as(result[name]) if result[name].dim() > 2 else own)
            elif name is None and bool(site.total.detach().any()):
                missing.append(site)
        if missing and all(is_text(n, R, self.inputs) for n, R in self.content.items()):  # no picture's either
            warn_user(not_by_token(missing))

    def _check_rows(self, name: str, rows: Tensor) -> None:
        """Refuse texts of which several belong to one score: position is booked for each score."""
        if len(rows) != self.score.numel():
            raise InputError(
                f"position relevance of {name} is told for each of {self.score.numel()} scores, not for each of "
                f"{len(rows)} texts\n    next: position=None reads content; .position has what position got"
            )

    def _stream_rows(self) -> dict[str, Tensor]:
        rows = {s.owner: s.depth.mean(0) for s in self.streams if s.owner is not None}
        if not rows:
            raise InputError(
                "no residual stream of tokens was recognised in this model: depth='mean' has nothing to average over"
            )
        return rows

    def _counted(self, number: int, name: str) -> float:
        """The share of a stream's depths above which a position site lies."""
        stream = next(s for s in self.streams if s.owner == name)
        return sum(number in above for above in stream.above) / len(stream.above)

    def heatmap(self, name: str | None = None, *, position: str | None = None, credit: str = KEY) -> Tensor:
        """Relevance of a floating input summed over its channels: (B, H, W) for images (B, C, H, W), (B, n, H, W) for
        several of an example, (B, T) by time for
        sound and sequences of vectors, (frames, rows, columns) for patches of images in one list (as `patches` has it).

        position: for images, add the position relevance of each patch, aggregated so and spread evenly over its pixels.
        """
        return heat.heatmap(self, name, position, credit)

    def patches(
        self, name: str | None = None, *, position: str | None = "signed", content: bool = True, credit: str = KEY
    ) -> Tensor:
        """(B, rows, columns): relevance of every patch of an image, its pixels' content and its position.

        For patches of all images in one list (frames, rows, columns), one for each image and frame; raises `InputError`
        where these have grids of their own. What the class token and its position received is in ``learned`` and
        ``position``, and in no patch.
        """
        return heat.patches(self, name, position, credit, content=content)

    def graph(
        self, threshold: float = 0.01, *, share: float | None = None, example: int = 0, tokenizer: Any = None
    ) -> Circuit:
        """The edges of one example that matter, to be drawn (`show`, `to_html`) or written (GraphML, JSON, and as
        circuit-tracer's viewer reads it).

        threshold: the share of the score that an edge has at least. share: instead, edges are taken in the order of
            their influence until they have this share of all (`lrp_fx.report.prune`). tokenizer: as in `show`.

        Raises `InputError` where edges were not asked for.
        """
        if self.edges is None:
            raise InputError(
                "this result has no edges: they are followed where they are asked for\n    next: explainer(..., "
                'edges="heads"), or edges=["attention", "mlp"]'
            )
        if not 0 <= example < len(self):
            raise InputError(f"no example {example}: there are {len(self)}")
        words, explained = words_at(self, tokenizer, example), self.target[example]
        return circuit_of(self.edges, example, explained, self.ruleset, words, threshold=threshold, share=share)

    def show(self, tokenizer: Any = None, console: Any = None, *, hide: Any = None) -> None:
        """Print the token heatmap, with content and position parts, and the ledger to the terminal (at most 8
        examples).

        tokenizer: a Hugging Face tokenizer, a function of an id, or names by id; without one, ids are shown.
        console: a `rich.console.Console` to print to (default: standard output).
        hide: tokens that are drawn hatched, with their numbers, while the colours are scaled by the others: as in
            `per_token`. Sums and ledger are of all tokens.
        """
        terminal = needed("lrp_fx.render.terminal", "cli")
        terminal.show(picture(self.detach(), self._names(tokenizer), terminal.EXAMPLES, hide), console)

    def to_html(self, path: Any = None, tokenizer: Any = None, *, hide: Any = None) -> str:
        """The same as a self-contained HTML page of at most 64 examples; written to ``path`` if one is given."""
        return page.to_html(picture(self.detach(), self._names(tokenizer), page.EXAMPLES, hide), path)

    def _repr_html_(self) -> str:
        return page.fragment(picture(self.detach(), self._names(None), page.EXAMPLES))

    def plot(self, tokenizer: Any = None, *, hide: Any = None) -> Any:
        """A `matplotlib.figure.Figure` of at most 8 examples: bars per token, or the heatmap of an image.

        hide: tokens that are drawn hatched and cut off, with their numbers, as in `show`.
        """
        return figure.plot(picture(self.detach(), self._names(tokenizer), figure.EXAMPLES, hide))

    def _names(self, tokenizer: Any) -> Any:
        """What tokens are called: as the caller says, else as the vocabulary does."""
        return tokenizer if tokenizer is not None or self.vocabulary is None else self.vocabulary.tokens
