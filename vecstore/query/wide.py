"""Integers that a float64 can't hold: its nearest float64, and what is left of it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Below it every integer is a float64.
EXACT: Final = 2.0**53


def split(value: float) -> tuple[float, int]:
    """The nearest float64 and, for an integer, what is left. Rounding never reverses an order, so pairs order as integers do.

    >>> split(2**53 + 1), split(0.5)
    ((9007199254740992.0, 1), (0.5, 0))
    """
    number = float(value)
    return number, value - int(number) if isinstance(value, int) else 0


def paired(numbers: NDArray[Any], remainders: Any) -> NDArray[np.complex128]:
    """As complex numbers, which compare by both parts and sort by the first, then the second."""
    pairs = np.empty(len(numbers), dtype=np.complex128)
    pairs.real, pairs.imag = numbers, remainders
    return pairs
