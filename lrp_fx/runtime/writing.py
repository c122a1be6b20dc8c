"""Writing: texts that a model wrote, or might have written, explained token by token."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from lrp_fx.capture.unloaded import require_weights
from lrp_fx.generation.explain import continuation, generate
from lrp_fx.generation.generation import Generation
from lrp_fx.preprocess.reader import Reader
from lrp_fx.rule import Ruleset


class _Writing(Protocol):
    """What is asked of an explainer."""

    model: nn.Module
    ruleset: Ruleset
    _reader: Reader

    @property
    def reader(self) -> Reader | None: ...
    def __call__(self, *args: Any, **inputs: Any) -> Any: ...


class Writes:
    """An explainer that explains what its model writes."""

    def generate(self: _Writing, prompt: Any = None, **options: Any) -> Generation | list[Generation]:
        """Let the model write, and explain each token that it wrote (`Generation`), all of them from one forward pass.

        prompt: a text or a chat, where the explainer knows a tokenizer; ids (1, T); a dict of arguments of forward; a
            list of texts, for a list of results.
        options: tensors are further arguments of forward (``pixel_values=``), ``images=`` and ``audio=`` go to the
            processor, all else to the model's own ``generate`` (``max_new_tokens=10``, ``do_sample=False``). Where it
            returns several sequences, the result is a list.

        Raises `InputError` for a model that cannot generate, and for texts without a tokenizer.
        """
        require_weights(self.model)
        return generate(self.model, self, self.reader, self.ruleset.name, prompt, options)

    def continuation(
        self: _Writing,
        prompt: Any,
        text: Any,
        *,
        against: Any = None,
        spans: Any = None,
        at_once: int | None = None,
        **inputs: Any,
    ) -> Generation | list[Generation]:
        """Explain each token of a text that goes on after a prompt, as if the model had written it.

        prompt: as in `generate`. text: what follows (with the space that parts them), or its ids; a list of texts for
            a list of prompts.
        against: another text (or ids): each step is then the logit of its token less that of the other text's token
            in the same place, both after the first text so far. Where both are the same a row is zero; steps that only
            one of them has are left out, with a warning.
        spans: ``"all"``, (first step, after the last), or a list of these: one row for each, the sum of its logits, in
            one pass.
        at_once: how many steps share a pass of the transpose (more take more memory).
        inputs: further arguments of forward.

        Raises `InputError` for texts without a tokenizer, empty texts and spans that are not there.
        """
        options = {"against": against, "spans": spans, "at_once": at_once, "inputs": inputs}
        options["settings"] = getattr(self.model, "generation_config", None)
        return continuation(self._reader.forward, self, self.reader, self.ruleset.name, prompt, text, **options)
