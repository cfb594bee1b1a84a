"""What takes the time of a build, each as one step: on the CPU here, and on a graphics card in `vecstore.index.on_card`.

A step reads arrays off the card and writes arrays off the card. So one that a card fails in is done again by the CPU, and
what was built before it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vecstore.index.bits import Bits
from vecstore.index.codec import Codec, room_for_codes
from vecstore.kernels import dispatch

if TYPE_CHECKING:
    from vecstore.index.build import Plan

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]
Edges = NDArray[np.uint32]
Codes = NDArray[np.uint8]
Progress = Callable[[float], None]

# Codes are made of so many bytes of vectors at a time: what that takes besides is little.
_ENCODED_BYTES = 2 << 20
# Leaves are handed to threads in portions of this many: what they found waits until it is collected.
_PORTION = 64


class Lists:
    """Candidates for each node's edges, nearest first."""

    def __init__(self, count: int, room: int) -> None:
        self.ids = np.empty((count, room), dtype=np.uint32)
        self.distances = np.empty((count, room), dtype=np.float32)
        self.counts = np.zeros(count, dtype=np.int32)

    @property
    def arrays(self) -> tuple[Edges, Vectors, NDArray[np.int32]]:
        """As kernels take them."""
        return self.ids, self.distances, self.counts


@dataclass(frozen=True)
class Leaves:
    """Vectors that lie near each other, ascending: leaf i is `places[bounds[i] : bounds[i + 1]]`.

    A vector is in ``fanout`` leaves. Its place in the f-th of them is fanout times its number, and f.
    """

    places: Numbers
    bounds: Numbers
    fanout: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def members(self, leaf: int) -> Numbers:
        """The numbers of a leaf's vectors."""
        low, high = self.bounds[leaf : leaf + 2].tolist()
        return self.places[low:high] // self.fanout


class Steps(Protocol):
    """The same arrays in, and as good a graph out, whatever does them; the same graph each time from either."""

    def nearest(self, vectors: Vectors, leaders: Vectors, wanted: int) -> NDArray[np.int32]:
        """The nearest leaders of each vector, nearest first."""
        ...

    def chain(self, vectors: Vectors) -> Numbers:
        """An order in which each vector is followed by the nearest of the rest, from the first on."""
        ...

    def collect(self, vectors: Vectors, leaves: Leaves, plan: Plan, lists: Lists, progress: Progress) -> None:
        """Fill the lists with what each vector is to look at in its leaves."""
        ...

    def prune(self, vectors: Vectors, lists: Lists, alpha: float, edges: Edges) -> None:
        """Choose each node's edges among its candidates."""
        ...

    def turn_round(self, edges: Edges, vectors: Vectors, lists: Lists) -> None:
        """Make candidates of the edges that were chosen from the lists, and of those of others that lead back."""
        ...

    def train(self, sample: Vectors, kind: str, seed: int) -> Codec:
        """A codec for vectors like these."""
        ...

    def encode(self, codec: Codec | Bits, vectors: Vectors) -> Codes: ...


class OnCpu:
    """All steps on the CPU's threads."""

    def __init__(self, threads: int, pool: Executor) -> None:
        self._threads, self._pool = threads, pool

    def nearest(self, vectors: Vectors, leaders: Vectors, wanted: int) -> NDArray[np.int32]:
        chosen = np.empty((len(vectors), wanted), dtype=np.int32)
        nearest = dispatch.cpu().gram.nearest()
        parts = ranges(len(vectors), 8 * self._threads)
        list(self._pool.map(lambda part: nearest(vectors, leaders, *part, chosen), parts))
        return chosen

    def chain(self, vectors: Vectors) -> Numbers:
        order = np.arange(len(vectors), dtype=np.int64)
        dispatch.cpu().order.chain_cells()(vectors, order, np.array([0, order.size]), 0, 1)
        return order

    def collect(self, vectors: Vectors, leaves: Leaves, plan: Plan, lists: Lists, progress: Progress) -> None:
        leaf_edges, collect = dispatch.cpu().leaf.leaf_edges(), dispatch.cpu().prune.collect()
        alpha = np.float32(plan.alpha)
        # A card may have begun this.
        lists.counts[:] = 0

        def edges_of(members: Numbers) -> tuple[Edges, Vectors]:
            ids = np.empty((members.size, plan.kept), dtype=np.uint32)
            distances = np.empty((members.size, plan.kept), dtype=np.float32)
            leaf_edges(vectors, members, plan.looked_at, alpha, ids, distances)
            return ids, distances

        for start in range(0, len(leaves), _PORTION):
            portion = [leaves.members(leaf) for leaf in range(start, min(start + _PORTION, len(leaves)))]
            found = list(self._pool.map(edges_of, portion))

            # Each thread fills the lists of its own nodes, leaf by leaf, so the order is always the same.
            def fill(part: tuple[int, int]) -> None:
                for members, (ids, distances) in zip(portion, found, strict=True):  # noqa: B023
                    collect(members, ids, distances, *part, *lists.arrays)

            list(self._pool.map(fill, ranges(len(vectors), self._threads)))
            progress((start + len(portion)) / len(leaves))

    def prune(self, vectors: Vectors, lists: Lists, alpha: float, edges: Edges) -> None:
        # Asked for here and not by each thread: two of them would compile it twice.
        prune_all, slack = dispatch.cpu().prune.prune_all(), np.float32(alpha)
        parts = ranges(len(vectors), 8 * self._threads)
        list(self._pool.map(lambda part: prune_all(vectors, *lists.arrays, slack, *part, edges), parts))

    def turn_round(self, edges: Edges, vectors: Vectors, lists: Lists) -> None:
        turn_round = dispatch.cpu().prune.turn_round()
        parts = ranges(len(vectors), self._threads)
        list(self._pool.map(lambda part: turn_round(edges, vectors, *part, *lists.arrays), parts))

    def train(self, sample: Vectors, kind: str, seed: int) -> Codec:
        return Codec.train(sample, kind, seed)

    def encode(self, codec: Codec | Bits, vectors: Vectors) -> Codes:
        codes = room_for_codes(len(vectors), codec.code_bytes)

        def part(bounds: tuple[int, int]) -> None:
            codes[slice(*bounds)] = codec.encode(vectors[slice(*bounds)])

        list(self._pool.map(part, ranges(len(vectors), max(self._threads, vectors.nbytes // _ENCODED_BYTES))))
        return codes


def ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """About equal parts of so many, none of them empty unless there is nothing."""
    bounds = np.linspace(0, count, max(1, min(parts, count)) + 1).astype(int).tolist()
    return list(pairwise(bounds))
