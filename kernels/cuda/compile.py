"""How every kernel for cards is compiled: on first launch, and kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cuda

from .card import simulated


def kernel(function: Callable[..., Any], registers: int | None = None) -> Any:
    """A kernel, to be launched as `kernel(function)[grid, block, stream](...)`; each thread has so many registers at most."""
    options: dict[str, Any] = {} if registers is None or simulated() else {"max_registers": registers}
    try:
        return cuda.jit(function, cache=True, **options)
    except RuntimeError:  # no folder that may be written to
        return cuda.jit(function, **options)


def device(function: Callable[..., Any]) -> Any:
    """A function that kernels call; it is compiled as a part of them."""
    return cuda.jit(function, device=True)
