"""The steps of a build on a graphics card, in pieces that its memory holds.

A piece is copied to the card, worked on, and copied back: between steps nothing is there but the vectors, where all of
them fit. The pieces change nothing of the result.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.index.bits import Bits
from vecstore.index.books import Doubles, Sums
from vecstore.index.codec import Codec, room_for_codes
from vecstore.index.steps import Codes, Edges, Leaves, Lists, Numbers, OnCpu, Progress, Steps, Vectors
from vecstore.kernels import dispatch
from vecstore.kernels import reference_codes as layout

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from vecstore.device import Device
    from vecstore.index.build import Plan
    from vecstore.kernels.cuda.card import Card, DeviceArray
    from vecstore.kernels.cuda.gram import Groups

T = TypeVar("T")

# Tables of distances are made for so many bytes at a time: enough to keep a card busy, and few enough launches.
_TABLE_BYTES = 1 << 30
# Vectors stay on the card where they take this part of its room at most.
_RESIDENT_SHARE = 2
# Lists come back so many nodes at a time, whole: if a card fails between two such, those of each node still fit together.
_NODES_AT_ONCE = 1 << 14
# Scalar codes of less take the CPU no longer than it takes to send the vectors.
_SCALARS_FROM_BYTES = 16 << 20
# Below this many numbers a build takes the CPU a few seconds, and starting a card may take as long.
_FROM_NUMBERS = 1 << 24


def steps_for(device: Device | None, count: int, width: int, threads: int, pool: Executor) -> Steps:
    """The steps of a build of so many vectors: on the card where the device says so, and where that pays."""
    cpu = OnCpu(threads, pool)
    if device is None or not device.possible or (device.wanted == "auto" and count * width < _FROM_NUMBERS):
        return cpu
    return OnDevice(device, cpu)


class OnDevice:
    """Each step on the card while there is one, and all that are left on the CPU once it has failed."""

    def __init__(self, device: Device, cpu: OnCpu) -> None:
        self._device, self._cpu = device, cpu
        self._on_card: OnCard | None = None

    def nearest(self, vectors: Vectors, leaders: Vectors, wanted: int) -> NDArray[np.int32]:
        return self._do(lambda steps: steps.nearest(vectors, leaders, wanted))

    def chain(self, vectors: Vectors) -> Numbers:
        return self._do(lambda steps: steps.chain(vectors))

    def collect(self, vectors: Vectors, leaves: Leaves, plan: Plan, lists: Lists, progress: Progress) -> None:
        self._do(lambda steps: steps.collect(vectors, leaves, plan, lists, progress))

    def prune(self, vectors: Vectors, lists: Lists, alpha: float, edges: Edges) -> None:
        self._do(lambda steps: steps.prune(vectors, lists, alpha, edges))

    def turn_round(self, edges: Edges, vectors: Vectors, lists: Lists) -> None:
        self._do(lambda steps: steps.turn_round(edges, vectors, lists))

    def train(self, sample: Vectors, kind: str, seed: int) -> Codec:
        return self._do(lambda steps: steps.train(sample, kind, seed))

    def encode(self, codec: Codec | Bits, vectors: Vectors) -> Codes:
        return self._do(lambda steps: steps.encode(codec, vectors))

    def _do(self, step: Callable[[Steps], T]) -> T:
        return self._device.attempt(lambda card: step(self._of(card)), lambda: self._without(step))

    def _of(self, card: Card) -> OnCard:
        if self._on_card is None:
            self._on_card = OnCard(card, self._cpu)
        return self._on_card

    def _without(self, step: Callable[[Steps], T]) -> T:
        self._on_card = None
        return step(self._cpu)


class OnCard:
    """All steps on one card; what a card gains nothing by, or cannot do in pieces that fit, the CPU does."""

    def __init__(self, card: Card, cpu: OnCpu) -> None:
        self._card, self._cpu = card, cpu
        self._kernels: Any = dispatch.cuda()
        # The vectors that are on the card, which others may let go of; and their copy there.
        self._host: Callable[[], Vectors | None] = _nothing
        self._resident: DeviceArray = None

    # -- leaders

    def nearest(self, vectors: Vectors, leaders: Vectors, wanted: int) -> NDArray[np.int32]:
        self._forget()
        chosen = np.empty((len(vectors), wanted), dtype=np.int32)
        near = self._everyone(leaders)
        each = 4 * (leaders.shape[1] + len(leaders) + wanted + 1)
        for low, high in self._pieces(len(vectors), each):
            self._nearest(vectors[low:high], near, chosen[low:high])
        return chosen

    def _nearest(self, vectors: Vectors, near: Groups, chosen: NDArray[np.int32]) -> None:
        card, gram, leaders = self._card, self._kernels.gram, near.largest
        with card.working():
            table = card.empty(len(vectors) * leaders, np.float32)
            gram.tables(near, self._everyone(vectors), *self._whole_table(), table)
            found = card.empty(chosen.shape, np.int32)
            gram.nearest(table, leaders, found)
            card.get(found, chosen)

    def chain(self, vectors: Vectors) -> Numbers:
        card, gram, count = self._card, self._kernels.gram, len(vectors)
        if 4 * count * count + 2 * vectors.nbytes > card.room():
            return self._cpu.chain(vectors)
        with card.working():
            table, order = card.empty(count * count, np.float32), card.empty(count, np.int32)
            everyone = self._everyone(vectors)
            gram.tables(everyone, everyone, *self._whole_table(), table)
            gram.chain(table, card.put(np.zeros(count, dtype=np.uint8)), order)
            return card.get(order).astype(np.int64)

    def _everyone(self, vectors: Vectors) -> Groups:
        """All of some vectors as one group."""
        count, card = len(vectors), self._card
        members = card.put(np.arange(count, dtype=np.uint32))
        bounds = card.put(np.zeros(1, dtype=np.int64)), card.put(np.array([count], dtype=np.int64))
        groups: Groups = self._kernels.gram.Groups(card.put(vectors), members, *bounds, count)
        return groups

    def _whole_table(self) -> tuple[DeviceArray, DeviceArray]:
        """The start and the origin of a single table."""
        put = self._card.put
        return put(np.zeros(1, dtype=np.int64)), put(np.full(1, -1, dtype=np.int64))

    # -- candidates

    def collect(self, vectors: Vectors, leaves: Leaves, plan: Plan, lists: Lists, progress: Progress) -> None:
        self._keep(vectors)
        each = 8 * (leaves.fanout * plan.kept + lists.ids.shape[1]) + 4
        # As much again is left for the tables that these are found in.
        for low, high in self._pieces(len(vectors), each, self._card.room() // 2):
            share = (high - low) / len(vectors)

            def told(done: float, before: float = low / len(vectors), share: float = share) -> None:
                progress(before + share * done)

            self._collect(vectors, leaves, plan, lists, low, high, told)

    def _collect(
        self,
        vectors: Vectors,
        leaves: Leaves,
        plan: Plan,
        lists: Lists,
        low: int,
        high: int,
        progress: Progress,
    ) -> None:
        card, count, room = self._card, high - low, lists.ids.shape[1]
        found = card.empty((count, leaves.fanout * plan.kept), np.uint32)
        apart = card.empty(found.shape, np.float32)
        mine = _touched(leaves, low, high)
        done = 0
        for portion in self._portions(leaves, mine, vectors.shape[1]):
            self._look_into(vectors, leaves, portion, plan, low, found, apart)
            done += portion.size
            progress(done / mine.size)
        with card.working():
            ids, distances = card.empty((count, room), np.uint32), card.empty((count, room), np.float32)
            counts = card.empty(count, np.int32)
            self._kernels.prune.collect(found, apart, ids, distances, counts)
            self._bring_back(ids, distances, counts, lists, low)

    def _look_into(
        self,
        vectors: Vectors,
        leaves: Leaves,
        numbers: Numbers,
        plan: Plan,
        low: int,
        found: DeviceArray,
        apart: DeviceArray,
    ) -> None:
        """Find the edges within some leaves."""
        card, put = self._card, self._card.put
        bounds = np.stack((leaves.bounds[numbers], leaves.bounds[numbers + 1]), axis=1).tolist()
        places = np.concatenate([leaves.places[first:last] for first, last in bounds])
        sizes = np.diff(bounds)[:, 0]
        firsts = np.cumsum(sizes) - sizes
        squares = sizes * sizes
        with card.working():
            table_of, members = self._rows_of(vectors, places // leaves.fanout)
            groups = self._kernels.gram.Groups(
                table_of, put(members.astype(np.uint32)), put(firsts), put(sizes), int(sizes.max())
            )
            starts = put(np.cumsum(squares) - squares)
            table = card.empty(int(squares.sum()), np.float32)
            self._kernels.gram.tables(groups, groups, starts, put(members[firsts]), table)
            owners = put(np.repeat(np.arange(numbers.size, dtype=np.int32), sizes))
            how = low, leaves.fanout, plan.looked_at, plan.kept, np.float32(plan.alpha)
            self._kernels.leaf.edges(table, starts, groups, owners, put(places), *how, found, apart)

    def _portions(self, leaves: Leaves, numbers: Numbers, width: int) -> Iterator[Numbers]:
        """Leaves whose tables are made at once."""
        sizes = np.diff(leaves.bounds)[numbers]
        costs = np.cumsum(4 * sizes * sizes + sizes * (16 + self._copied(width)))
        limit = min(_TABLE_BYTES, self._card.room() * 7 // 8)
        start = done = 0
        while start < numbers.size:
            end = max(start + 1, int(np.searchsorted(costs, done + limit, side="right")))
            end = min(end, start + self._kernels.gram.MOST_GROUPS)
            yield numbers[start:end]
            start, done = end, int(costs[end - 1])

    def _bring_back(
        self, ids: DeviceArray, distances: DeviceArray, counts: DeviceArray, lists: Lists, low: int
    ) -> None:
        get = self._card.get
        for first in range(0, counts.shape[0], _NODES_AT_ONCE):
            part = slice(first, min(first + _NODES_AT_ONCE, counts.shape[0]))
            target = slice(low + part.start, low + part.stop)
            # All three are here before the first is put in its place.
            came = get(ids[part]), get(distances[part]), get(counts[part])
            lists.ids[target], lists.distances[target], lists.counts[target] = came

    # -- edges

    def prune(self, vectors: Vectors, lists: Lists, alpha: float, edges: Edges) -> None:
        self._keep(vectors)
        room, degree = lists.ids.shape[1], edges.shape[1]
        each = 4 * room * room + 12 * room + 4 * degree + 32 + (room + 1) * self._copied(vectors.shape[1])
        for low, high in self._pieces(len(edges), each, most=self._kernels.gram.MOST_GROUPS):
            self._prune(vectors, lists, alpha, edges, low, high)

    def _prune(self, vectors: Vectors, lists: Lists, alpha: float, edges: Edges, low: int, high: int) -> None:
        card, put, count, room = self._card, self._card.put, high - low, lists.ids.shape[1]
        ids, counts = lists.ids[low:high], lists.counts[low:high]
        with card.working():
            table_of, members, origins = self._candidates(vectors, ids, counts, low)
            each = np.arange(count, dtype=np.int64)
            sizes = counts.astype(np.int64)
            groups = self._kernels.gram.Groups(
                table_of, put(members.reshape(-1)), put(each * room), put(sizes), int(sizes.max(initial=0))
            )
            table = card.empty(count * room * room, np.float32)
            self._kernels.gram.tables(groups, groups, put(each * room * room), put(origins), table)
            chosen = card.empty((count, edges.shape[1]), np.uint32)
            given = put(ids), put(lists.distances[low:high]), put(counts)
            self._kernels.prune.prune(table, *given, np.float32(alpha), chosen)
            card.get(chosen, edges[low:high])

    def _candidates(
        self, vectors: Vectors, ids: Edges, counts: NDArray[np.int32], low: int
    ) -> tuple[DeviceArray, Edges, Numbers]:
        """A table that has these candidates, their rows in it, and those of the nodes from low on."""
        nodes = np.arange(low, low + len(ids))
        if self._resident is not None:
            return self._resident, ids, nodes
        used = np.arange(ids.shape[1]) < counts[:, None]
        table_of, rows = self._rows_of(vectors, np.concatenate((nodes, ids[used])))
        members = np.zeros(ids.shape, dtype=np.uint32)
        members[used] = rows[len(ids) :]
        return table_of, members, rows[: len(ids)]

    def turn_round(self, edges: Edges, vectors: Vectors, lists: Lists) -> None:
        card, prune, put = self._card, self._kernels.prune, self._card.put
        # Everything may lead to everything: this is not cut into pieces.
        wanted = 3 * edges.nbytes + sum(array.nbytes for array in lists.arrays) + 16 * len(edges)
        if wanted > card.room():
            self._forget()
        if wanted > card.room():
            self._cpu.turn_round(edges, vectors, lists)
            return
        with card.working():
            leads, incoming = put(edges), put(np.zeros(len(edges), dtype=np.int64))
            prune.count(leads, incoming)
            sizes = card.get(incoming)
            total = max(1, int(sizes.sum()))
            sources, apart = card.empty(total, np.uint32), card.empty(total, np.float32)
            ids, distances, counts = put(lists.ids), put(lists.distances), put(lists.counts)
            ends = put(np.cumsum(sizes) - sizes)
            prune.turn_round(leads, ids, distances, counts, ends, sources, apart)
            self._bring_back(ids, distances, counts, lists, 0)

    # -- codes

    def train(self, sample: Vectors, kind: str, seed: int) -> Codec:
        return Codec.train(sample, kind, seed, self._sums)

    def _sums(self, codec: Codec, chosen: Vectors, rows: Doubles) -> Sums:
        card, coder, number = self._card, self._kernels.coder, codec.number
        bounds = np.array(layout.bounds(number, codec.code_bytes, codec.width))
        parts = np.repeat(np.arange(bounds.size - 1, dtype=np.int32), np.diff(bounds))
        shape = layout.centroids(number), codec.width
        with card.working():
            vectors, doubles, mean = card.put(chosen), card.put(rows), card.put(codec.mean)
            parts_of = card.put(parts)
            codes = card.empty((len(chosen), codec.code_bytes), np.uint8)
            totals, counts = card.empty(shape, np.float64), card.empty(shape, np.int64)

        def sums(books: Vectors) -> tuple[Doubles, Numbers]:
            with card.working():
                coder.encode_product(number, vectors, mean, card.put(books), codes)
                coder.sums(number, codes, doubles, parts_of, totals, counts)
                # A part without coordinates is at nought from every centroid, and takes the first.
                sizes = np.zeros((bounds.size - 1, shape[0]), dtype=np.int64)
                sizes[:, 0] = len(chosen)
                sizes[parts] = card.get(counts).T
                return card.get(totals), sizes

        return sums

    def encode(self, codec: Codec | Bits, vectors: Vectors) -> Codes:
        card, coder = self._card, self._kernels.coder
        if isinstance(codec, Bits):
            return self._cpu.encode(codec, vectors)
        _, scale, mean, turns, books = codec.parameters
        few = vectors.nbytes < _SCALARS_FROM_BYTES
        if len(turns) and (few or turns.shape[1] > coder.MOST_ROTATED):
            return self._cpu.encode(codec, vectors)
        self._forget()
        codes = room_for_codes(len(vectors), codec.code_bytes)
        product = codec.number in layout.PRODUCTS
        with card.working():
            middle = card.put(mean)
            other = card.put(books if product else turns)
        most = coder.most_rows() if product else None
        for low, high in self._pieces(len(vectors), 4 * codec.width + codec.code_bytes, most=most):
            with card.working():
                rows = card.put(vectors[low:high])
                made = card.empty((high - low, codec.code_bytes), np.uint8)
                if product:
                    coder.encode_product(codec.number, rows, middle, other, made)
                else:
                    coder.encode_scalar(codec.number, rows, middle, other, scale[0], scale[1], made)
                card.get(made, codes[low:high])
                del rows, made
        return codes

    # -- what is on the card

    def _keep(self, vectors: Vectors) -> None:
        """Have these vectors on the card from now on, if they fit."""
        if self._host() is vectors:
            return
        self._forget()
        if _RESIDENT_SHARE * vectors.nbytes <= self._card.room():
            self._resident = self._card.put(vectors)
            self._host = weakref.ref(vectors)

    def _forget(self) -> None:
        self._host, self._resident = _nothing, None

    def _copied(self, width: int) -> int:
        """The bytes that each vector of a piece is copied with: none where all are there."""
        return 4 * width if self._resident is None else 0

    def _rows_of(self, vectors: Vectors, numbers: Numbers) -> tuple[DeviceArray, Numbers]:
        """A table on the card that has these vectors, and the row of each."""
        if self._resident is not None:
            return self._resident, numbers
        distinct, rows = np.unique(numbers, return_inverse=True)
        return self._card.put(vectors[distinct]), rows.reshape(-1)

    def _pieces(
        self, count: int, bytes_each: int, room: int | None = None, most: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Pieces of which each fits into the room, by default a good part of what is left; at least one of each."""
        limit = min(_TABLE_BYTES, self._card.room() * 3 // 4) if room is None else room
        step = max(1, min(count, limit // bytes_each, count if most is None else most))
        return ((low, min(low + step, count)) for low in range(0, count, step))


def _nothing() -> None:
    return None


def _touched(leaves: Leaves, low: int, high: int) -> Numbers:
    """The leaves that have any of the vectors from low to high."""
    inside = (leaves.places >= low * leaves.fanout) & (leaves.places < high * leaves.fanout)
    touched: Numbers = np.flatnonzero(np.add.reduceat(inside, leaves.bounds[:-1]))
    return touched
