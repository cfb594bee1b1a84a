"""Walks on the card over graphs made by hand: they visit, count and answer what the CPU's walks do."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vecstore.carried import sorted_later
from vecstore.config import Settings
from vecstore.index import afar, space
from vecstore.index.afar import Afar
from vecstore.index.bits import Bits
from vecstore.index.calibrate import UNKNOWN, Reach
from vecstore.index.codec import KINDS, Codec
from vecstore.index.knit import NO_LATER, Later
from vecstore.index.walk import Besides, DamageFound, Effort, Here, Job, Resident, Walker
from vecstore.kernels import dispatch
from vecstore.kernels import reference_codes as layout
from vecstore.kernels.cpu import steps
from vecstore.kernels.cuda import beam, score, words
from vecstore.kernels.cuda.card import Card, simulated
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
    """A codec that loses nothing: a few whole numbers, and squared distances between them."""

    number = layout.SCALAR8
    code_bytes = 16

    def __init__(self, width: int) -> None:
        size = layout.coordinates(self.number, 16)
        self.state_bytes = layout.state_bytes(self.number, 16, size)
        shape, scale = np.array([self.number, 16], dtype=np.int64), np.array([0, 1], dtype=np.float32)
        none = np.zeros(0, dtype=np.float32)
        self.parameters = (
            shape,
            scale,
            np.zeros(width, dtype=np.float32),
            np.zeros((0, size), dtype=np.float32),
            none,
        )

    def encode(self, points: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(points), 16), dtype=np.uint8)
        codes[:, : points.shape[1]] = points
        return codes


class There:
    """What a walker has done on the card."""

    def __init__(self, afar: Afar) -> None:
        self.afar = afar
        self.asked = 0

    def run(self, walker: Walker, job: Job, reach: Reach, here: Here, besides: Besides) -> Effort:
        self.asked += 1
        if not self.afar.takes(reach):
            return here(job)
        return self.afar.run(walker, job, reach, besides)


class World:
    """A graph over vectors that is walked here and there."""

    def __init__(
        self,
        card: Card,
        vectors: np.ndarray,
        neighbors: list[list[int]],
        entries: list[int],
        *,
        codec: Any = None,
        codes: np.ndarray | None = None,
        settings: Settings | None = None,
        later: list[tuple[int, int]] | None = None,
        marks: list[int] | None = None,
    ) -> None:
        count, degree = len(vectors), max(1, *map(len, neighbors))
        self.settings = settings or Settings(vectors.shape[1], "l2", "float32")
        codec = codec or Points(vectors.shape[1])
        codes = codec.encode(vectors) if codes is None else codes
        self.table = np.full((count, degree + 1), NONE, dtype=np.uint32)
        self.table[:, 0] = 0 if marks is None else marks
        for row, others in zip(self.table, neighbors, strict=True):
            row[1 : 1 + len(others)] = others
        self.stored = np.ascontiguousarray(vectors)
        pairs = np.array(later or [], dtype=np.uint32).reshape(-1, 2)
        links = NO_LATER
        if later:
            chained = Later.of(len(pairs), count, 0).added(pairs, 0, count)
            assert chained is not None
            links = chained
        resident = Resident(
            codec, codes, np.arange(count, dtype=np.uint32), np.array(entries, dtype=np.uint32), UNKNOWN, 1.0,
            later=links, edges=len(pairs),
        )  # fmt: skip
        self.walker = Walker(
            self.settings, resident, InMemory.of(self.table), degree, InMemory.of(self.stored), count
        )
        filled = np.full((count, beam.across(degree)), NONE, dtype=np.uint32)
        filled[:, :degree] = self.table[:, 1:]
        self.held = beam.Held(
            card, codec.number, count, codec.code_bytes, card.put(codes.reshape(-1).view(np.int32)), card.put(filled),
            *map(card.put, sorted_later(pairs, self.table[:, 0], 0)), card.put(resident.entries),
        )  # fmt: skip
        self.there = There(Afar(self.held))

    def search(
        self,
        queries: Any,
        k: int,
        reach: Reach,
        *,
        here: bool = False,
        mask: Any = None,
        skips: Any = None,
        threads: int = 1,
    ) -> Any:
        queries = np.asarray(queries, dtype=np.uint8 if self.settings.dtype == "binary" else np.float32)
        mask = np.ones(len(self.stored), dtype=np.uint8) if mask is None else mask
        skips = None if skips is None else np.array(skips, dtype=np.int64)
        elsewhere = None if here else self.there
        slots, distances, sizes, effort = self.walker.search(
            queries, k, reach, mask, threads, executor, skips, elsewhere=elsewhere
        )
        found = [
            (mine[:size].tolist(), apart[:size].tolist())
            for mine, apart, size in zip(slots, distances, sizes.tolist(), strict=True)
        ]
        return found, effort

    def one(self, query: Any, k: int, room: int, slack: float = 0.0, **options: Any) -> Any:
        """(slots, hops, scores) of one query on the card; the CPU's are the same."""
        reach = Reach(room, k, slack, room)
        (found, effort), (wanted, counted) = (
            self.search([query], k, reach, here=each, **options) for each in (False, True)
        )
        assert found == wanted
        assert (effort.hops, effort.scores) == (counted.hops, counted.scores)
        assert self.there.asked
        return found[0][0], effort.hops, effort.scores


@pytest.fixture
def world(card: Card) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*args: Any, **options: Any) -> World:
        made.append(World(card, *args, **options))
        return made[-1]

    yield make
    made.clear()
    gc.collect()


@pytest.fixture
def line(world: Callable[..., World]) -> Callable[..., World]:
    def make(count: int = 64, entries: tuple[int, ...] = (0,), points: Any = None, **options: Any) -> World:
        points = np.arange(count, dtype=np.float32) if points is None else points
        neighbors = [[other for other in (n - 1, n + 1) if 0 <= other < count] for n in range(count)]
        return world(points[:, None], neighbors, list(entries), **options)

    return make


# -- a line, walked from one end


@pytest.mark.parametrize("room", [1, 3, 40])
def test_a_line_is_walked_from_end_to_end(line: Any, room: int) -> None:
    assert line().one([63], 1, room) == ([63], 64, 64)


def test_a_walk_goes_no_farther_than_its_pool(line: Any) -> None:
    assert line(entries=(32,)).one([63], 4, 4) == ([63, 62, 61, 60], 32, 33)
    assert line().one([20], 4, 4) == ([20, 19, 21, 18], 22, 23)


def test_slack_ends_a_walk_early(line: Any) -> None:
    """Nodes lie at 2 * n and the query at 21: squares are 1 (10, 11), 9 (9, 12), 25 (8, 13)."""
    on = line(40, points=2 * np.arange(40, dtype=np.float32))
    for slack, last in [(1.0, 11), (8.99, 11), (9.0, 12), (25.0, 13)]:
        assert on.one([21], 1, 100, slack) == ([10], last + 1, last + 2), slack


def test_a_node_that_is_left_out_is_neither_answered_nor_gone_through(line: Any) -> None:
    assert line().one([63], 3, 64, skips=[20]) == ([19, 18, 17], 20, 20)
    assert line(entries=(0, 5)).one([3], 5, 10, skips=[0])[0] == [3, 2, 4, 1, 5]
    assert line().one([3], 5, 10, skips=[0]) == ([], 0, 1)


def test_many_entries_are_scored_once_each(line: Any) -> None:
    assert line(entries=(0, 63, 63, 30)).one([31], 1, 5, slack=1.0) == ([31], 2, 7)
    # More of them than a row has, so they are entered in several steps.
    assert line(entries=tuple(range(64))).search([[31]], 3, Reach(3, 3, 0.0, 3))[0][0][0] == [31, 30, 32]


def test_each_query_of_a_batch_has_its_own_answer(line: Any) -> None:
    on, queries = line(entries=(0, 40)), [[n] for n in (63, 5, 20, 41, 0)]
    found, _ = on.search(queries, 2, Reach(8, 2, 1.5, 8))
    assert [slots for slots, _ in found] == [[63, 62], [5, 4], [20, 19], [41, 40], [0, 1]]


def test_records_that_are_gone_are_walked_through_and_not_answered(line: Any) -> None:
    mask = np.zeros(64, dtype=np.uint8)
    mask[[0, 11, 40]] = 1
    assert line().one([10], 10, 64, mask=mask) == ([11, 0, 40], 64, 64)
    # All within 20 are gone: a walk for the nearest finds them, and is done again with more room.
    mask = (abs(np.arange(64) - 32) > 20).astype(np.uint8)
    assert line(entries=(32,)).one([32], 3, 3, mask=mask)[0] == [11, 53, 10]


def test_a_number_that_is_no_node_ends_the_search(line: Any, card: Card) -> None:
    for foreign in (64, 65, 1 << 31, NONE - 1):
        on = line()
        on.held.rows[40:41].copy_to_device(np.array([[39, foreign, *[NONE] * 6]], dtype=np.uint32))
        found, _ = on.search([[20]], 3, Reach(4, 3, 0.0, 4))
        assert found[0][0] == [20, 19, 21]
        with pytest.raises(DamageFound) as error:
            on.search([[20], [63]], 3, Reach(4, 3, 0.0, 4))
        assert (error.value.graph, error.value.number, error.value.foreign) == (True, 0, True)


# -- a grid, and graphs at random


def grid(side: int) -> tuple[np.ndarray, list[list[int]]]:
    points = np.stack(np.divmod(np.arange(side * side), side), axis=1).astype(np.float32)
    steps = [(-1, 0), (0, -1), (0, 1), (1, 0)]
    rows = []
    for x, y in points.astype(int).tolist():
        near = [(x + a, y + b) for a, b in steps if 0 <= x + a < side and 0 <= y + b < side]
        rows.append([side * a + b for a, b in near])
    return points, rows


def test_a_grid_is_crossed_in_as_many_hops_as_on_the_cpu(world: Any) -> None:
    on = world(*grid(9), [0])
    slots, hops, scores = on.one([8, 8], 1, 4)
    assert (slots, hops, scores) == ([80], 18, 33)
    for query in ([4, 4], [0, 8], [7.5, 1]):
        on.one(query, 5, 12)
        on.one(query, 5, 30, slack=1.3)


def random_graph(count: int, degree: int, seed: int) -> list[list[int]]:
    """With what is there twice in one row, too."""
    random = np.random.default_rng(seed)
    return [random.integers(0, count, random.integers(1, degree + 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_ties_and_doubled_edges_are_taken_as_on_the_cpu(world: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 6, (120, 3)).astype(np.float32)
    on = world(points, random_graph(120, 7, seed), random.integers(0, 120, 3).tolist())
    for room, slack in ((1, 0.0), (7, 0.0), (30, 1.0), (30, 1.5)):
        query = random.integers(0, 6, 3)
        on.one(query, 1, room, slack, skips=[random.integers(0, 120)])
        on.one(query, 1, room, slack)


def test_edges_that_came_later_are_walked_along(world: Any) -> None:
    """The line is cut in the middle, and mended by edges that came later; those that a row has already do not count."""
    points = np.arange(40, dtype=np.float32)[:, None]
    neighbors = [[o for o in (n - 1, n + 1) if 0 <= o < 40 and {n, o} != {19, 20}] for n in range(40)]
    later = [(19, 3), (7, 9), (19, 20), (20, 19), (19, 5)]
    assert world(points, neighbors, [0], later=later).one([39], 1, 5)[0] == [39]
    mended = world(points, neighbors, [0], later=later, marks=[3 if n == 19 else 0 for n in range(40)])
    assert mended.one([39], 1, 40)[0] == [19]
    assert world(points, neighbors, [0], later=later, marks=[2] * 40).one([39], 2, 5)[0] == [39, 38]


def test_a_crowd_of_later_edges_is_looked_at_up_to_a_limit(world: Any) -> None:
    points = np.arange(100, dtype=np.float32)[:, None]
    later = [(0, n) for n in range(1, 100)]
    on = world(points, [[] for _ in range(100)], [0], later=later)
    _, effort = on.search([[0]], 1, Reach(128, 1, 0.0, 1))
    assert (effort.hops, effort.scores) == (1 + beam.LATER, 1 + beam.LATER)


@pytest.mark.parametrize("threads", [1, 3, 8, 33])
def test_any_number_of_threads_does_the_same(
    world: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    init = beam.Berth.__init__
    monkeypatch.setattr(
        beam.Berth, "__init__", lambda self, held, most, room: init(self, held, most, room, threads)
    )
    random = np.random.default_rng(threads)
    points = random.integers(0, 9, (60, 3)).astype(np.float32)
    world(points, random_graph(60, 6, threads), [5, 6, 7]).one(random.integers(0, 9, 3), 4, 16)


def test_what_was_forgotten_is_scored_again_and_answered_once(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of one place forgets everything at once, so that rows have nodes twice among what is near enough."""
    random = np.random.default_rng(5)
    points = random.integers(0, 40, (80, 3)).astype(np.float32)
    neighbors = [row + row[::-1] for row in random_graph(80, 4, 5)]
    on, query = world(points, neighbors, [1, 2]), random.integers(0, 40, 3)
    wanted, counted = on.search([query], 5, Reach(20, 5, 0.0, 20), here=True)
    monkeypatch.setattr(beam, "seen_size", lambda room: 1)
    found, effort = on.search([query], 5, Reach(20, 5, 0.0, 20))
    assert (found, effort.hops) == (wanted, counted.hops)
    assert effort.scores > counted.scores


def test_long_pools_keep_what_was_seen_in_the_cards_memory(world: Any) -> None:
    random = np.random.default_rng(6)
    points = random.integers(0, 200, (150, 4)).astype(np.float32)
    on = world(points, random_graph(150, 5, 6), [1, 2])
    assert not beam._plan(on.held, 600, 4).seen_here
    assert beam._plan(on.held, 100, 4).seen_here
    on.one(random.integers(0, 200, 4), 50, 600, slack=1.05)
    assert not on.there.afar.takes(Reach(beam.MOST_ROOM + 1, 10, 0.0, 10))


def test_portions_of_a_batch_take_turns(line: Any, monkeypatch: pytest.MonkeyPatch, card: Card) -> None:
    """Two at a time, by turns in two berths, prepared and compared by several threads; as few as the card has room for."""
    monkeypatch.setattr(afar, "_LEAST_AT_ONCE", 1)
    monkeypatch.setattr(afar, "_QUERIES_A_THREAD", 1)
    on, queries = line(16, entries=(0, 9)), [[n] for n in (15, 5, 2, 11, 0, 8, 7)]
    reach = Reach(4, 2, 1.5, 4)
    wanted, counted = on.search(queries, 2, reach, here=True)
    monkeypatch.setattr(afar, "_AT_ONCE", 2)
    found, effort = on.search(queries, 2, reach, threads=2)
    assert (found, effort) == (wanted, counted)
    assert [berth.most for berth in on.there.afar._berths[1]] == [2, 2]
    on.there.afar.release()
    monkeypatch.setattr(afar, "_AT_ONCE", 4096)
    card.budget = card.held + 2 * beam.Berth.nbytes(on.held, 32, 4) + 100
    found, effort = on.search(queries, 2, reach)
    assert (found, effort) == (wanted, counted)
    assert [berth.most for berth in on.there.afar._berths[1]] == [32, 32]
    on.there.afar.release()
    card.budget = card.held + 100
    assert not on.there.afar.takes(reach)


# -- every kind of code and every metric


def near_graph(vectors: np.ndarray, degree: int) -> list[list[int]]:
    """The nearest few of each, and some others."""
    random = np.random.default_rng(1)
    apart = np.square(vectors[:, None].astype(np.float64) - vectors[None]).sum(axis=2)
    near = np.argsort(apart, axis=1)[:, 1 : degree + 1]
    return np.concatenate((near, random.integers(0, len(vectors), (len(vectors), 3))), axis=1).tolist()


def coded(card: Card, kind: str, metric: str, dim: int, count: int = 160) -> tuple[World, np.ndarray]:
    random = np.random.default_rng(dim)
    centres = random.normal(size=(6, dim))
    every = (centres[random.integers(0, 6, count + 2)] + 0.5 * random.normal(size=(count + 2, dim))).astype(
        np.float32
    )
    vectors, queries = every[:-2], every[-2:]
    settings = Settings(dim, metric, "float32")
    limit = float(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1).max())) if metric == "ip" else 1.0
    prepared = space.prepare_rows(settings, vectors.view(np.uint8).reshape(count, -1), limit)
    codec = Codec.train(prepared, kind, seed=1)
    on = World(
        card,
        vectors,
        near_graph(vectors, 6),
        [0, 50, 100],
        codec=codec,
        codes=codec.encode(prepared),
        settings=settings,
    )
    on.walker.frame["norm_limit"] = limit
    return on, queries


def same_walks(on: World, queries: np.ndarray, k: int = 5) -> None:
    """As many hops and scores, whatever ends the walk; the same answers where only a full pool does."""
    (found, effort), (wanted, counted) = (
        on.search(queries, k, Reach(30, k, 0.0, 20), here=each) for each in (False, True)
    )
    assert (found, effort.hops, effort.scores) == (wanted, counted.hops, counted.scores)
    (found, effort), (wanted, counted) = (
        on.search(queries, k, Reach(40, k, 1.2, 12), here=each) for each in (False, True)
    )
    assert (effort.hops, effort.scores) == (counted.hops, counted.scores)
    both = [len(set(a) & set(b)) for (a, _), (b, _) in zip(found, wanted, strict=True)]
    assert sum(both) >= len(queries) * k - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [24, 300])
def test_each_codec_is_walked_by_as_on_the_cpu(card: Card, kind: str, dim: int) -> None:
    same_walks(*coded(card, kind, "l2", dim))
    gc.collect()


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_each_metric_is_walked_by_as_on_the_cpu(card: Card, metric: str) -> None:
    same_walks(*coded(card, "scalar4", metric, 40))
    gc.collect()


@pytest.mark.parametrize("metric", ["hamming", "jaccard"])
def test_packed_bits_are_walked_by_as_on_the_cpu(card: Card, metric: str) -> None:
    random = np.random.default_rng(3)
    whole = random.random((6, 200)) < 0.4
    every = whole[random.integers(0, 6, 124)] ^ (random.random((124, 200)) < 0.15)
    vectors, queries = every[:-4], np.packbits(every[-4:], axis=1)
    codec = Bits(f"{metric} bits", 200)
    settings = Settings(200, metric, "binary")
    codes = codec.encode(vectors.astype(np.float32))
    stored = np.packbits(vectors, axis=1)
    on = World(card, stored, near_graph(vectors, 6), [0, 50], codec=codec, codes=codes, settings=settings)
    same_walks(on, queries)
    gc.collect()


def test_a_table_of_products_may_be_too_long_to_be_shared(card: Card) -> None:
    on, _ = coded(card, "product8", "l2", 300)
    assert not beam._plan(on.held, 30, 4).table_here
    on, _ = coded(card, "product8", "l2", 24)
    assert beam._plan(on.held, 30, 4).table_here
    gc.collect()


def test_walks_there_and_here_have_the_same_limits() -> None:
    assert [beam.seen_size(room) for room in (1, 128, 129, 5000)] == [
        steps.seen_size.py_func(room) for room in (1, 128, 129, 5000)
    ]
    assert (beam.LATER, beam.NONE, score.HAMMING) == (steps.LATER, steps.NONE, steps.BITS)


# -- words and scores


@pytest.mark.skipif(not simulated(), reason="on a card these are instructions, and no functions to call")
def test_products_of_bytes_are_what_their_instructions_make() -> None:
    random = np.random.default_rng(0)
    for a, b, total in random.integers(-(1 << 31), 1 << 31, (200, 3)).tolist():
        x, y = (np.array([each], dtype=np.int64).astype(np.int32) for each in (a, b))
        signed, unsigned, halves = (
            t.astype(np.int64) for t in (x.view(np.int8), x.view(np.uint8), x.view(np.int16))
        )
        other = y.view(np.uint8).astype(np.int64)
        assert words.dot_signed(a, b, total) == total + signed @ y.view(np.int8)
        assert words.dot_unsigned(a, b, total) == total + unsigned @ other
        assert words.dot_low(a, b, total) == total + halves @ other[:2]
        assert words.dot_high(a, b, total) == total + halves @ other[2:]
        assert words.ones(a) == int(np.unpackbits(x.view(np.uint8)).sum())


@pytest.mark.skipif(not simulated(), reason="on a card these are parts of kernels, and no functions to call")
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_cpu_to_the_last_bit(kind: str) -> None:
    """Queries far outside of what was trained for, so that their numbers are at both ends."""
    random = np.random.default_rng(1)
    codec = Codec.train(random.normal(size=(300, 70)).astype(np.float32), kind, seed=2)
    codes = random.integers(0, 256, (3, codec.code_bytes), dtype=np.uint8)
    queries = np.concatenate([scale * random.normal(size=(2, 70)) for scale in (1, 5, 100)]).astype(
        np.float32
    )
    states, _ = codec.prepare(queries)
    number, used = codec.number, score.state_bytes(codec.number, codec.code_bytes)
    line = score.line_words(codec.code_bytes)
    for state, wanted in zip(states, codec.scores(states, codes), strict=True):
        plain = state[:used].copy()
        begun = np.array([score.begin(number, word) for word in plain.view(np.int32)], dtype=np.int32)
        for code, score_here in zip(codes.view(np.int32), wanted.tolist(), strict=True):
            found = 0
            for at in range(0, len(code), 4):
                four = words.load_four(code, at)
                found += int(score.squares(number, begun, 2 * at))
                found += int(score.piece(number, four, begun, 0, plain.view(np.uint16), at, line))
            assert found == score_here
    assert dispatch.cuda().beam is beam
