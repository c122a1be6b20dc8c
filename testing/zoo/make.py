"""Find inputs that a tiny model accepts: candidates are tried, numbers of placeholder tokens read off the model's own
errors.
"""

from __future__ import annotations

import copy
import inspect
import re

import torch

from testing.zoo.draws import draw_ids, find_setting
from testing.zoo.inputs import candidates

_MISMATCH = [
    re.compile(p, re.I | re.S)
    for p in (
        r"tokens:\s*(\d+),?\s*features:?\s*(\d+)",
        r"tokens:\s*(\d+).*?features:?\s*torch\.Size\(\[(\d+)",
        r"tokens:\s*(\d+),?\s*features\s*(\d+)",
        r"n_image_tokens\D+(\d+)\D+(\d+)",
    )
]


def _retoken(kw, err, cfg):
    """Adjust the number of image placeholder tokens to what the error message asks for."""
    names = ("image_token_id", "image_token_index", "image_patch_id", "img_token_id")
    if "input_features" in kw and "pixel_values" not in kw:
        names = ("audio_token_id", "audio_token_index")
    tok = find_setting(cfg, *names)
    for rx in _MISMATCH:
        m = rx.search(err)
        if m and tok is not None and "input_ids" in kw:
            have, want = int(m.group(1)), int(m.group(2))
            cur = int((kw["input_ids"] == tok).sum())
            if cur and have != want and want > have and have > cur:  # error reports elements, not tokens
                want = want * cur // have
            elif cur and have > cur:
                want = max(1, want * cur // have)
            if want == cur or not 0 < want < 4096:
                return None
            ids = draw_ids(1, 7 + want)
            ids[:, 3 : 3 + want] = tok
            out = {**kw, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for n in ("mm_token_type_ids", "token_type_ids"):
                if n in kw:
                    out[n] = (ids == tok).long()
            return out
    return None


def make_inputs(task, model, max_tries=40):
    """First candidate the eager model accepts. Returns (inputs, outputs, errors)."""
    params = inspect.signature(model.forward).parameters
    errors = []
    cand = iter(candidates(task, model))
    queue: list[dict] = []
    retried = 0
    for _ in range(max_tries):
        if queue:
            kw = queue.pop()
        else:
            kw = next(cand, None)
            if kw is None:
                break
        kw = {k: v for k, v in kw.items() if k in params}  # what **kwargs would swallow unread is no input
        for flag in ("use_cache",):
            if flag in params:
                kw[flag] = False
        try:
            with torch.no_grad():
                torch.manual_seed(0)
                out = model(**copy.deepcopy(kw))
            return kw, out, errors
        except Exception as e:
            msg = f"{type(e).__name__}: {e}"
            errors.append(msg[:400])
            m = re.search(r"split_sizes to sum exactly to (\d+)", msg)
            secs = [x for x in model.modules() if isinstance(getattr(x, "mrope_section", None), (list, tuple))]
            if m and secs and sum(secs[0].mrope_section) > 8 and retried < 6:
                retried += 1
                n = int(m.group(1))
                if sum(secs[0].mrope_section) % n and n % 2 == 0:
                    n //= 2
                for x in secs:  # mrope sections hard-coded in the model, not in the config
                    x.mrope_section = (
                        [n - 2 * (3 * n // 8), 3 * n // 8, 3 * n // 8] if n >= 8 else [n - 2 * (n // 3), n // 3, n // 3]
                    )
                queue.append(kw)
                continue
            new = _retoken(kw, msg, model.config)
            if new is not None and retried < 6:
                retried += 1
                queue.append(new)
    raise RuntimeError("no candidate input accepted; first errors: " + " || ".join(e[:220] for e in errors[:3]))
