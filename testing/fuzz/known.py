"""Operations that programs are drawn without, and why: each is a fault that is to be mended, here or in torch.

``python -m benchmarks fuzz --all`` draws them too.
"""

from __future__ import annotations

#: Operation -> reason. An entry goes when its fault does.
LEFT_OUT: dict[str, str] = {}
