"""Circuit tracer: a graph of relevance in the form that the viewer of circuit-tracer reads.

The form is that of circuit-tracer 0.4.1 (``circuit_tracer/frontend/graph_models.py``, schema version 1): ``metadata``,
``qParams``, ``nodes`` and ``links``. Its kinds of nodes are features, errors, embeddings and logits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx

from lrp_fx.errors import InputError
from lrp_fx.render.write import write_text
from lrp_fx.report.explained import ExplainedScore

FEATURE, ERROR, EMBEDDING, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"


def attribution_graph(
    graph: nx.DiGraph, slug: str, scan: str, explained: ExplainedScore, words: Sequence[str]
) -> dict[str, Any]:
    """The parts of the file. Layers are the rows of the drawing; a unit that is no token's stands at the last one."""
    last = max(len(words), 1) - 1
    made = {name: _node(facts, last, explained) for name, facts in graph.nodes(data=True)}
    links = [
        {"source": made[a]["node_id"], "target": made[b]["node_id"], "weight": w}
        for a, b, w in graph.edges(data="weight")
    ]
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": list(words) or [""],
        "prompt": " ".join(word.strip() for word in words),
        "node_threshold": None,
        "schema_version": 1,
    }
    chosen = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": metadata, "qParams": chosen, "nodes": list(made.values()), "links": links}


def _node(facts: dict[str, Any], last: int, explained: ExplainedScore) -> dict[str, Any]:
    kind, row, index = facts["kind"], facts["row"], facts["index"]
    text = f"{facts['label']} {facts['relevance']:+.3g}"
    if kind == "score":
        index = explained.index if explained.index is not None else 0
        place = explained.position if explained.position is not None else last
        own = (str(row), LOGIT, index, min(place, last), f"L_{index}-{place}")
        text = f'Output "{explained.title}"'
    elif kind == "token":
        own = ("E", EMBEDDING, index, min(index, last), f"E_{index}-{index}")
    elif kind in ("sink", "leaf"):
        own = ("0", ERROR, index, last, f"0_{index}-{last}")
    else:
        at = min(facts["token"], last) if facts["token"] >= 0 else last
        own = (str(row), FEATURE, _paired(row, index), at, f"{row}_{index}-0")
    layer, feature_type, feature, place, shown = own
    return {
        "node_id": f"{layer}_{index}_{place}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": place,
        "feature_type": feature_type,
        "token_prob": (explained.probability or 0.0) if kind == "score" else 0.0,
        "is_target_logit": kind == "score",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": shown,
        "clerp": text,
        "influence": facts.get("influence"),
        "activation": facts["relevance"],
    }


def _paired(layer: int, index: int) -> int:
    """One number for a layer and a feature of it (Cantor's), as the viewer takes features."""
    return (layer + index) * (layer + index + 1) // 2 + index


def noted(path: Path, metadata: dict[str, Any]) -> None:
    """The list of graphs that the viewer's server shows, with this one in it."""
    listed: list[Any] = []
    if path.exists():
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))["graphs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no list of graphs\n    next: write to a folder of its own") from error
    others = [entry for entry in listed if entry.get("slug") != metadata["slug"]]
    write_text(path, json.dumps({"graphs": [*others, metadata]}, ensure_ascii=False, indent=1))
