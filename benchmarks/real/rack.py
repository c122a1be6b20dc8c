"""The rack: every shipped model as a subject, by its name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.real.others import pictures, series, speech
from benchmarks.real.subject import Subject
from benchmarks.real.texts import antibodies, language, reactions, sentence

BUILD: dict[str, Callable[[str], Subject]] = {
    "smollm2": language,
    "gemma3": language,
    "minilm": sentence,
    "rxnmapper": reactions,
    "antiberty": antibodies,
    "whisper": speech,
    "fracast": series,
    "efficientnet": pictures,
}


def build(name: str) -> Subject:
    """A model of `SHIPPED`, fetched and loaded."""
    return BUILD[name](name)
