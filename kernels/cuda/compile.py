"""How every kernel for cards is compiled: on first launch, and kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cuda


def kernel(function: Callable[..., Any]) -> Any:
    """A kernel, to be launched as `kernel(function)[grid, block, stream](...)`."""
    try:
        return cuda.jit(function, cache=True)
    except RuntimeError:  # no folder that may be written to
        return cuda.jit(function)


def device(function: Callable[..., Any]) -> Any:
    """A function that kernels call; it is compiled as a part of them."""
    return cuda.jit(function, device=True)
