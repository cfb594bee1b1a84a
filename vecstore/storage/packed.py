"""Packed records, one behind the other in one array: a million of them are no million objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vecstore.storage.blocks import Bytes
from vecstore.storage.state import Numbers


@dataclass(frozen=True)
class Packed:
    """Record i is ``data[ends[i - 1] : ends[i]]``.

    >>> Packed.of([b"one", b"three"]).take(np.array([1])).data.tobytes()
    b'three'
    """

    data: Bytes
    ends: Numbers

    @classmethod
    def of(cls, records: Sequence[bytes] | Packed) -> Packed:
        if isinstance(records, Packed):
            return records
        lengths = np.fromiter(map(len, records), dtype=np.int64, count=len(records))
        return cls(np.frombuffer(b"".join(records), dtype=np.uint8), np.cumsum(lengths))

    def __len__(self) -> int:
        return self.ends.size

    @property
    def lengths(self) -> Numbers:
        return np.diff(self.ends, prepend=0)

    def record(self, place: int) -> bytes:
        return self.data[int(self.ends[place - 1]) if place else 0 : int(self.ends[place])].tobytes()

    def records(self) -> list[bytes]:
        return [self.record(place) for place in range(len(self))]

    def take(self, places: Numbers) -> Packed:
        return Packed.of([self.record(place) for place in places.tolist()])
