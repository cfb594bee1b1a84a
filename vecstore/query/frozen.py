"""Hashable stand-ins for values of metadata, equal exactly where the values are by the rules of filters."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from typing import Final

import numpy as np

_FROM_PLAIN: Final = frozenset((str, int, float, type(None)))  # frozen as they are
# A frozen dict is a frozenset of pairs, so a frozenset of one bool or one str is free to mean
# something else: True must differ from 1, and a value that isn't JSON-like from all that are.
_BOOLS: Final = (frozenset((False,)), frozenset((True,)))


class Codes(dict[Hashable, int]):
    """Distinct frozen values; the n-th key has code n, since keys leave only by compaction."""

    def __init__(self) -> None:
        super().__init__()
        self._listed: list[Hashable] = []  # as far as anybody asked

    def __missing__(self, key: Hashable) -> int:
        code = self[key] = len(self)
        return code

    def at(self, codes: Iterable[int]) -> list[Hashable]:
        """The values that have some codes.

        >>> codes = Codes()
        >>> [codes[text] for text in "abca"], codes.at([2, 0])
        ([0, 1, 2, 0], ['c', 'a'])
        """
        listed = self._listed
        if len(listed) < len(self):
            listed.extend(islice(self, len(listed), None))
        return [listed[code] for code in codes]

    @property
    def nbytes(self) -> int:
        """What it takes beside the values."""
        return sys.getsizeof(self) + sys.getsizeof(self._listed)


def plain(value: object) -> object:
    """`value` as the builtin it stands for: NumPy scalars and subclasses (enums) lose their type.

    >>> plain(np.float32(0.5)), plain(np.bool_(True))
    (0.5, True)
    """
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":  # a datetime64's item may be an int
        value = value.item()
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, float) else value


def freeze(value: object) -> Hashable:
    """A hashable stand-in; two are equal exactly where the values are, by the rules of filters.

    Numbers are equal across int and float where they are so exactly, a bool equals no number, and the
    order of a dict's keys does not count. A value that isn't JSON-like equals no JSON-like value.

    >>> freeze([1, {"a": 2.0}]) == freeze([1.0, {"a": 2}]), freeze(True) == freeze(1)
    (True, False)
    """
    kind = type(value)
    if kind in _FROM_PLAIN:
        return value
    if kind is bool:
        return _BOOLS[bool(value)]
    if isinstance(value, (list, tuple)):
        flat = _FROM_PLAIN.issuperset(map(type, value))
        return tuple(value if flat else map(freeze, value))
    if isinstance(value, (dict, Mapping)):
        flat = _FROM_PLAIN.issuperset(map(type, value.values()))
        return frozenset(value.items() if flat else zip(value, map(freeze, value.values()), strict=True))
    builtin = plain(value)
    return freeze(builtin) if type(builtin) is not kind else frozenset((repr(value),))


def weight(key: Hashable) -> int:
    """About how many bytes a frozen value takes."""
    return sys.getsizeof(key) + (sum(map(weight, key)) if isinstance(key, (tuple, frozenset)) else 0)
