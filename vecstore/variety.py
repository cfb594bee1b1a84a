"""Answers that are not all alike: the best of each group, and hits that are far from one another; and queries of several vectors."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import inputs, order
from vecstore.config import DEFAULT_K
from vecstore.errors import InvalidArgumentError
from vecstore.kernels import reference
from vecstore.planner import Asked, Planner
from vecstore.query import answers
from vecstore.query.found import Found
from vecstore.query.frozen import freeze
from vecstore.query.where import parse
from vecstore.storage.slots import read_slots
from vecstore.storage.state import Blocks, Numbers
from vecstore.storage.store import read_stored
from vecstore.storage.values import MISSING, extract
from vecstore.storage.vectors import read_rows

# Hits are chosen among so many times as many, and this many at least.
_CHOSEN_OF, _LEAST = 5, 50
# Records are read for their groups so many at a time.
_READ = 200
# So many that are of no use are passed over before groups that are not full are asked for by themselves.
_PASSED = 500


@dataclass(frozen=True)
class Way:
    """How hits shall differ; ``where`` is the expression that ``Asked.where`` was read from."""

    group_by: Any = None
    group_size: Any = 1
    diversity: Any = None
    where: Any = None


def answer(
    planner: Planner, blocks: Blocks, queries: NDArray[Any], own: Numbers | None, asked: Asked, way: Way
) -> Sequence[Found]:
    """The answers to each query: the best of each group, or far from one another."""
    if way.group_by is not None and way.diversity is not None:
        raise InvalidArgumentError("group_by and diversity answer two questions: ask one at a time")
    if asked.k is None:
        asked = asked._replace(k=DEFAULT_K)
    found = []
    for row in range(len(queries)):
        query, mine = queries[row : row + 1], None if own is None else own[row : row + 1]
        if way.diversity is not None:
            share = _checked_diversity(way.diversity)
            found.append(_diverse(planner, blocks, query, mine, asked, share))
        else:
            by, size = _checked_field(way.group_by), inputs.check_k(way.group_size, "group_size")
            found.append(_grouped(planner, blocks, query, mine, asked, by, size, way.where))
    return found


# -- the best of each group


@dataclass
class _Group:
    value: Any
    slots: list[int] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)


def _grouped(
    planner: Planner,
    blocks: Blocks,
    query: NDArray[Any],
    own: Numbers | None,
    asked: Asked,
    by: str,
    size: int,
    where: Any,
) -> Found:
    """The nearest ``size`` of each of the k groups that come nearest; ``where`` is what ``asked`` has parsed.

    Records without the field, or with null there, are in no group.
    """
    assert asked.k is not None
    groups = _gathered(_values(planner, blocks, query, own, asked, by), asked.k, size, _PASSED)
    if size > 1 and any(len(group.slots) < size for group in groups.values()):
        # Rather than wait for the last of a group that is far away, only the groups are looked at.
        values = [group.value for group in groups.values()]
        theirs = parse({"$and": [{} if where is None else where, {by: {"$in": values}}]})
        members = _values(planner, blocks, query, own, asked._replace(where=theirs), by)
        groups = _gathered(members, len(groups), size, None)
    slots = np.array([slot for group in groups.values() for slot in group.slots], dtype=np.int64)
    distances = np.array([distance for group in groups.values() for distance in group.distances])
    nearest = np.lexsort((slots, distances))
    return slots[nearest], distances[nearest]


def _gathered(
    found: Iterator[tuple[int, float, Any]], count: int, size: int, passed: int | None
) -> dict[Hashable, _Group]:
    """The first groups, each with its first members, until all are full or so many more were of no use."""
    groups: dict[Hashable, _Group] = {}
    full = useless = 0
    for slot, distance, value in found:
        key = freeze(value)
        group = groups.get(key)
        if group is None and len(groups) < count:
            group = groups[key] = _Group(value)
        if group is None or len(group.slots) == size:
            useless += 1
        else:
            group.slots.append(slot)
            group.distances.append(distance)
            full += len(group.slots) == size
        if full == count or (passed is not None and len(groups) == count and useless > passed):
            break
    return groups


def _values(
    planner: Planner, blocks: Blocks, query: NDArray[Any], own: Numbers | None, asked: Asked, by: str
) -> Iterator[tuple[int, float, Any]]:
    """Each answer in order with its value of a field, where it has one."""
    portions = order.in_order(planner, blocks, query, own, asked._replace(k=None))
    # Not pages, which would ask for the next portion before this one is read.
    parts = (part for portion in portions for part in order.pages(iter([portion]), _READ))
    for slots, distances in parts:
        # In the file's order, so that neighbours there are read together.
        at = np.argsort(slots)
        stored = read_stored(blocks, read_slots(blocks, slots[at]))
        values = [extract(record.metadata, by) for record in stored]
        ordered = dict(zip(at.tolist(), values, strict=True))
        for place, (slot, distance) in enumerate(zip(slots.tolist(), distances.tolist(), strict=True)):
            value = ordered[place]
            # NaN, which equals nothing, is in no group either.
            if value is not MISSING and value is not None and value == value:
                yield slot, distance, value


# -- far from one another


def _diverse(
    planner: Planner,
    blocks: Blocks,
    query: NDArray[Any],
    own: Numbers | None,
    asked: Asked,
    diversity: float,
) -> Found:
    """Maximal marginal relevance: each next hit is near the query and, by this share, far from the hits before it."""
    assert asked.k is not None
    pool = max(_CHOSEN_OF * asked.k, _LEAST)
    [(slots, distances)], _ = order.answer(planner, blocks, query, own, asked._replace(k=pool))
    if not slots.size:
        return slots, distances
    settings = blocks.header.settings
    rows = read_rows(blocks, slots)
    vectors = reference.prepare_query(settings.metric, answers.queries_of(blocks, slots))
    apart = np.full(slots.size, np.inf)
    chosen = [0]
    while len(chosen) < min(asked.k, slots.size):
        last = reference.distances(settings.metric, settings.dtype, rows, vectors[chosen[-1]])
        apart = np.minimum(apart, reference.finish(settings.metric, last))
        cost = (1 - diversity) * distances - diversity * apart
        cost[chosen] = np.inf
        chosen.append(int(np.argmin(cost)))
    return slots[chosen], distances[chosen]


def _checked_diversity(diversity: object) -> float:
    if isinstance(diversity, bool) or not isinstance(diversity, (int, float)) or not 0 <= diversity <= 1:
        raise InvalidArgumentError(f"diversity must be from 0 (nearest) to 1 (all apart), not {diversity!r}")
    return float(diversity)


def _checked_field(by: object) -> str:
    if not isinstance(by, str) or not by:
        raise InvalidArgumentError(f'group_by must be the name of a field, such as "album", not {by!r}')
    return by


# -- several vectors as one query


def combined(blocks: Blocks, items: Any, weights: Any) -> NDArray[Any]:
    """The weighted sum of vectors, and of the vectors of ids; under cosine each is brought to length one first."""
    settings = blocks.header.settings
    if (
        isinstance(items, (str, bytes, Mapping))
        or not isinstance(items, (Sequence, np.ndarray))
        or not len(items)
    ):
        raise InvalidArgumentError("a combination needs a list of ids or vectors, and at least one")
    share = _weights(weights, len(items))
    ids = [item for item in items if inputs.is_single(item)]
    slots = answers.slots_of(blocks, inputs.check_ids(ids))
    stored = iter(answers.queries_of(blocks, slots))
    rows = [
        next(stored) if inputs.is_single(item) else inputs.check_queries(item, settings)[0] for item in items
    ]
    if any(row.ndim == 2 and len(row) != 1 for row in rows):
        raise InvalidArgumentError("each vector of a combination is one: pass the rows of a matrix as a list")
    vectors = np.concatenate([row.reshape(1, -1) for row in rows])
    if settings.dtype == "binary":
        # Each bit is voted for: one with a weight above the other value's is set.
        votes = share @ (2.0 * np.unpackbits(vectors, axis=1, count=settings.dim) - 1)
        return np.packbits(votes > 0)
    wide = vectors.astype(np.float64)
    if settings.metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(share @ wide, dtype=np.float32)


def _weights(weights: Any, count: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(count, 1 / count)
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.full(1, np.nan)
    if found.shape != (count,) or not np.isfinite(found).all():
        raise InvalidArgumentError(f"weights must be {count} numbers, one for each vector, not {weights!r}")
    return found
