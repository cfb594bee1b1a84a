"""Exact scans on a graphics card: rows that it has room for stay there, others stream through it from the mapped file.

What comes back are pools of candidates, as the CPU's batch kernels make them, and the same proof is made with them:
`exact` compares them again in float64, and asks the CPU for a query whose pool is not proven to hold its answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecstore.device import Device
from vecstore.kernels import dispatch
from vecstore.kernels.cuda.card import CardError
from vecstore.storage import keys
from vecstore.storage.state import Blocks, Numbers, State

if TYPE_CHECKING:
    from vecstore.kernels.cuda.card import Card, DeviceArray, Stream
    from vecstore.kernels.cuda.scan import Batch

Mask = NDArray[np.uint8]

_NAME = "vectors"
# Rows travel in pieces of this many bytes, two of them in page-locked memory of the host.
_PIECE_BYTES = 32 << 20
# Of the card's room, so much is for what queries need; the rest may hold rows.
_FOR_QUERIES = 0.25
# Slots are 32-bit numbers on the card.
_MOST_SLOTS = 2**31 - 2
# What takes less says little of how fast it is.
_MEASURABLE = 5e-3
# More rows than this that float32 cannot hold, and the CPU does it.
_MOST_ODD = 1024


class Pools(NamedTuple):
    """What was found for each query: candidates ascending by value and slot, and what the proof needs."""

    values: NDArray[np.float32]
    slots: Numbers
    sizes: Numbers
    # The largest squared norm among the rows that were compared.
    largest: float
    # Rows whose sums float32 cannot hold: candidates of every query.
    odd: Numbers


# -- whether it pays


@dataclass
class Pace:
    """What this process computes and copies in a second: multiplications and bytes; measured as it goes.

    It starts with what is expected, of one CPU thread with AVX2, of a card of the last years, and of a PCIe 4 bus.
    """

    cpu: float = 2e10
    card: float = 5e12
    copy: float = 8e9
    # Starting CUDA and compiling the kernels, once a process; and what every call takes.
    start: float = 3.0
    call: float = 2e-3
    # Seconds that the CPU spent in scans that a card could have done, before one was looked for.
    missed: float = 0.0

    @contextlib.contextmanager
    def measured(self, name: str, amount: float) -> Iterator[None]:
        """So much is done in here. What takes long enough to be measured counts for a quarter of what is known then."""
        begun = time.perf_counter()
        yield
        seconds = time.perf_counter() - begun
        if seconds > _MEASURABLE:
            setattr(self, name, 0.75 * getattr(self, name) + 0.25 * amount / seconds)


PACE = Pace()


def work(blocks: Blocks, queries: int, rows: int) -> float:
    """How many numbers, or bytes of bits, are multiplied."""
    settings = blocks.header.settings
    return float(queries) * rows * (blocks.layout.row_bytes if settings.dtype == "binary" else settings.dim)


def pays(device: Device, blocks: Blocks, queries: NDArray[Any], count: int, threads: int) -> bool:
    """Whether the card is to compare these queries with so many candidates among the rows of this state.

    Only states that are committed: what an open transaction wrote lies in memory of its own. Under "cuda" it does
    whatever it can; under "auto" it must be quicker, counting the way there for rows that it does not hold yet, and
    is looked for once the CPU has spent as long on scans as starting CUDA takes.
    """
    if not device.possible or not isinstance(blocks, State) or blocks.header.slots > _MOST_SLOTS:
        return False
    if device.wanted == "cuda":
        return True
    here = work(blocks, len(queries), count) / (PACE.cpu * threads)
    held = isinstance(device.kept.get(_NAME), _Held)
    way = 0.0 if held else blocks.header.slots * blocks.layout.row_bytes / PACE.copy
    there = PACE.call + work(blocks, len(queries), blocks.header.slots) / PACE.card + way
    if there >= here:
        return False
    if device.started:
        return True
    PACE.missed += here
    return PACE.missed > PACE.start


# -- rows on the card


def _stored_type(blocks: Blocks) -> tuple[int, np.dtype[Any]]:
    """Numbers in a row as the card holds it, and their type: packed bits are words there."""
    settings = blocks.header.settings
    if settings.dtype == "binary":
        return -(-blocks.layout.row_bytes // 4), np.dtype(np.uint32)
    return settings.dim, np.dtype(settings.dtype)


def _room(card: Card, rows: int, width: int, kind: np.dtype[Any]) -> DeviceArray:
    """A table of rows on the card. Tiles read behind its end, where there is nothing that counts."""
    made = card.empty((dispatch.cuda().tile.room_for(rows), width), kind)
    card.copy(np.zeros((made.shape[0] - rows, width), kind), made[rows:])
    return made


class _Held:
    """The vectors of a collection, slot by slot, as far as this card has them; a commit's changes follow it."""

    def __init__(self, card: Card, blocks: State, slots: int) -> None:
        width, kind = _stored_type(blocks)
        self.checked = blocks.checked
        self.words = np.zeros(0, dtype=np.uint64)
        self.rows = _room(card, slots, width, kind)
        self.norms: DeviceArray = card.empty(slots, _norm_type(blocks))
        self.known = np.zeros(slots, dtype=_norm_type(blocks))

    @property
    def slots(self) -> int:
        return int(self.known.size)

    def release(self, card: Card) -> None:
        card.release(self.rows, self.norms)


def _norm_type(blocks: Blocks) -> np.dtype[Any]:
    return np.dtype(np.int32 if blocks.header.settings.dtype == "binary" else np.float32)


def _held(card: Card, device: Device, blocks: State, threads: int) -> _Held | None:
    """All rows of this state, on the card; None where there is no room for them."""
    slots = blocks.header.counts[keys.VECTORS] * blocks.layout.rows
    known = device.kept.get(_NAME)
    held = known if isinstance(known, _Held) else None
    if held is None or held.checked is not blocks.checked or held.slots < slots:
        if held is not None:
            device.kept.pop(_NAME)
            held.release(card)
            known = held = None
        width, kind = _stored_type(blocks)
        # A little more, so that the next commits find room.
        slots += slots // 8
        if slots * (width * kind.itemsize + _norm_type(blocks).itemsize) > (1 - _FOR_QUERIES) * card.room():
            return None
        held = _Held(card, blocks, slots)
    device.kept.pop(_NAME, None)  # what fails half-way is read anew
    words = blocks.entries(keys.VECTORS, 0, blocks.header.counts[keys.VECTORS]) >> np.uint64(16)
    before = np.zeros(words.size, dtype=np.uint64)
    before[: min(words.size, held.words.size)] = held.words[: words.size]
    changed = np.flatnonzero((words > 0) & (words != before))
    if changed.size:
        try:
            _take_in(card, device, blocks, held, changed, threads)
        except BaseException:
            held.release(card)
            raise
    held.words = words
    device.kept[_NAME] = held
    return held


def _take_in(card: Card, device: Device, blocks: State, held: _Held, numbers: Numbers, threads: int) -> None:
    rows, norms = blocks.layout.rows, dispatch.cuda().norms
    with PACE.measured("copy", float(numbers.size) * rows * blocks.layout.row_bytes):
        for part, buffer, stream in _travelling(card, device, blocks, numbers, threads, _PIECE_BYTES):
            for low, high in _runs(part):
                first = int(part[low]) * rows
                # The last block may have room for rows that nobody wrote yet.
                last = min((int(part[high - 1]) + 1) * rows, blocks.header.slots)
                card.copy(buffer[low * rows :][: last - first], held.rows[first:last], stream)
                norms.norms(card, held.rows[first:last], held.norms[first:last], stream)
        card.synchronize()
    card.get(held.norms, held.known)


def _travelling(
    card: Card, device: Device, blocks: State, numbers: Numbers, threads: int, most_bytes: int
) -> Iterator[tuple[Numbers, NDArray[Any], Stream]]:
    """Blocks' rows in page-locked buffers, a piece at a time, each with the stream that it is to be copied on.

    While one piece is on its way, and another is compared, threads read the next from the file.
    """
    layout = blocks.layout
    width, kind = _stored_type(blocks)
    piece_bytes = min(most_bytes, _PIECE_BYTES if device.memory is None else device.memory // 16)
    step = max(1, piece_bytes // (layout.rows * width * kind.itemsize))
    parts = [numbers[start : start + step] for start in range(0, numbers.size, step)]
    shape = min(step, numbers.size) * layout.rows, width
    buffers, streams = [card.pinned(shape, kind) for _ in parts[:2]], [card.stream() for _ in parts[:2]]
    with ThreadPoolExecutor(1, thread_name_prefix="vecstore") as ahead:
        for buffer in buffers:
            buffer.view(np.uint8)[:] = 0
        filling = ahead.submit(_fill, blocks, parts[0], buffers[0], threads)
        for place, part in enumerate(parts):
            filling.result()
            here, other = place % 2, (place + 1) % 2
            if place + 1 < len(parts):
                if place:  # what was copied out of the other buffer must have arrived
                    streams[other].synchronize()
                filling = ahead.submit(_fill, blocks, parts[place + 1], buffers[other], threads)
            yield part, buffers[here], streams[here]


def _fill(blocks: State, numbers: Numbers, buffer: NDArray[Any], threads: int) -> None:
    """Copy these blocks' rows, all of them checked, into a buffer, one block behind the other."""
    data, starts = blocks.file_rows(keys.VECTORS, numbers)
    layout = blocks.layout
    target = buffer.view(np.uint8).reshape(-1, layout.rows, buffer.shape[1] * buffer.itemsize)

    def copy(low: int, high: int) -> None:
        for place, start in enumerate((starts[low:high] + layout.row_start).tolist(), low):
            rows = data[start : start + layout.rows * layout.row_bytes]
            target[place, :, : layout.row_bytes] = rows.reshape(layout.rows, layout.row_bytes)

    workers = min(4, threads, numbers.size)
    if workers == 1:
        copy(0, numbers.size)
        return
    bounds = np.linspace(0, numbers.size, workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers, thread_name_prefix="vecstore") as pool:
        list(pool.map(copy, bounds[:-1], bounds[1:]))


def _runs(numbers: Numbers) -> list[tuple[int, int]]:
    """(first place, place behind the last) of each run of neighbours."""
    bounds = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), int(numbers.size)]
    return list(pairwise(bounds))


# -- scanning


def pools(
    card: Card, device: Device, blocks: State, queries: NDArray[Any], pool: int, mask: Mask, threads: int
) -> Pools | None:
    """The nearest candidates of prepared queries that fit a batch; None where the CPU is to do it.

    Memory on the card: the rows with their norms where three quarters of the room hold them, else two pieces of
    32 MB; and for portions of queries some 33 KB each.
    """
    scan = dispatch.cuda().scan
    if pool > scan.most_pool():
        return None
    with card.working():
        held = _held(card, device, blocks, threads)
        most = int(card.room() // 2) // scan.bytes_a_query(4 * queries.shape[1], pool)
        if most < 1:
            raise CardError(f"there is no room left for queries on {card.name}")
        step = min(_MOST_QUERIES, most)
        rows, count = blocks.layout.rows, blocks.header.counts[keys.VECTORS]
        padded = np.zeros(count * rows, dtype=np.uint8)
        padded[: mask.size] = mask
        found = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            batch = scan.Batch(card, blocks.header.settings.metric, part, pool, card.stream())
            try:
                if held is not None:
                    largest, odd = _scan_held(card, blocks, held, batch, padded)
                else:
                    largest, odd = _scan_streamed(card, device, blocks, batch, padded, threads)
                found.append((*batch.result(), largest, odd))
            finally:
                batch.close()
            if odd.size > _MOST_ODD:
                return None
    values, slots, sizes = (np.concatenate([each[place] for each in found]) for place in range(3))
    return Pools(values, slots, sizes, found[0][3], found[0][4])


# Queries that are compared with a piece of rows together.
_MOST_QUERIES = 4096


def _apart(blocks: State, norms: NDArray[Any], mask: Mask) -> tuple[float, Numbers]:
    """The largest squared norm that counts, and the places of rows that float32 cannot hold, whose mask becomes 0."""
    settings, scan = blocks.header.settings, dispatch.cuda().scan
    if settings.dtype == "binary":
        return 0.0, np.zeros(0, dtype=np.int64)
    fits = norms <= scan.LARGEST
    if settings.metric == "cosine":
        fits &= norms >= scan.SMALLEST
    alive = mask > 0
    odd = np.flatnonzero(alive & ~fits)
    mask[odd] = 0
    return float(norms.max(initial=0, where=alive & fits)), odd


def _span(mask: Mask) -> tuple[int, int]:
    """Where candidates begin and end."""
    alive = np.flatnonzero(mask)
    return (int(alive[0]), int(alive[-1]) + 1) if alive.size else (0, 0)


def _scan_held(card: Card, blocks: State, held: _Held, batch: Batch, padded: Mask) -> tuple[float, Numbers]:
    tile = dispatch.cuda().tile
    mask = padded.copy()
    largest, odd = _apart(blocks, held.known[: mask.size], mask)
    there = card.put(mask)
    first, last = _span(mask)
    with PACE.measured("card", work(blocks, batch.size, last - first)):
        batch.add(tile.Piece(held.rows, held.norms, there, 0), first, last)
    card.release(there)
    return largest, odd


@dataclass
class _Place:
    """Where one of two pieces lies on the card, and what of it lies on the host."""

    rows: DeviceArray
    norms: DeviceArray
    mask: DeviceArray
    known: NDArray[Any]
    numbers: Numbers
    arrived: Stream

    @classmethod
    def make(cls, card: Card, blocks: State, count: int) -> _Place:
        width, kind = _stored_type(blocks)
        norm = _norm_type(blocks)
        return cls(
            rows=_room(card, count, width, kind),
            norms=card.empty(count, norm),
            mask=card.empty(count, np.uint8),
            known=card.pinned(count, norm),
            numbers=np.zeros(0, dtype=np.int64),
            arrived=None,
        )


def _scan_streamed(
    card: Card, device: Device, blocks: State, batch: Batch, padded: Mask, threads: int
) -> tuple[float, Numbers]:
    norms, rows = dispatch.cuda().norms, blocks.layout.rows
    table = padded.reshape(-1, rows)
    numbers = np.flatnonzero(table.any(axis=1)).astype(np.int64)
    places: list[_Place] = []
    most = card.room() // 3
    largest, odd = 0.0, [np.zeros(0, dtype=np.int64)]
    waiting: _Place | None = None
    try:
        for turn, (part, buffer, stream) in enumerate(
            _travelling(card, device, blocks, numbers, threads, most)
        ):
            if turn < 2:
                places.append(_Place.make(card, blocks, len(buffer)))
            place, size = places[turn % 2], part.size * rows
            place.numbers, place.arrived = part, stream
            card.copy(buffer[:size], place.rows[:size], stream)
            norms.norms(card, place.rows[:size], place.norms[:size], stream)
            card.get(place.norms[:size], place.known[:size], stream)
            if waiting is not None:
                norm, apart = _compare(card, blocks, batch, waiting, table)
                largest = max(largest, norm)
                odd.append(apart)
            waiting = place
        if waiting is not None:
            norm, apart = _compare(card, blocks, batch, waiting, table)
            largest = max(largest, norm)
            odd.append(apart)
    finally:
        for place in places:
            card.release(place.rows, place.norms, place.mask)
    return largest, np.concatenate(odd)


def _compare(card: Card, blocks: State, batch: Batch, place: _Place, table: Mask) -> tuple[float, Numbers]:
    """Compare the piece of a place, once it has arrived there."""
    tile, rows = dispatch.cuda().tile, blocks.layout.rows
    size = place.numbers.size * rows
    place.arrived.synchronize()
    mask = table[place.numbers].ravel()
    largest, odd = _apart(blocks, place.known[:size], mask)
    card.copy(mask, place.mask[:size], batch.stream)
    for low, high in _runs(place.numbers):
        begin = low * rows
        first, last = _span(mask[begin : high * rows])
        piece = tile.Piece(place.rows, place.norms, place.mask, int(place.numbers[low]) * rows - begin)
        batch.add(piece, begin + first, begin + last)
    return largest, place.numbers[odd // rows] * rows + odd % rows
