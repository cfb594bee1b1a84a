"""How every kernel is compiled: one set of flags, on first demand, kept on disk where that is possible."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from numba import njit, typeof, types

from .cache import keep_on_disk

# Not fastmath=True: it promises that no infinity or NaN occurs, and both are looked for here.
FLAGS = frozenset({"reassoc", "contract", "arcp", "nsz"})
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": set(FLAGS), "no_cfunc_wrapper": True}

_HELPERS: list[Any] = []
_MAKERS: list[Any] = []


def helper(function: Callable[..., Any]) -> Any:
    """A function that kernels call, and Python does not; it is compiled as a part of them.

    It makes no arrays and returns none, so nothing counts who holds those that it is given: that took a quarter of a
    walk's time.
    """
    # What Python would call it by takes a quarter of the time of all compiling.
    made = njit(no_cpython_wrapper=True, _nrt=False, **_OPTIONS)(function)
    _HELPERS.append(made)
    return made


def maker(function: Callable[..., Any]) -> Any:
    """A helper that makes arrays. Kernels and makers call it; a helper would never let go of what it returns."""
    made = njit(no_cpython_wrapper=True, **_OPTIONS)(function)
    _MAKERS.append(made)
    return made


def compiled(function: Callable[..., Any], *signature: Any) -> Any:
    """The kernel for exactly these argument types, compiled now or taken from disk."""
    dispatcher = njit(**_OPTIONS)(function)
    keep_on_disk(dispatcher)
    dispatcher.compile(signature)
    dispatcher.disable_compile()
    check_helpers()
    return dispatcher


def trusting(kernel: Any, *always: Any) -> Any:
    """A kernel that has its first arguments for good, and takes the others for what it was compiled for.

    To look at the types of all of them takes half a microsecond a call. It is for one place in Python, where the others are
    made or were checked: another array would be misread.
    """
    if isinstance(kernel, functools.partial):
        kernel, always = kernel.func, (*kernel.args, *always)
    [(signature, compilation)] = kernel.overloads.items()
    for place, (given, wanted) in enumerate(zip(always, signature, strict=False)):
        if kernel.typingctx.can_convert(typeof(given), wanted) is None:
            raise TypeError(f"{kernel.py_func.__name__} takes {wanted} at place {place}, not {typeof(given)}")
    return functools.partial(compilation.entry_point, *always)


def check_helpers() -> None:
    """A helper which gives an array away that it does not hold would leave it to be freed twice."""
    for each in _HELPERS:
        for found in each.nopython_signatures:
            if _has_arrays(found.return_type):
                raise TypeError(f"{each.py_func.__qualname__} returns an array: it is a maker, and no helper")


def _has_arrays(kind: Any) -> bool:
    return isinstance(kind, types.Array) or any(map(_has_arrays, getattr(kind, "types", ())))


def reads(element: Any, ndim: int = 1) -> Any:
    """A contiguous array that the kernel does not write: takes read-only arrays and others."""
    return types.Array(element, ndim, "C", readonly=True)


def writes(element: Any, ndim: int = 1) -> Any:
    return types.Array(element, ndim, "C")
