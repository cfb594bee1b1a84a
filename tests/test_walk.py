"""The walk over graphs made by hand, kept in arrays: what it visits, what it counts, and what it answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vecstore.config import METRICS_BY_DTYPE, Settings
from vecstore.index import space, walk
from vecstore.index.bits import Bits
from vecstore.index.calibrate import UNKNOWN, Reach
from vecstore.index.codec import KINDS, Codec
from vecstore.index.walk import DamageFound, Resident, Walker
from vecstore.kernels import reference_codes as layout
from vecstore.query.exact import executor

NONE = 0xFFFFFFFF
HEAD = 48


@dataclass(frozen=True)
class InMemory:
    """Rows as one block of a table that was found whole."""

    rows: np.ndarray
    length: int
    addresses: np.ndarray
    generations: np.ndarray
    seen: np.ndarray
    kind: int = 0
    first: int = 0
    base: int = 0
    page_bytes: int = 1
    row_start: int = HEAD
    sums: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), dtype=np.uint32))
    pages_seen: np.ndarray = field(default_factory=lambda: np.zeros((1, 0), dtype=np.uint64))

    @classmethod
    def of(cls, rows: np.ndarray) -> InMemory:
        one = np.ones(1, dtype=np.uint64)
        return cls(rows, HEAD + rows.nbytes, one * np.uint64(rows.ctypes.data - HEAD), one, one)


class Points:
    """A codec that loses nothing: a few whole numbers, and squared distances between them.

    Four bits hold up to 15; there a score is four squared distances, less an offset.
    """

    def __init__(self, width: int, number: int = layout.SCALAR8) -> None:
        self.number = number
        size = layout.coordinates(number, 16)
        self.state_bytes = layout.state_bytes(number, 16, size)
        shape, scale = np.array([number, 16], dtype=np.int64), np.array([0, 1], dtype=np.float32)
        none = np.zeros(0, dtype=np.float32)
        self.parameters = shape, scale, np.zeros(width, dtype=np.float32), np.zeros((0, size), dtype=np.float32), none

    def encode(self, points: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(points), 16), dtype=np.uint8)
        codes[:, : points.shape[1]] = points
        return codes


class World:
    """A graph over vectors, each in the slot that its node says."""

    def __init__(
        self,
        vectors: np.ndarray,
        neighbors: list[list[int]],
        entries: list[int],
        *,
        codec: Any = None,
        codes: np.ndarray | None = None,
        slots: np.ndarray | None = None,
        settings: Settings | None = None,
    ) -> None:
        count, degree = len(vectors), max(1, *map(len, neighbors))
        self.settings = settings or Settings(vectors.shape[1], "l2", "float32")
        self.codec = codec or Points(vectors.shape[1])
        self.slots = np.arange(count) if slots is None else slots
        self.codes = self.codec.encode(vectors) if codes is None else codes
        self.entries = entries
        self.neighbors = neighbors
        table = np.full((count, degree + 1), NONE, dtype=np.uint32)
        table[:, 0] = self.slots
        for row, others in zip(table, neighbors, strict=True):
            row[1 : 1 + len(others)] = others
        stored = np.empty_like(vectors)
        stored[self.slots] = vectors
        self.table, self.stored = table, stored
        resident = Resident(
            self.codec, self.codes, self.slots.astype(np.uint32), np.array(entries, dtype=np.uint32), UNKNOWN, 1.0
        )
        self.walker = Walker(
            self.settings, resident, InMemory.of(table), degree, InMemory.of(stored), count
        )

    def search(self, queries: Any, k: int, reach: Reach, mask: Any = None, threads: int = 1, skips: Any = None) -> Any:
        """(slots and distances of each query, effort)."""
        queries = np.asarray(queries, dtype=np.uint8 if self.settings.dtype == "binary" else np.float32)
        mask = np.ones(len(self.stored), dtype=np.uint8) if mask is None else mask
        skips = None if skips is None else np.array(skips, dtype=np.int64)
        slots, distances, sizes, effort = self.walker.search(queries, k, reach, mask, threads, executor, skips)
        found = [
            (mine[:size].tolist(), apart[:size].tolist())
            for mine, apart, size in zip(slots, distances, sizes.tolist(), strict=True)
        ]
        return found, effort

    def one(self, query: Any, k: int, room: int, slack: float = 0.0, reranked: int | None = None, **options: Any) -> Any:
        """(slots, hops, scores) of one query."""
        reach = Reach(room, k, slack, room if reranked is None else reranked)
        [(slots, _)], effort = self.search([query], k, reach, **options)
        return slots, effort.hops, effort.scores


def line(count: int = 64, reach: int = 1, entries: tuple[int, ...] = (0,), **options: Any) -> World:
    points = np.arange(count, dtype=np.float32)[:, None]
    neighbors = [
        [other for other in range(n - reach, n + reach + 1) if other != n and 0 <= other < count] for n in range(count)
    ]
    return World(points, neighbors, list(entries), **options)


# -- a line, walked from one end


@pytest.mark.parametrize("room", [1, 3, 40])
def test_a_line_is_walked_from_end_to_end(room: int) -> None:
    """Every node is nearer than the one before: each is scored once and gone on from once."""
    slots, hops, scores = line().one([63], 1, room)
    assert (slots, hops, scores) == ([63], 64, 64)


def test_a_walk_goes_no_farther_than_its_pool() -> None:
    # From 32 on to 63; 31 is scored beside 33, and falls behind the pool of four.
    slots, hops, scores = line(entries=(32,)).one([63], 4, 4)
    assert (slots, hops, scores) == ([63, 62, 61, 60], 32, 33)
    # In the middle of the line both ways are as near: from 0 to 20, and one more each way for the pool of four.
    slots, hops, scores = line().one([20], 4, 4)
    assert (slots, hops, scores) == ([20, 19, 21, 18], 22, 23)


def test_more_answers_than_there_are_or_than_are_compared() -> None:
    slots, hops, scores = line().one([10], 100, 200)
    assert slots[:4] == [10, 9, 11, 8]
    assert (sorted(slots), hops, scores) == (list(range(64)), 64, 64)
    slots, *_ = line().one([10], 2, 8, reranked=2)
    assert slots == [10, 9]


def test_slack_ends_a_walk_early() -> None:
    """Nodes lie at 2 * n and the query at 21: squares are 1 (10, 11), 9 (9, 12), 25 (8, 13)."""
    points = 2 * np.arange(40, dtype=np.float32)[:, None]
    neighbors = [[other for other in (n - 1, n + 1) if 0 <= other < 40] for n in range(40)]
    for slack, last in [(1.0, 11), (8.99, 11), (9.0, 12), (25.0, 13)]:
        slots, hops, scores = World(points, neighbors, [0]).one([21], 1, 100, slack)
        # Everything up to the last within the slack is gone on from, and one behind it scored.
        assert (slots, hops, scores) == ([10], last + 1, last + 2), slack
    # The k-th best is what counts: of two it is at 1, of three at 9, of five at 25.
    for k, last in [(2, 11), (3, 12), (5, 13)]:
        slots, hops, scores = World(points, neighbors, [0]).one([21], k, 100, 1.5)
        assert (len(slots), hops, scores) == (k, last + 1, last + 2)


def test_slack_is_on_distances_and_not_on_scores() -> None:
    """A query at 7.5, so squares are 1/4 (7, 8), 9/4 (6, 9), 25/4 (5, 10): the scores of them are below zero."""
    world = line(16, codec=Points(1, layout.SCALAR4))
    for slack, last in [(1.0, 8), (8.0, 8), (9.0, 9), (24.0, 9), (25.0, 10), (49.0, 11)]:
        slots, hops, scores = world.one([7.5], 1, 100, slack)
        assert (slots, hops, scores) == ([7], last + 1, last + 2), slack


def test_a_node_that_is_left_out_is_neither_answered_nor_gone_through() -> None:
    slots, hops, scores = line().one([63], 3, 64, skips=[20])
    assert (slots, hops, scores) == ([19, 18, 17], 20, 20)
    slots, hops, scores = line(reach=2).one([63], 64, 64, skips=[20])
    assert (sorted(slots), hops, scores) == ([n for n in range(64) if n != 20], 63, 63)
    slots, hops, scores = line(entries=(0, 5)).one([3], 64, 64, skips=[0])
    assert (sorted(slots), hops) == (list(range(1, 64)), 63)
    slots, hops, _ = line().one([3], 5, 10, skips=[0])
    assert (slots, hops) == ([], 0)


def test_many_entries_are_scored_once_each() -> None:
    slots, hops, scores = line(entries=(0, 63, 63, 30)).one([31], 1, 5, slack=1.0)
    # From 30, at 1, to 31 and no farther; 29 and 32 are scored on the way.
    assert (slots, hops, scores) == ([31], 2, 4 + 2 + 1)
    slots, *_ = line(entries=tuple(range(64))).one([31], 3, 3)
    assert slots == [31, 30, 32]


def test_only_what_the_mask_has_is_answered_and_everything_is_walked() -> None:
    mask = np.zeros(64, dtype=np.uint8)
    mask[[0, 11, 40]] = 1
    slots, hops, scores = line().one([10], 10, 64, mask=mask)
    assert (slots, hops, scores) == ([11, 0, 40], 64, 64)
    slots, *_ = line().one([10], 1, 64, reranked=1, mask=mask)
    assert slots == [11]
    nothing, hops, _ = line().one([10], 10, 64, mask=np.zeros(64, dtype=np.uint8))
    assert (nothing, hops) == ([], 0)


def test_a_query_from_among_nodes_that_are_gone_goes_on_beyond_them() -> None:
    """All within 20 are gone: a walk for the nearest finds them, and is done again with more room."""
    mask = (abs(np.arange(64) - 32) > 20).astype(np.uint8)
    world = line(entries=(32,))
    slots, hops, _ = world.one([32], 3, 3, mask=mask)
    assert slots == [11, 53, 10]
    assert hops > 42
    [(all_slots, _)], effort = world.search([[32]], 64, Reach(64, 64, 0.0, 64), mask=mask)
    assert sorted(all_slots) == np.flatnonzero(mask).tolist()
    assert effort.hops == 64
    # Each query by itself: one that finds enough at once is not walked for again.
    (far, _), (near, _) = world.search([[0], [32]], 3, Reach(9, 3, 0.0, 9), mask=mask)[0]
    assert (far, near) == ([0, 1, 2], [11, 53, 10])


def test_what_a_walk_met_by_chance_is_no_answer() -> None:
    """An entry is far away, but it is all that is left in a pool of nodes that are gone."""
    mask = (abs(np.arange(64) - 32) > 20).astype(np.uint8)
    for entries in [(32, 0), (0, 32), (32, 63, 0)]:
        slots, *_ = line(entries=entries).one([32], 2, 12, slack=1.0, mask=mask)
        assert slots == [11, 53]


def test_a_walk_that_is_lost_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_MOST_ROOM", 16)
    mask = (abs(np.arange(64) - 32) > 20).astype(np.uint8)
    found, effort = line(entries=(32, 0)).search([[0], [32], [63]], 3, Reach(4, 3, 1.0, 4), mask=mask)
    assert effort.lost.tolist() == [1]
    assert [slots for slots, _ in found[::2]] == [[0, 1, 2], [63, 62, 61]]
    _, effort = line().search([[32]], 3, Reach(4, 3, 1.0, 4))
    assert not effort.lost.size


def test_slack_counts_from_the_best_that_may_be_answers() -> None:
    """Half the nodes are gone, so twice as many are within reach as there are answers."""
    world = line(entries=(0,))
    every, half = np.ones(64, dtype=np.uint8), (np.arange(64) % 2).astype(np.uint8)
    reach = Reach(20, 5, 1.0, 20)
    [(slots, _)], effort = world.search([[31]], 5, reach, mask=every)
    assert (slots, effort.hops) == ([31, 30, 32, 29, 33], 34)
    [(slots, _)], effort = world.search([[31]], 5, reach, mask=half)
    assert (slots, effort.hops) == ([31, 29, 33, 27, 35], 37)


def test_slots_that_are_none_or_behind_the_mask_are_walked_through() -> None:
    world = line()
    world.walker.resident.slots[[5, 10]] = [NONE, 64]
    slots, hops, _ = world.one([10], 3, 64)
    assert (slots, hops) == ([9, 11, 8], 64)


def test_nodes_stand_for_the_records_in_their_slots() -> None:
    shuffled = np.random.default_rng(1).permutation(64)
    slots, hops, scores = line(slots=shuffled).one([63], 3, 10)
    assert (slots, hops, scores) == (shuffled[[63, 62, 61]].tolist(), 64, 64)


def test_exact_distances_decide_among_the_best_codes() -> None:
    """The codes are of a line, and the vectors lie elsewhere on it; equal ones go by slot."""
    codes = Points(1).encode(np.arange(8)[:, None])
    vectors = np.array([[50], [3], [9], [1], [3], [7], [0], [-4]], dtype=np.float32)
    world = World(vectors, [[(n + 1) % 8] for n in range(8)], [0], codes=codes)
    [(slots, distances)], _ = world.search([[4]], 8, Reach(8, 8, 0.0, 8))
    assert slots == [1, 4, 3, 5, 6, 2, 7, 0]
    assert distances == [1, 1, 3, 3, 4, 5, 8, 46]
    # The three best codes are those of 4, 3 and 5: only their vectors are compared.
    [(slots, distances)], effort = world.search([[4]], 8, Reach(8, 8, 0.0, 3))
    assert (slots, distances, effort.reranked) == ([4, 3, 5], [1, 3, 3], 3)
    [(slots, _)], _ = world.search([[4]], 2, Reach(8, 2, 0.0, 3))
    assert slots == [4, 3]


def test_an_edge_to_a_node_that_does_not_exist_ends_the_search() -> None:
    for foreign in (64, 65, 1 << 31, NONE - 1):
        world = line()
        world.table[40, 2] = foreign
        assert world.one([20], 3, 4)[0] == [20, 19, 21]
        with pytest.raises(DamageFound) as found:
            world.one([63], 3, 4)
        assert (found.value.graph, found.value.number, found.value.foreign) == (True, 0, True)


# -- against a model of the walk


def model(world: World, query: np.ndarray, k: int, room: int, slack: float, skip: int = -1) -> tuple[list[int], int, int]:
    """The walk as its kernel describes it, with sets and sorting: (nodes by score, hops, scores)."""
    points = world.codes.astype(np.int64)
    wide = np.zeros(16, dtype=np.int64)
    wide[: len(query)] = query

    def score(node: int) -> tuple[int, int]:
        return int(np.square(points[node] - wide).sum()), node

    pool: list[tuple[int, int]] = []
    scores, hops, expanded, seen = len(world.entries), 0, set(), {skip}
    for node in world.entries:
        # An entry that the pool has no room for may be come to again.
        if node != skip and score(node) not in pool and (len(pool) < room or score(node) < pool[-1]):
            pool = sorted([*pool, score(node)])[:room]
            seen.add(node)

    def bound() -> float:
        full = pool[room - 1][0] if len(pool) == room else math.inf
        return full if slack == 0 or len(pool) < k else min(full, math.floor(slack * pool[k - 1][0]))

    while True:
        waiting = [each for each in pool if each[1] not in expanded]
        if not waiting or waiting[0][0] > bound():
            return [node for _, node in pool], hops, scores
        node = waiting[0][1]
        expanded.add(node)
        hops += 1
        fresh = [other for other in dict.fromkeys(world.neighbors[node]) if other not in seen]
        seen.update(fresh)
        scores += len(fresh)
        for other in fresh:
            if score(other)[0] <= bound():
                pool = sorted([*pool, score(other)])[:room]


@pytest.mark.parametrize("seed", range(6))
def test_a_walk_does_what_its_model_does(seed: int) -> None:
    """Few different scores, so that ties are many: they go by node."""
    random = np.random.default_rng(seed)
    count, degree = int(random.integers(5, 300)), int(random.integers(1, 9))
    points = random.integers(0, 5 + 10 * seed, (count, 4)).astype(np.float32)
    neighbors = [random.integers(0, count, random.integers(0, degree + 1)).tolist() for _ in range(count)]
    world = World(points, neighbors, random.integers(0, count, 3).tolist())
    compared = 0
    while compared < 40:
        query = random.integers(0, 5 + 10 * seed, 4)
        room, slack = int(random.integers(1, 40)), float(random.choice([0.0, 1.0, 1.1, 1.5, 3.0]))
        k, skip = int(random.integers(1, room + 1)), int(random.integers(-1, count))
        nodes, hops, scores = model(world, query, k, room, slack, skip)
        if len(nodes) < k:  # it is done again
            continue
        compared += 1
        [(found, apart)], effort = world.search([query], k, Reach(room, k, slack, room), skips=[skip])
        assert (effort.hops, effort.scores) == (hops, scores)
        distances = np.sqrt(np.square(points[nodes] - query).sum(axis=1))
        order = np.lexsort((nodes, distances))[:k]
        assert (found, apart) == (np.array(nodes, dtype=int)[order].tolist(), distances[order].tolist())


def test_what_a_large_walk_forgets_it_scores_again_and_answers_the_same() -> None:
    """The table of what was seen has 4,096 places, and most of the nodes are come to."""
    random = np.random.default_rng(2)
    points = random.integers(0, 256, (9000, 3)).astype(np.float32)
    world = World(points, random.integers(0, 9000, (9000, 60)).tolist(), [0])
    nodes, hops, scores = model(world, np.array([9, 200, 77]), 100, 128, 0.0)
    slots, mine, scored = world.one([9, 200, 77], 128, 128)
    assert (sorted(slots), mine) == (sorted(nodes), hops)
    assert 4096 < scores < scored


def test_queries_of_a_batch_do_not_see_each_other() -> None:
    random = np.random.default_rng(6)
    points = random.integers(0, 99, (200, 5)).astype(np.float32)
    neighbors = [random.integers(0, 200, 6).tolist() for _ in range(200)]
    world = World(points, neighbors, [3, 7])
    queries, skips, reach = random.integers(0, 99, (50, 5)), random.integers(-1, 200, 50), Reach(12, 4, 1.3, 9)
    alone = [world.search(queries[i : i + 1], 5, reach, skips=skips[i : i + 1]) for i in range(50)]
    for threads in (1, 2, 3):
        found, effort = world.search(queries, 5, reach, threads=threads, skips=skips)
        assert found == [mine for [mine], _ in alone]
        assert effort.hops == sum(each.hops for _, each in alone)
        assert effort.scores == sum(each.scores for _, each in alone)


# -- real codes, and every metric


def ring(count: int) -> list[list[int]]:
    return [[(n + 1) % count, (n - 1) % count] for n in range(count)]


@pytest.mark.parametrize("kind", [*KINDS])
def test_codes_of_every_kind_are_scored_as_their_codec_does(kind: str) -> None:
    random = np.random.default_rng(5)
    vectors = random.normal(size=(90, 40)).astype(np.float32)
    codec = Codec.train(vectors, kind, 1)
    world = World(vectors, ring(90), [0], codec=codec)
    queries = random.normal(size=(4, 40)).astype(np.float32)
    scores = codec.scores(codec.prepare(queries)[0], world.codes)
    for query, mine in zip(queries, scores, strict=True):
        apart = np.sqrt(np.square(vectors.astype(np.float64) - query).sum(axis=1))
        [(slots, distances)], effort = world.search([query], 90, Reach(90, 90, 0.0, 90))
        assert (effort.hops, effort.scores) == (90, 90)
        assert slots == np.argsort(apart).tolist()
        np.testing.assert_allclose(distances, np.sort(apart), rtol=1e-12)
        # Of the best seven by code only.
        best = np.lexsort((np.arange(90), mine))[:7]
        [(slots, _)], _ = world.search([query], 90, Reach(90, 90, 0.0, 7))
        assert slots == best[np.argsort(apart[best])].tolist()


DTYPES = [(metric, dtype) for dtype in METRICS_BY_DTYPE for metric in METRICS_BY_DTYPE[dtype]]


@pytest.mark.parametrize(("metric", "dtype"), DTYPES)
def test_distances_are_those_of_the_metric(brute: Any, metric: str, dtype: str) -> None:
    random = np.random.default_rng(7)
    if dtype == "binary":
        rows, queries = random.random((60, 203)) < 0.4, random.random((5, 203)) < 0.4
        stored, asked, codec = np.packbits(rows, axis=1), np.packbits(queries, axis=1), Bits(f"{metric} bits", 203)
        settings, codes = Settings(203, metric, dtype), codec.encode(rows.astype(np.float32))
    else:
        stored = random.integers(1, 90, (60, 19)).astype(dtype)
        rows, queries, settings = stored, random.normal(size=(5, 19)).astype(np.float32), Settings(19, metric, dtype)
        wide = space.prepare_rows(settings, stored.view(np.uint8), 500.0)
        codec = Codec.train(wide, "scalar4", 0)
        codes, asked = codec.encode(wide), queries
    world = World(stored, ring(60), [0], codec=codec, codes=codes, settings=settings)
    found, effort = world.search(asked, 60, Reach(60, 60, 0.0, 60))
    assert (effort.hops, effort.scores) == (300, 300)
    for (slots, distances), query in zip(found, queries, strict=True):
        truth = brute.distances(metric, rows, query)
        np.testing.assert_allclose(distances, np.sort(truth), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(truth[slots], distances, rtol=1e-6, atol=1e-7)
