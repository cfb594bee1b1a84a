"""The values of an `$in`, laid out as columns look for them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.query.frozen import freeze
from vecstore.query.wide import EXACT, paired, split

_NO_NUMBERS = np.zeros(0)
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class OneOf:
    """Numbers apart from texts, lists and dicts, and those from null and bools.

    >>> some = OneOf.of([3, 1.0, "a", None, 1])
    >>> some.numbers.tolist(), some.coded, some.flags
    ([1.0, 3.0], ('a',), (None,))
    """

    # All of them, frozen.
    frozen: frozenset[Hashable]
    # Ascending and distinct; complex where a float64 doesn't hold one of them (see ``wide``).
    numbers: NDArray[np.float64] | NDArray[np.complex128]
    # Frozen texts, lists and dicts.
    coded: tuple[Hashable, ...]
    # Null and bools.
    flags: tuple[bool | None, ...]

    @classmethod
    def of(cls, values: Sequence[object]) -> OneOf:
        """Of checked values."""
        numbers, coded, flags = [], [], []
        for value in values:
            if value is None or isinstance(value, bool):
                flags.append(value)
            elif isinstance(value, (int, float)):
                numbers.append(split(value))
            else:
                coded.append(freeze(value))
        frozen = frozenset(map(freeze, values))
        return cls(frozen, _ascending(numbers), tuple(dict.fromkeys(coded)), tuple(dict.fromkeys(flags)))

    @classmethod
    def of_plain(cls, values: Sequence[object]) -> OneOf | None:
        """Of values that were not looked at yet, where all are texts, or numbers that float64 tells apart; None for others."""
        kinds = set(map(type, values))
        if kinds != {str} and not (kinds and kinds <= _NUMBERS):
            return None
        frozen: frozenset[Hashable] = frozenset(values)
        if kinds == {str}:
            return cls(frozen, _NO_NUMBERS, tuple(frozen), ())
        try:
            numbers = np.array(list(frozen), dtype=np.int64 if kinds == {int} else np.float64)
        except OverflowError:
            return None
        numbers.sort()
        if not (numbers[0] > -EXACT and numbers[-1] < EXACT):  # NaN is the last of all
            return None
        return cls(frozen, numbers.astype(np.float64, copy=False), (), ())


def _ascending(pairs: list[tuple[float, int]]) -> NDArray[np.float64] | NDArray[np.complex128]:
    if not pairs:
        return _NO_NUMBERS
    numbers, extras = zip(*pairs, strict=True)
    found = np.array(numbers)
    return np.unique(paired(found, extras) if any(extras) else found)
