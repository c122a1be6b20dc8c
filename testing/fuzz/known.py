"""Operations that programs are drawn without, and why: each is a fault that is to be mended, here or in torch.

``python -m benchmarks fuzz --all`` draws them too.
"""

from __future__ import annotations

_AXIS = "the axis of the examples is lost in a capture for fixed sizes"

#: Operation -> reason. An entry goes when its fault does.
LEFT_OUT = {
    **dict.fromkeys(
        (
            "attention_by_distance",
            "bicubic",
            "convolution_of_windows",
            "cosine_similarity",
            "folded",
            "interpolated",
            "interpolated_nearest",
            "patches",
            "pixel_shuffled",
            "repeat_interleaved",
            "resized_plane",
            "shifted_spectrum",
            "spectral_convolution",
            "spectral_filter",
            "spectral_product",
            "spectrum_imaginary",
            "spectrum_magnitude",
            "spectrum_of_plane",
            "spectrum_real",
            "transposed_convolution",
            "windows_averaged",
        ),
        _AXIS,
    ),
    "conjugated": "a conjugated spectrum cannot be read as real numbers",
    "delta_rule": "whether it is found to be a recurrence depends on how softmaxes before and behind it are written",
    "experts_by_index": f"{_AXIS}: rows that are chosen by values",
    "experts_by_sorting": f"{_AXIS}: rows that are sorted by values",
    "vector_product": "a product of a value with a vector has no layout",
}
