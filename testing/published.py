"""Figures of the synthetic models from an independent implementation of the same rules, with the sample they were taken
on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Figures are compared within this.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Published:
    """``count``: the first so many sequences. ``figures``: (preset, aggregation or None for content alone) -> (hit,
    mass).
    """

    count: int
    figures: dict[tuple[str, str | None], tuple[float, float]] = field(default_factory=dict)


ROPE = Published(
    100,
    {
        ("gradient", None): (0.470, 0.608),
        ("attnlrp", None): (0.868, 0.910),
        ("cp-lrp", None): (0.852, 0.907),
        ("pa-lrp", None): (0.868, 0.909),
        ("pa-lrp", "signed"): (0.878, 0.911),
        ("pa-lrp", "paper-positive"): (0.938, 0.893),
        ("pa-lrp", "paper-absolute"): (0.912, 0.894),
        ("attnlrp-gamma", None): (0.930, 0.881),
        ("pa-lrp-gamma", None): (0.940, 0.877),
        ("pa-lrp-gamma", "signed"): (0.953, 0.883),
        ("pa-lrp-gamma", "paper-positive"): (0.967, 0.863),
        ("pa-lrp-gamma", "paper-absolute"): (0.973, 0.865),
    },
)
LEARNED = Published(
    60,
    {
        ("gradient", None): (0.467, 0.568),
        ("attnlrp", None): (0.867, 0.934),
        ("cp-lrp", None): (0.772, 0.929),
        ("pa-lrp", None): (0.867, 0.934),
        ("pa-lrp", "signed"): (0.858, 0.926),
        ("pa-lrp", "positive"): (0.972, 0.851),
        ("pa-lrp", "absolute"): (0.900, 0.910),
        ("attnlrp-gamma", None): (0.992, 0.940),
        ("pa-lrp-gamma", "signed"): (0.978, 0.928),
        ("pa-lrp-gamma", "positive"): (1.000, 0.872),
        ("pa-lrp-gamma", "absolute"): (0.992, 0.915),
    },
)
BUCKETED = Published(
    60,
    {
        ("gradient", None): (0.353, 0.403),
        ("attnlrp", None): (0.561, 0.549),
        ("cp-lrp", None): (0.531, 0.496),
        ("pa-lrp", None): (0.561, 0.549),
        ("pa-lrp", "signed"): (0.569, 0.561),
        ("pa-lrp", "positive"): (0.561, 0.541),
        ("pa-lrp", "absolute"): (0.561, 0.542),
        ("attnlrp-gamma", None): (0.597, 0.559),
        ("pa-lrp-gamma", "signed"): (0.625, 0.567),
        ("pa-lrp-gamma", "positive"): (0.625, 0.548),
        ("pa-lrp-gamma", "absolute"): (0.617, 0.548),
    },
)
#: By the folder's name, here and as the models were first published.
PUBLISHED = {
    "synth_rope": ROPE,
    "synth_llama_rope": ROPE,
    "synth_learned": LEARNED,
    "synth_gpt2_learned": LEARNED,
    "synth_t5": BUCKETED,
    "synth_t5enc_relbias": BUCKETED,
}
