"""Operations that programs are drawn without, and why: each is a fault that is to be mended, here or in torch.

``python -m benchmarks fuzz --all`` draws them too.
"""

from __future__ import annotations

_AXIS = "the axis of the examples is lost in a capture for fixed sizes"

#: Operation -> reason. An entry goes when its fault does.
LEFT_OUT = {
    "attention_by_distance": _AXIS,
    "conjugated": "a conjugated spectrum cannot be read as real numbers",
    "convolution_of_windows": _AXIS,
    "cosine_similarity": _AXIS,
    "experts_by_index": f"{_AXIS}: rows that are chosen by values",
    "experts_by_sorting": f"{_AXIS}: rows that are sorted by values",
    "vector_product": "a product of a value with a vector has no layout",
}
