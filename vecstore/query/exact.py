"""The exact scan: every candidate row is compared, straight from the mapped blocks.

Kernels select in float32; what they select, and a margin more, is compared again in float64, and that
is what callers see. For many queries at once the kernels multiply matrices, which loses digits; there
a bound on the loss proves that nothing was missed, or the query is scanned by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.device import Device
from vecstore.kernels import dispatch, reference
from vecstore.query import on_card
from vecstore.query.found import Found, Rows
from vecstore.storage import keys
from vecstore.storage.slots import live_mask
from vecstore.storage.state import Blocks, Numbers, State
from vecstore.storage.vectors import read_rows

if TYPE_CHECKING:
    from vecstore.kernels.cuda.card import Card

T = TypeVar("T")
Mask = NDArray[np.uint8]

# Up to this many numbers to compare, NumPy answers before Numba is imported and compiled; but once so many were compared
# in all that this would have been worth while, kernels compare all but the fewest.
_SMALL, _SMALLEST, _WORTH_WHILE = 1 << 21, 1 << 14, 1 << 25
# From this many queries on, one pass of matrix products beats a pass each.
_BATCH = 4
# Queries are taken in portions of this many, and pools hold up to this many candidates.
_MOST_QUERIES, _MOST_POOL = 256, 4096
# Rows are compared again in portions of this many numbers.
_PORTION = 1 << 23
# A thread is worth starting for this many bytes of rows.
_THREAD_BYTES = 8 << 20


@dataclass(frozen=True)
class Targets:
    """The blocks to scan: where they are, which slots they hold, and which of these count."""

    addresses: NDArray[np.uint64]
    first_slots: Numbers
    mask: Mask
    numbers: Numbers

    def part(self, low: int, high: int, rows: int) -> Targets:
        return Targets(
            self.addresses[low:high],
            self.first_slots[low:high],
            self.mask[low * rows : high * rows],
            self.numbers[low:high],
        )


def candidates(blocks: Blocks, chosen: NDArray[np.bool_] | None) -> Mask:
    """1 for each slot that is live, and chosen where a filter chose."""
    live = live_mask(blocks)
    return live if chosen is None else live & chosen[: live.size]


def nearest(
    blocks: Blocks,
    queries: NDArray[Any],
    k: int,
    mask: Mask,
    threads: int,
    device: Device | None = None,
) -> Sequence[Found]:
    """The k nearest candidates of each query: (slots, public distances), by distance and then slot."""
    count = _count(blocks, mask)
    k = min(k, count)
    if k == 0:
        return [_nothing() for _ in queries]
    prepared = reference.prepare_query(blocks.header.settings.metric, queries)
    if device is None or not device.possible:
        return _on_cpu(blocks, prepared, k, mask, count, threads)
    if on_card.pays(device, blocks, prepared, count, threads):
        return device.attempt(
            lambda card: _on_card(card, device, blocks, prepared, k, mask, count, threads),
            lambda: _on_cpu(blocks, prepared, k, mask, count, threads),
        )
    with on_card.PACE.measured("cpu", on_card.work(blocks, len(prepared), count) / threads):
        return _on_cpu(blocks, prepared, k, mask, count, threads)


def _on_cpu(
    blocks: Blocks, prepared: NDArray[Any], k: int, mask: Mask, count: int, threads: int
) -> Sequence[Found]:
    settings = blocks.header.settings
    if _is_small(count * settings.dim * len(prepared)):
        slots = np.flatnonzero(mask)
        return [_closest(blocks, query, slots, k) for query in prepared]
    targets = _targets(blocks, mask)
    if settings.metric == "hamming" and k <= _MOST_POOL:
        return _counted(blocks, targets, prepared, k, threads)
    found: list[Found | None] = [None] * len(prepared)
    if len(prepared) >= _BATCH and 2 * k + 16 <= _MOST_POOL:
        fits = (
            np.flatnonzero(reference.fits_batch(prepared))
            if settings.dtype != "binary"
            else np.arange(len(prepared))
        )
        for start in range(0, fits.size, _MOST_QUERIES):
            part = fits[start : start + _MOST_QUERIES]
            for place, answer in zip(
                part.tolist(), _scan_many(blocks, targets, prepared[part], k, threads), strict=True
            ):
                found[place] = answer
    return [
        _scan_one(blocks, targets, query, k, threads) if answer is None else answer
        for query, answer in zip(prepared, found, strict=True)
    ]


def within(blocks: Blocks, queries: NDArray[Any], radius: float, mask: Mask, threads: int) -> list[Found]:
    """All candidates of each query within a distance."""
    settings = blocks.header.settings
    prepared = reference.prepare_query(settings.metric, queries)
    if radius < 0 and settings.metric != "ip":
        return [_nothing() for _ in queries]
    limit = float(reference.internal(settings.metric, float(radius)))
    count = _count(blocks, mask)
    # The rounding of a long product has no bound that is useful here, so ip is compared in float64 alone.
    if settings.metric == "ip" or _is_small(count * settings.dim * len(prepared)):
        slots = np.flatnonzero(mask)
        return [_inside(blocks, query, slots, limit) for query in prepared]
    targets = _targets(blocks, mask)
    found = []
    for query in prepared:
        slots = _maybe_inside(blocks, targets, query, limit * (1 + 1e-4) + 1e-5, threads)
        found.append(_inside(blocks, query, slots, limit))
    return found


def _count(blocks: Blocks, mask: Mask) -> int:
    """How many candidates there are; of all that are live the header says it."""
    if mask is blocks.cache.get("live"):
        return blocks.header.records
    return int(np.count_nonzero(mask.view(np.bool_)))


class _Compared:
    """How many numbers NumPy has compared in this process."""

    numbers = 0


def _is_small(numbers: int) -> bool:
    """Whether NumPy is to compare so many numbers."""
    if numbers > (_SMALL if _Compared.numbers <= _WORTH_WHILE else _SMALLEST):
        return False
    _Compared.numbers += numbers
    return True


def _nothing() -> Found:
    return np.zeros(0, dtype=np.int64), np.zeros(0)


def _targets(blocks: Blocks, mask: Mask) -> Targets:
    known = blocks.cache.get("targets")
    if isinstance(known, tuple) and known[0] is mask:
        targets: Targets = known[1]
        return targets
    rows = blocks.layout.rows
    count = -(-mask.size // rows)
    padded = np.zeros(count * rows, dtype=np.uint8)
    padded[: mask.size] = mask
    table = padded.reshape(count, rows)
    numbers = np.flatnonzero(table.any(axis=1)).astype(np.int64)
    addresses = blocks.addresses(keys.VECTORS, numbers) + np.uint64(blocks.layout.row_start)
    flat = padded if numbers.size == count else table[numbers].ravel()
    targets = Targets(addresses, numbers * rows, flat, numbers)
    if mask is blocks.cache.get("live"):
        blocks.cache["targets"] = mask, targets
    return targets


def _rows_of(blocks: Blocks, part: Targets) -> tuple[Any, ...]:
    """Blocks to scan, as kernels take them."""
    layout = blocks.layout
    sizes = layout.rows, layout.row_bytes, blocks.header.settings.dim
    return part.addresses, part.first_slots, *sizes, part.mask


# -- bits under Hamming


def _counted(blocks: Blocks, targets: Targets, queries: NDArray[Any], k: int, threads: int) -> Rows:
    """What the kernels say of whole numbers is exact: of all queries together the best are sorted out by NumPy."""
    kernels = dispatch.cpu()
    many = len(queries) >= _BATCH
    scan = (kernels.tile.scan_batch if many else kernels.scan.scan)("hamming", "binary")
    slots, distances = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k))
    step = _MOST_QUERIES if many else 1
    for start in range(0, len(queries), step):
        asked = np.ascontiguousarray(queries[start : start + step])

        def run(part: Targets, asked: NDArray[Any] = asked) -> Numbers:
            near = np.zeros((len(asked), k), dtype=np.float32)
            places = np.zeros((len(asked), k), dtype=np.int64)
            sizes = np.zeros(len(asked), dtype=np.int64)
            if many:
                scan(*_rows_of(blocks, part), asked, near, places, sizes)
            else:
                sizes[0] = scan(*_rows_of(blocks, part), asked[0], near[0], places[0], 0)
            # By the distance, then by the slot.
            found = near.astype(np.int64) << 32 | places
            return np.where(np.arange(k) < sizes[:, None], found, np.iinfo(np.int64).max)

        parts = _spread(run, targets, blocks, threads, times=len(asked))
        best = np.sort(np.concatenate(parts, axis=1), axis=1)[:, :k]
        slots[start : start + step], distances[start : start + step] = best & 0xFFFFFFFF, best >> 32
    return Rows(slots, distances, np.full(len(queries), k))


# -- one query


def _scan_one(blocks: Blocks, targets: Targets, query: NDArray[Any], k: int, threads: int) -> Found:
    settings = blocks.header.settings
    kernels = dispatch.cpu()
    scan = kernels.scan.scan(settings.metric, settings.dtype)
    pool = min(k + 16, targets.mask.size)

    def run(part: Targets) -> Numbers:
        distances, slots = np.empty(pool, dtype=np.float32), np.empty(pool, dtype=np.int64)
        size = scan(*_rows_of(blocks, part), query, distances, slots, 0)
        return slots[:size]

    return _closest(blocks, query, np.concatenate(_spread(run, targets, blocks, threads)), k)


def _maybe_inside(
    blocks: Blocks, targets: Targets, query: NDArray[Any], limit: float, threads: int
) -> Numbers:
    """Slots that are within the limit as far as float32 can tell."""
    settings, layout = blocks.header.settings, blocks.layout
    kernels = dispatch.cpu()
    kernel = kernels.distance.kernel(settings.metric, settings.dtype)
    select = kernels.select.within()
    step = max(1, (1 << 16) // layout.rows)

    def run(part: Targets) -> Numbers:
        size = step * layout.rows
        distances, near = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
        places = np.empty(size, dtype=np.int64)
        found = [np.zeros(0, dtype=np.int64)]
        for low in range(0, part.numbers.size, step):
            piece = part.part(low, low + step, layout.rows)
            values = distances[: piece.mask.size]
            kernel(piece.addresses, layout.rows, layout.row_bytes, settings.dim, query, values)
            count = select(values, piece.mask, 0, limit, places, near)
            at = places[:count]
            found.append(piece.first_slots[at // layout.rows] + at % layout.rows)
        return np.concatenate(found)

    return np.concatenate(_spread(run, targets, blocks, threads))


# -- many queries


def _scan_many(
    blocks: Blocks, targets: Targets, queries: NDArray[Any], k: int, threads: int
) -> list[Found | None]:
    """As ``_scan_one`` for each; None for a query whose answer could not be proved complete."""
    settings = blocks.header.settings
    kernels = dispatch.cpu()
    scan, sort = kernels.tile.scan_batch(settings.metric, settings.dtype), kernels.select.sort()
    packed = kernels.tile.pack_queries(settings.dtype, queries)
    pool = 2 * k + 16

    def run(part: Targets) -> tuple[NDArray[np.float32], Numbers, Numbers, float]:
        distances = np.empty((len(queries), pool), dtype=np.float32)
        slots = np.empty((len(queries), pool), dtype=np.int64)
        sizes = np.zeros(len(queries), dtype=np.int64)
        norm = scan(*_rows_of(blocks, part), packed, distances, slots, sizes)
        for row in range(len(queries)):
            sort(distances[row], slots[row], int(sizes[row]))
        return distances, slots, sizes, float(norm)

    parts = _spread(run, targets, blocks, threads, times=len(queries))
    answers: list[Found | None] = []
    for row, query in enumerate(queries):
        slots = np.concatenate([part[1][row, : part[2][row]] for part in parts])
        answer = _closest(blocks, query, slots, k)
        answers.append(answer if _complete(blocks, query, answer, row, parts, pool) else None)
    return answers


def _complete(
    blocks: Blocks, query: NDArray[Any], answer: Found, row: int, parts: list[Any], pool: int
) -> bool:
    """Whether no row outside of the pools can be nearer than the last answer."""
    settings = blocks.header.settings
    if settings.dtype == "binary":
        return True
    query_norm = float(np.linalg.norm(query.astype(np.float64)))
    worst = float(reference.internal(settings.metric, answer[1][-1]))
    if settings.metric == "l2":
        worst -= query_norm**2
    for distances, _, sizes, norm in parts:
        if sizes[row] == pool:
            bound = reference.batch_error_bound(
                settings.metric, settings.dim, query_norm, float(np.sqrt(norm))
            )
            if not worst < float(distances[row, pool - 1]) - bound:
                return False
    return True


# -- on a graphics card


def _on_card(
    card: Card,
    device: Device,
    blocks: Blocks,
    prepared: NDArray[Any],
    k: int,
    mask: Mask,
    count: int,
    threads: int,
) -> Sequence[Found]:
    """As ``_on_cpu``, which does what the card cannot, or cannot prove."""
    assert isinstance(blocks, State)
    fits = np.ones(len(prepared), dtype=bool)
    if blocks.header.settings.dtype != "binary":
        fits = reference.fits_batch(prepared)
    found: list[Found | None] = [None] * len(prepared)
    places, pool = np.flatnonzero(fits), 2 * k + 16
    pools = on_card.pools(card, device, blocks, prepared[places], pool, mask, threads) if places.size else None
    if pools is not None:
        parts = [(pools.values, pools.slots, pools.sizes, pools.largest)]
        near = (slots[:size] for slots, size in zip(pools.slots, pools.sizes.tolist(), strict=True))
        candidates = [np.concatenate((slots, pools.odd)) for slots in near]
        answers = _closest_of_each(blocks, prepared[places], candidates, k)
        for row, (place, answer) in enumerate(zip(places.tolist(), answers, strict=True)):
            if _complete(blocks, prepared[place], answer, row, parts, pool):
                found[place] = answer
    left = [place for place, answer in enumerate(found) if answer is None]
    if left:
        rest = _on_cpu(blocks, prepared[left], k, mask, count, threads)
        for place, answer in zip(left, rest, strict=True):
            found[place] = answer
    return [answer for answer in found if answer is not None]


# -- comparing again, exactly


def _closest(blocks: Blocks, query: NDArray[Any], slots: Numbers, k: int) -> Found:
    values = _exact(blocks, query, slots)
    order = np.lexsort((slots, values))[:k]
    return slots[order], reference.finish(blocks.header.settings.metric, values[order])


def _closest_of_each(
    blocks: Blocks, queries: NDArray[Any], candidates: list[Numbers], k: int
) -> list[Found]:
    """As ``_closest`` for each query. Rows are read for many queries together."""
    settings, found = blocks.header.settings, list[Found]()
    step = max(1, _PORTION // (settings.dim * max(slots.size for slots in candidates)))
    for start in range(0, len(candidates), step):
        part = candidates[start : start + step]
        distinct, places = np.unique(np.concatenate(part), return_inverse=True)
        rows, end = read_rows(blocks, distinct), 0
        for query, slots in zip(queries[start : start + step], part, strict=True):
            begin, end = end, end + slots.size
            values = reference.distances(settings.metric, settings.dtype, rows[places[begin:end]], query)
            order = np.lexsort((slots, values))[:k]
            found.append((slots[order], reference.finish(settings.metric, values[order])))
    return found


def _inside(blocks: Blocks, query: NDArray[Any], slots: Numbers, limit: float) -> Found:
    values = _exact(blocks, query, slots)
    near = values <= limit
    return _sorted(slots[near], reference.finish(blocks.header.settings.metric, values[near]))


def _sorted(slots: Numbers, distances: NDArray[np.float64]) -> Found:
    order = np.lexsort((slots, distances))
    return slots[order], distances[order]


def _exact(blocks: Blocks, query: NDArray[Any], slots: Numbers) -> NDArray[np.float64]:
    settings = blocks.header.settings
    step = max(1, _PORTION // settings.dim)
    values = np.empty(slots.size)
    for start in range(0, slots.size, step):
        part = slots[start : start + step]
        values[start : start + step] = reference.distances(
            settings.metric, settings.dtype, read_rows(blocks, part), query
        )
    return values


# -- threads


def available_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Threads(ThreadPoolExecutor):
    def map(
        self, fn: Callable[..., T], *iterables: Any, timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """What the function gives for each part. It ends, or raises, when none is under way: a file that they
        read may be closed after that, and no kernel survives it.
        """
        futures = [self.submit(fn, *each) for each in zip(*iterables, strict=True)]
        try:
            return iter([future.result(timeout) for future in futures])
        finally:
            wait([future for future in futures if not future.cancel()])


def executor(threads: int) -> ThreadPoolExecutor:
    """Threads for kernels that let go of the GIL; kept between calls."""
    return _executor(threads, os.getpid())


@lru_cache(maxsize=4)
def _executor(threads: int, process: int) -> ThreadPoolExecutor:
    """A forked child has no threads of its parent's, so it gets its own."""
    del process
    return _Threads(threads, thread_name_prefix="vecstore")


def _spread(
    run: Callable[[Targets], Any], targets: Targets, blocks: Blocks, threads: int, times: int = 1
) -> list[Any]:
    """Run over all blocks, in as many runs of neighbours as there are threads; kernels let go of the GIL.

    ``times`` is how often each byte is compared.
    """
    count = targets.numbers.size
    rows = blocks.layout.rows
    threads = max(1, min(threads, times * count * rows * blocks.layout.row_bytes // _THREAD_BYTES, count))
    if threads == 1:
        return [run(targets)]
    bounds = np.linspace(0, count, threads + 1).astype(int).tolist()
    parts = [targets.part(low, high, rows) for low, high in pairwise(bounds)]
    return list(executor(threads).map(run, parts))
