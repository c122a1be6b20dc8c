"""Reader: what stands between a user and a model's numbers: texts, chats, images and sounds in, labels and tokens out.

requires  a tokenizer, a processor, or both, of transformers or called like theirs
ensures   arguments that the model's forward takes, on its device; neither tokenizer nor processor is changed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.errors import InputError, TargetError
from lrp_fx.preprocess.forward import Forward, forward_of
from lrp_fx.preprocess.kinds import CHAT, IMAGE, SOUND, TEXT, as_chats, kind_of
from lrp_fx.preprocess.media import as_list, picture_of, samples_of
from lrp_fx.preprocess.names import going_on, label_index, token_index, token_names
from lrp_fx.preprocess.text import (
    chat_inputs,
    chat_rows,
    needs_padding_token,
    padded,
    plain_ids,
    text_inputs,
    text_rows,
)
from lrp_fx.report.vocabulary import Vocabulary


@dataclass(frozen=True)
class Reader:
    """Reads for one model (or for what is known of the forward of one that was saved)."""

    model: nn.Module | Forward
    given_tokenizer: Any = None
    processor: Any = None

    @property
    def forward(self) -> Forward:
        """What is known of the model's arguments and outputs."""
        return self.model if isinstance(self.model, Forward) else forward_of(self.model)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, given or the processor's own; None where there is none."""
        return self.given_tokenizer if self.given_tokenizer is not None else getattr(self.processor, "tokenizer", None)

    @property
    def is_empty(self) -> bool:
        """Is there nothing that reads? (Labels may be known still.)"""
        return self.given_tokenizer is None and self.processor is None

    # ------------------------------------------------------------------------------------------------ in
    def inputs(
        self, *given: Any, text: Any = None, images: Any = None, audio: Any = None, decoder_text: str | None = None
    ) -> dict[str, Tensor]:
        """Arguments of the model for what is given, one example or a list, the batch first.

        given: texts (a string; a tuple or two strings for a pair), chats (lists of messages with ``role`` and
            ``content``), images (PIL, bytes (H, W, C), paths), sounds (samples, or mappings with their rate).
        text, images, audio: the same by name. decoder_text: what an encoder-decoder has written so far.

        Raises `InputError` for what the tokenizer or processor is missing for, or refuses.
        """
        parts = self._sorted(given, text, images, audio)
        if not parts:
            raise InputError("nothing to read: give a text, a chat, an image or a sound")
        return self._finished(self._read(parts), decoder_text)

    def rows(self, text: str | tuple[str, ...]) -> Mapping[str, Sequence[int]]:
        """The numbers of one text, or of a pair, by argument: what `batch` takes a list of."""
        found = text_rows(self._tokenizer_or_error(), text)
        taken = {n for n in found if n == "input_ids" or self.forward.takes(n)}
        return {n: list(v) for n, v in found.items() if n in taken and isinstance(v, (list, tuple))}

    def batch(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """(B, T) of each argument, padded; raises `InputError` where padding could not be told from a text."""
        forward = self.forward
        if forward.takes("input_ids"):
            return self._finished(padded(rows, self.tokenizer, forward), None)
        if len({len(row["input_ids"]) for row in rows}) > 1:
            raise InputError("these rows have different lengths, and no mask that would hide padding is known")
        return self._finished({forward.main: torch.tensor([list(row["input_ids"]) for row in rows])}, None)

    @property
    def at_once(self) -> str:
        """Which rows may share a batch: ``any``, those of ``equal`` length, or ``none`` with another."""
        forward = self.forward
        if forward.takes("input_ids") and needs_padding_token(forward):
            return "none"
        return "any" if forward.takes("input_ids") and forward.takes("attention_mask") else "equal"

    def _finished(self, inputs: dict[str, Tensor], decoder_text: str | None) -> dict[str, Tensor]:
        """With the beginning of what a decoder writes, where one needs it; on the model's device."""
        forward = self.forward
        decodes = forward.writes and getattr(forward.config, "is_encoder_decoder", False)
        if decodes and forward.takes("decoder_input_ids") and "decoder_input_ids" not in inputs:
            batch = len(next(iter(inputs.values())))
            inputs["decoder_input_ids"] = decoder_ids(forward.config, self.tokenizer, decoder_text, batch)
        return forward.cast(inputs)

    def _sorted(self, given: Sequence[Any], text: Any, images: Any, audio: Any) -> dict[str, Any]:
        """What is given, by its kind."""
        parts: dict[str, Any] = {}
        for value in given:
            kind = kind_of(value)
            if kind is None:
                raise InputError(f"neither a text, a chat, an image nor a sound: {type(value).__name__}")
            if kind == TEXT and self.tokenizer is None and self.processor is not None:
                kind = self._path_kind()
            if kind == TEXT and isinstance(parts.get(TEXT), str) and isinstance(value, str):
                parts[TEXT] = (parts[TEXT], value)
            elif kind in parts:
                raise InputError(f"two values are a {kind} each; give a list for several examples")
            else:
                parts[kind] = value
        if text is not None:
            parts[CHAT if kind_of(text) == CHAT else TEXT] = text
        parts |= {kind: v for kind, v in ((IMAGE, images), (SOUND, audio)) if v is not None}
        return parts

    def _path_kind(self) -> str:
        """What a string names where the model reads no text: a file."""
        return SOUND if self._part("feature_extractor", "sampling_rate") is not None else IMAGE

    def _part(self, name: str, sign: str) -> Any:
        """A part of the processor by its name, or the processor where it is such a part itself."""
        found = getattr(self.processor, name, None)
        if found is not None:
            return found
        return self.processor if hasattr(self.processor, sign) else None

    def _read(self, parts: dict[str, Any]) -> dict[str, Tensor]:
        if set(parts) == {TEXT}:
            return text_inputs(self._tokenizer_or_error(), parts[TEXT], self.forward)
        if set(parts) == {CHAT} and not (self._whole and _has_media(parts[CHAT])):
            return chat_inputs(self._tokenizer_or_error(), parts[CHAT], self.forward)
        if set(parts) == {IMAGE}:
            return self._images(as_list(parts[IMAGE]))
        if set(parts) == {SOUND}:
            return self._sounds(as_list(parts[SOUND]))
        return self._together(parts)

    def _tokenizer_or_error(self) -> Any:
        if self.tokenizer is None:
            raise InputError(
                "a text was given, and no tokenizer is known\n    next: convert(model, tokenizer=...), or give what a "
                "tokenizer makes of it, explainer(**tokenizer(text, return_tensors='pt'))"
            )
        return self.tokenizer

    @property
    def _whole(self) -> bool:
        """Does the processor take texts and something else together?"""
        return getattr(self.processor, "tokenizer", None) is not None

    def _images(self, images: list[Any]) -> dict[str, Tensor]:
        processor = self._part("image_processor", "image_mean") or self._part("image_processor", "do_resize")
        if processor is None:
            raise InputError(
                f"an image was given, and no image processor is known\n    next: convert(model, processor=...), or "
                f"give the model's own argument, explainer({self.forward.main or 'pixel_values'}=...)"
            )
        return self._kept(_called(processor, images=[picture_of(i) for i in images]))

    def _sounds(self, sounds: list[Any]) -> dict[str, Tensor]:
        extractor = self._part("feature_extractor", "sampling_rate")
        if extractor is None:
            raise InputError(
                f"a sound was given, and no feature extractor is known\n    next: convert(model, processor=...), or "
                f"give the model's own argument, explainer({self.forward.main or 'input_values'}=...)"
            )
        rate = int(extractor.sampling_rate)
        samples = [samples_of(s, rate) for s in sounds]
        alike = len({len(s) for s in samples}) == 1
        options = {} if alike else {"padding": True, "return_attention_mask": True}
        return self._kept(_called(extractor, samples, sampling_rate=rate, **options))

    def _together(self, parts: dict[str, Any]) -> dict[str, Tensor]:
        """Text with images or sounds, by a processor of both."""
        if not self._whole:
            raise InputError(
                f"{' and '.join(parts)} were given, and no processor that reads them together is known\n    next: "
                "convert(model, processor=...)"
            )
        if CHAT in parts:
            return self._kept(self._chats(as_chats(parts[CHAT])))
        given: dict[str, Any] = {}
        if IMAGE in parts:
            given["images"] = [picture_of(i) for i in as_list(parts[IMAGE])]
        if SOUND in parts:
            rate = int(getattr(self._part("feature_extractor", "sampling_rate"), "sampling_rate", 16000))
            given["audio"] = [samples_of(s, rate) for s in as_list(parts[SOUND])]
            given["sampling_rate"] = rate
        texts = [self._with_marks(t, IMAGE in parts) for t in as_list(parts[TEXT])]
        several = {"padding": True} if len(texts) > 1 else {}
        return self._kept(_called(self.processor, text=texts, **given, **several))

    def _with_marks(self, text: str, image: bool) -> str:
        """The text with the mark where the image stands, by the chat template, where a processor asks for one."""
        mark = getattr(self.processor, "image_token", None)
        if not image or not isinstance(mark, str) or mark in text:
            return text
        if not getattr(self.processor, "chat_template", None):
            return f"{mark}{text}"
        content = [{"type": "image"}, {"type": "text", "text": text}]
        message = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))

    def _chats(self, chats: list[Any]) -> Any:
        if len(chats) > 1:
            raise InputError("several chats with images: give one at a time")
        begun = chats[0][-1].get("role") == "assistant"
        return chat_rows(self.processor, chats[0], begun, return_tensors="pt")

    def _kept(self, made: Any) -> dict[str, Tensor]:
        """What forward takes of what a processor made."""
        forward = self.forward
        return {n: v for n, v in dict(made).items() if isinstance(v, Tensor) and forward.takes(n)}

    # ------------------------------------------------------------------------------------------------ out
    def output_index(self, name: str, size: int | None = None) -> int:
        """The index of a label or token among the outputs; ``size``: how many there are, where that is known.

        Raises `TargetError`, which lists the nearest, for a name that is none or not one.
        """
        labels = self._labels(size)
        if labels:
            return label_index(name, labels)
        if self.tokenizer is None:
            raise TargetError(
                f"{name!r} is a name, and the names of this model's outputs are not known\n    next: give an index, or "
                "convert(model, tokenizer=...)"
            )
        if not self._predicts_tokens(size):
            raise TargetError(
                f"{name!r} is a name, and this model's outputs have none\n    next: give an index, or set "
                "model.config.id2label"
            )
        return token_index(name, self.tokenizer)

    def _predicts_tokens(self, size: int | None) -> bool:
        """Are the outputs the tokens of the vocabulary? Where the model does not say, by how many there are."""
        known, words = self.forward.tokens, getattr(self.forward.config, "vocab_size", None)
        if known or size is None:
            return known is not False
        return size == words or (known is None and size >= len(self.tokenizer) // 2)

    def _labels(self, size: int | None) -> dict[int, str]:
        """The labels of a model whose outputs are classes; empty where they are tokens or something else."""
        forward = self.forward
        fits = not forward.tokens if size is None else size == len(forward.labels)
        return forward.labels if fits and not (forward.tokens and size is None) else {}

    def pieces(self, text: str) -> list[int]:
        """The ids of a text that goes on another one; raises `InputError` without a tokenizer."""
        return going_on(text, self._tokenizer_or_error())

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text that ids stand for."""
        found = torch.as_tensor(ids).reshape(-1).tolist() if not isinstance(ids, list) else ids
        return str(self._tokenizer_or_error().decode(found))

    def vocabulary(self, ids: Iterable[int], outputs: Iterable[int], size: int | None = None) -> Vocabulary:
        """What these ids of inputs, and these indices of outputs (of ``size``, where known), are called."""
        read, labels, tokenizer = sorted(set(ids)), self._labels(size), self.tokenizer
        asked = sorted(set(outputs))
        tokens = dict(zip(read, token_names(read, tokenizer), strict=True)) if tokenizer is not None else {}
        if labels:
            return Vocabulary(tokens, {i: labels[i] for i in asked if i in labels})
        if tokenizer is None or not self._predicts_tokens(size):
            return Vocabulary(tokens)
        known = [i for i in asked if 0 <= i < len(tokenizer)]
        return Vocabulary(tokens, dict(zip(known, token_names(known, tokenizer), strict=True)))


def decoder_ids(config: Any, tokenizer: Any, text: str | None, batch: int = 1) -> Tensor:
    """(B, T): the token that a decoder begins with, and what it has written so far."""
    start = getattr(config, "decoder_start_token_id", None)
    start = getattr(config, "bos_token_id", 0) if start is None else start
    rest = [] if text is None or tokenizer is None else plain_ids(tokenizer, text)
    return torch.tensor([[int(start or 0), *rest]] * batch)


def _has_media(chats: Any) -> bool:
    """Is there a message that holds more than text?"""
    contents = [m.get("content") for chat in as_chats(chats) for m in chat]
    return any(isinstance(c, list) and any(part.get("type") != "text" for part in c) for c in contents)


def _called(processor: Any, *given: Any, **options: Any) -> Any:
    try:
        return processor(*given, return_tensors="pt", **options)
    except Exception as error:
        raise InputError(
            f"{type(processor).__name__} refuses what was given: {type(error).__name__}: {error}"
        ) from error
