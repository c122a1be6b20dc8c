"""Text: a tokenizer's numbers for texts and chats, padded on the right; the tokenizer stays as it is.

requires  a tokenizer of transformers, or what is called like one
ensures   padding that a mask hides; on the right, where every model may have it: positions stay what they are
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.preprocess.forward import Forward
from lrp_fx.preprocess.kinds import as_chats, as_texts

Rows = Mapping[str, Sequence[int]]


def text_inputs(tokenizer: Any, texts: Any, forward: Forward) -> dict[str, Tensor]:
    """What forward takes of what the tokenizer makes of a text, a pair (tuple) or a list of these, (B, T) each."""
    return padded([text_rows(tokenizer, text) for text in as_texts(texts)], tokenizer, forward)


def text_rows(tokenizer: Any, text: str | tuple[str, ...]) -> Rows:
    """What the tokenizer makes of one text, or of a pair: a list of numbers for each argument."""
    pair = text if isinstance(text, tuple) else (text,)
    if not pair[0]:
        raise InputError("one of the texts is empty: there is nothing to explain")
    return _called(tokenizer, *pair)


def chat_inputs(tokenizer: Any, chats: Any, forward: Forward) -> dict[str, Tensor]:
    """The same of a chat, or of a list of them, by the tokenizer's template: up to where the model's answer begins, or,
    where the last message is the model's, up to the end of that.
    """
    rows = []
    for chat in as_chats(chats):
        begun = chat[-1].get("role") == "assistant"
        rows.append(chat_rows(tokenizer, chat, begun))
    return padded(rows, tokenizer, forward)


def chat_rows(tokenizer: Any, chat: Sequence[Mapping[str, Any]], begun: bool, **options: Any) -> Any:
    """What the template makes of one chat; raises `InputError` where there is none, or it refuses the messages."""
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "this model's tokenizer has no chat template\n    next: write the conversation as the model was trained to "
            "read it, as one text; or set tokenizer.chat_template"
        )
    ends = {"continue_final_message": True} if begun else {"add_generation_prompt": True}
    try:
        return tokenizer.apply_chat_template(list(chat), tokenize=True, return_dict=True, **ends, **options)
    except Exception as error:
        raise InputError(f"the chat template refuses these messages: {type(error).__name__}: {error}") from error


def _called(tokenizer: Any, *texts: str, **options: Any) -> Rows:
    try:
        found: Rows = tokenizer(*texts, **options)
    except Exception as error:
        raise InputError(
            f"the tokenizer refuses the text {texts[0][:60]!r}: {type(error).__name__}: {error}"
        ) from error
    return found


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text as it stands, without the tokens that begin and end one."""
    return [int(i) for i in _called(tokenizer, text, add_special_tokens=False)["input_ids"]]


def padded(rows: Sequence[Rows], tokenizer: Any, forward: Forward) -> dict[str, Tensor]:
    """(B, T) of each argument that forward takes; raises `InputError` where padding could not be told from a text."""
    lengths = {len(row["input_ids"]) for row in rows}
    if 0 in lengths:
        raise InputError("one of the texts has no token: there is nothing to explain")
    names = [n for n in rows[0] if forward.takes(n) and isinstance(rows[0][n], (list, tuple))]
    if len(lengths) > 1 and "attention_mask" not in names:
        raise InputError(
            "these texts have different lengths, and the model takes no attention_mask that would hide padding\n"
            "    next: explain one at a time"
        )
    if len(rows) > 1 and needs_padding_token(forward):
        raise InputError(
            "this model looks for the end of each text by its padding token, and has none\n    next: set "
            "model.config.pad_token_id, or explain one text at a time"
        )
    fill = {"input_ids": pad_id(tokenizer, forward), "token_type_ids": getattr(tokenizer, "pad_token_type_id", 0) or 0}
    longest = max(lengths)

    def stacked(name: str) -> Tensor:
        return torch.tensor([[*row[name], *[fill.get(name, 0)] * (longest - len(row[name]))] for row in rows])

    return {name: stacked(name) for name in names}


def pad_id(tokenizer: Any, forward: Forward) -> int:
    """The id that fills up short texts: the model's, the tokenizer's, or any: a mask hides it."""
    known = (
        getattr(forward.config, "pad_token_id", None),
        getattr(tokenizer, "pad_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    )
    return next((int(i) for i in known if isinstance(i, int) and i >= 0), 0)


def needs_padding_token(forward: Forward) -> bool:
    """Does a decoder classify by its last token, which it finds by the padding token that it does not know?"""
    config = forward.config
    return (
        forward.tokens is False
        and hasattr(config, "pad_token_id")
        and config.pad_token_id is None
        and not getattr(config, "is_encoder_decoder", False)
    )
