"""The records that a filter chose, as a graph's nodes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.index.bundles import SIZE, Bundles
from vecstore.index.walk import Numbers, Walker
from vecstore.kernels import dispatch

Bits: TypeAlias = NDArray[np.uint8]
Slots: TypeAlias = NDArray[np.int32]

_MAKING = threading.Lock()


@dataclass(frozen=True)
class Chosen:
    """Those of one snapshot. Threads may share it."""

    walker: Walker
    # Of the slots whose records are live, linked and chosen, a bit each, the lowest first; or themselves, where they are few.
    bits: Bits | None
    slots: Slots | None
    # Slots of pending records that were chosen, where these are few; else a 1 for each of them.
    few: Numbers
    many: NDArray[np.uint8] | None
    # What looks among them, by what was asked for.
    searches: dict[tuple[int, float | None, int | None], Any] = field(default_factory=dict, compare=False)
    _tables: list[NDArray[np.void]] = field(default_factory=list, compare=False)

    @classmethod
    def among(cls, walker: Walker, slots: Slots) -> Chosen:
        """These slots and no pending records."""
        return cls(walker, None, slots, np.zeros(0, dtype=np.int64), None)

    @cached_property
    def count(self) -> int:
        """How many nodes were chosen."""
        if self.slots is not None:
            return self.slots.size
        return int(dispatch.cpu().chosen.count()(self.bits))

    @property
    def share(self) -> float:
        """Of all nodes."""
        return max(self.count, 1) / self.walker.resident.slots.size

    @cached_property
    def _found(self) -> NDArray[np.uint32] | None:
        """The nodes of the slots, in no order; None where there are no slots or their nodes are to be looked for."""
        resident = self.walker.resident
        if self.slots is None or resident.nodes_of is None:
            return None
        nodes = resident.nodes_of[self.slots]
        # A newer snapshot may have moved a record meanwhile.
        if (nodes >= resident.slots.size).any() or (resident.slots[nodes] != self.slots).any():
            return None
        return nodes

    @cached_property
    def nodes(self) -> NDArray[np.uint32]:
        """The nodes that were chosen, in order."""
        if self._found is not None:
            return np.sort(self._found)
        slots = self.walker.resident.slots
        every: NDArray[np.uint32] = np.empty(slots.size + 1, dtype=np.uint32)
        found: NDArray[np.uint32] = every[
            : int(dispatch.cpu().chosen.nodes_of()(slots, self._bits, every))
        ].copy()
        return found

    @cached_property
    def _bits(self) -> Bits:
        if self.bits is not None:
            return self.bits
        assert self.slots is not None
        mask = np.zeros(int(self.slots.max(initial=-1)) + 1, dtype=np.uint8)
        mask[self.slots] = 1
        return np.packbits(mask, bitorder="little")

    @cached_property
    def bundles(self) -> Bundles | None:
        """The graph's bundles, where its codes have some."""
        resident = self.walker.resident
        return resident.bundled.of(resident.codec, resident.codes)

    @cached_property
    def _words(self) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Which of 64 nodes were chosen, and a 1 where that is known already."""
        count = -(-self.walker.resident.slots.size // SIZE)
        words = np.zeros(count, dtype=np.uint64)
        if self._found is None:
            return words, np.zeros(count, dtype=np.uint8)
        dispatch.cpu().chosen.put()(self._found, words)
        return words, np.ones(count, dtype=np.uint8)

    @property
    def tables(self) -> NDArray[np.void]:
        """What was chosen as kernels read it: addresses of what is kept here."""
        found = self._tables
        if not found:
            with _MAKING:  # one thread alone, or its addresses would be those of what another one put away
                if not found:
                    found.append(self._made())
        return found[0]

    def _made(self) -> NDArray[np.void]:
        kernels, (words, known), bundles = dispatch.cpu(), self._words, self.bundles
        tables = np.zeros(1, dtype=kernels.chosen.CHOSEN)
        found = tables[0]
        found["words"], found["known"] = words.ctypes.data, known.ctypes.data
        if self._found is None:
            found["bits"], found["slots"] = self._bits.ctypes.data, 8 * self._bits.size
        if bundles is not None:
            found["tilt"] = bundles.tilt
            found["loose"], found["loose_count"] = bundles.loose.ctypes.data, bundles.loose.size
            for kind, middles in ("", bundles.bundles), ("bale_", bundles.bales):
                found["bales" if kind else "bundles"] = len(middles.codes)
                found[kind + "middles"] = middles.codes.ctypes.data
                found[kind + "spreads"] = middles.spreads.ctypes.data
        return tables

    @property
    def nbytes(self) -> int:
        """With what may be made of it."""
        words = -(-self.walker.resident.slots.size // SIZE) * 9
        arrays = (self.bits, self.slots, self.few, self.many)
        return words + 8 * self.count + sum(array.nbytes for array in arrays if array is not None)
