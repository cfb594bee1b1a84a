"""What searches find before callers see it: slots and distances, nearest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from vecstore.storage.state import Numbers

Distances: TypeAlias = NDArray[np.float64]
Found: TypeAlias = tuple[Numbers, Distances]


class Rows(Sequence[Found]):
    """The answers to many queries as a search wrote them down: of row i, the first ``sizes[i]``."""

    def __init__(self, slots: Numbers, distances: Distances, sizes: Numbers) -> None:
        self._slots, self._distances, self._sizes = slots, distances, sizes

    def __len__(self) -> int:
        return self._sizes.size

    @overload
    def __getitem__(self, place: int) -> Found: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Found | Rows:
        if isinstance(place, slice):
            return Rows(self._slots[place], self._distances[place], self._sizes[place])
        size = self._sizes[place]
        return self._slots[place, :size], self._distances[place, :size]

    def __iter__(self) -> Iterator[Found]:
        for slots, distances, size in zip(self._slots, self._distances, self._sizes.tolist(), strict=True):
            yield slots[:size], distances[:size]


def in_a_row(found: Sequence[Found]) -> tuple[Numbers, Distances, Numbers]:
    """(slots, distances, offsets) of all queries: query i has what lies from ``offsets[i]`` to ``offsets[i + 1]``."""
    if isinstance(found, Rows):
        return _side_by_side(found._slots, found._distances, found._sizes)
    offsets = np.zeros(len(found) + 1, dtype=np.int64)
    if not found:
        return offsets[1:], np.zeros(0), offsets
    np.cumsum([slots.size for slots, _ in found], out=offsets[1:])
    slots, distances = zip(*found, strict=True)
    return np.concatenate(slots), np.concatenate(distances), offsets


def _side_by_side(slots: Numbers, distances: Distances, sizes: Numbers) -> tuple[Numbers, Distances, Numbers]:
    offsets = np.zeros(sizes.size + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    if offsets[-1] == slots.size:
        return slots.reshape(-1), distances.reshape(-1), offsets
    given = np.arange(slots.shape[1]) < sizes[:, None]
    return slots[given], distances[given], offsets
