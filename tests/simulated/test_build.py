"""Graphs that a card builds: as good as the CPU's, the same every time, in pieces or not, and whole where a card fails."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.device import Device
from vecstore.index import build, division, on_card, shards
from vecstore.index.division import Limits, Source
from vecstore.index.on_card import OnCard, OnDevice, steps_for
from vecstore.index.steps import OnCpu, Steps
from vecstore.kernels.cuda import gram
from vecstore.kernels.cuda.card import Card, CardError

NONE = np.uint32(0xFFFFFFFF)
# As many sizes as can be, small: the simulator has a Python thread for each thread.
SMALL = {
    "degree": 8,
    "fanout": 3,
    "leaf": 24,
    "largest_leaf": 40,
    "looked_at": 10,
    "kept": 5,
    "candidates": 12,
    "entries": 8,
}
PLAN = build.Plan(**SMALL, seed=3)
Built = tuple[np.ndarray, np.ndarray, np.ndarray]


def clustered(count: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(12, dim))
    found = centres[random.integers(0, 12, count)] + 0.4 * random.normal(size=(count, dim))
    return found.astype(np.float32)


@pytest.fixture(autouse=True)
def blocks_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' own tests have blocks of four; here there are thousands of blocks."""
    monkeypatch.setattr(gram, "_SIMULATED", gram.Tile(across=1, each=12, depth=8))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def built(pool: ThreadPoolExecutor) -> Callable[..., Built]:
    def make(vectors: np.ndarray, steps: Steps | None = None, plan: build.Plan = PLAN) -> Built:
        told: list[float] = []
        found = build.build(vectors, plan, 1, pool, told.append, steps)
        assert told == sorted(told)
        assert told[-1] == 1.0
        return found

    return make


def same(one: Built, other: Built) -> bool:
    return all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True))


def check(vectors: np.ndarray, graph: Built) -> None:
    order, edges, entries = graph
    assert sorted(order.tolist()) == list(range(len(vectors)))
    seen = set(entries.tolist())
    ahead = list(seen)
    while ahead:
        row = edges[ahead.pop()]
        used = row[row != NONE].tolist()
        assert (row[len(used) :] == NONE).all()
        assert len(used) == len(set(used))
        fresh = set(used) - seen
        seen |= fresh
        ahead += fresh
    assert seen == set(range(len(vectors)))


def recall(vectors: np.ndarray, graph: Built, queries: np.ndarray, most: int) -> float:
    """Of the five nearest, how many a best-first walk meets that may compute so many distances."""
    order, edges, entries = graph
    placed, hits = vectors[order].astype(np.float64), 0
    for query in queries:
        apart = np.square(placed - query).sum(axis=1)
        truth = np.argsort(apart, kind="stable")[:5]
        seen = set(entries.tolist())
        ahead = sorted((apart[node], node) for node in seen)
        while ahead and len(seen) < most:
            _, node = ahead.pop(0)
            fresh = [each for each in edges[node].tolist() if each != NONE and each not in seen]
            seen.update(fresh)
            ahead = sorted(ahead + [(apart[each], each) for each in fresh])
        hits += len(seen & set(truth.tolist()))
    return hits / (5 * len(queries))


# -- what is built


def test_a_graph_is_as_good_as_the_cpu_s_and_the_same_every_time(
    card: Card, pool: ThreadPoolExecutor, built: Callable[..., Built]
) -> None:
    vectors, queries = clustered(90), clustered(150, seed=1)
    found = built(vectors, OnCard(card, OnCpu(1, pool)))
    check(vectors, found)
    other = built(vectors)
    for most in (30, 50):
        assert abs(recall(vectors, found, queries, most) - recall(vectors, other, queries, most)) <= 0.005
    assert same(built(vectors, OnCard(card, OnCpu(1, pool))), found)


def test_pieces_change_nothing(
    card: Card, pool: ThreadPoolExecutor, built: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so little memory the vectors do not stay on the card, and each step takes several pieces."""
    vectors = clustered(110)
    whole = built(vectors, OnCard(card, OnCpu(1, pool)))
    pieces: dict[str, int] = {}
    for name in ("_nearest", "_collect", "_look_into", "_prune"):
        plain = getattr(OnCard, name)

        def counted(self: OnCard, *rest: Any, plain: Any = plain, name: str = name) -> Any:
            assert self._resident is None
            pieces[name] = pieces.get(name, 0) + 1
            return plain(self, *rest)

        monkeypatch.setattr(OnCard, name, counted)
    monkeypatch.setattr(on_card, "_RESIDENT_SHARE", 1000)
    monkeypatch.setattr(on_card, "_NODES_AT_ONCE", 7)
    card.budget = card.held + 14_000
    assert same(built(vectors, OnCard(card, OnCpu(1, pool))), whole)
    assert min(pieces.values()) > 1
    assert len(pieces) == 4


def test_what_cannot_be_cut_and_does_not_fit_the_cpu_does(
    card: Card, pool: ThreadPoolExecutor, built: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(120)
    done: list[str] = []

    class Noted(OnCpu):
        def turn_round(self, *rest: Any) -> None:
            done.append("turn_round")
            super().turn_round(*rest)

        def chain(self, *rest: Any) -> Any:
            done.append("chain")
            return super().chain(*rest)

    card.budget = card.held + 20_000
    leaders = clustered(80, seed=4)
    steps = OnCard(card, Noted(1, pool))
    assert steps.chain(leaders).tolist() == OnCpu(1, pool).chain(leaders).tolist()
    check(vectors, built(vectors, steps))
    assert done == ["chain", "turn_round"]


@pytest.mark.parametrize("count", [1, 2, 30])
def test_few_vectors_and_equal_ones(
    card: Card, pool: ThreadPoolExecutor, built: Callable[..., Built], count: int
) -> None:
    for vectors in (clustered(count), np.zeros((count, 3), dtype=np.float32)):
        check(vectors, built(vectors, OnCard(card, OnCpu(1, pool))))


def test_shards_are_built_on_the_card_too(
    card: Card, pool: ThreadPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(80)
    rows = vectors.view(np.uint8)
    source = Source(
        np.arange(80, dtype=np.uint32),
        6,
        24,
        lambda low, high: rows[low:high].copy(),
        lambda stored: stored.view(np.float32),
    )
    limits = Limits(60, PLAN, 1, 1 << 16)
    leaders = division.choose_leaders(vectors, 80, limits, pool)
    looked_into: list[int] = []
    plain = OnCard._look_into

    def counted(self: OnCard, *rest: Any) -> None:
        looked_into.append(1)
        plain(self, *rest)

    monkeypatch.setattr(OnCard, "_look_into", counted)
    steps = OnCard(card, OnCpu(1, pool))
    with shards.link(source, leaders, limits, pool, str(tmp_path), lambda share: None, steps) as linked:
        graph = linked.labels().astype(np.int64), np.concatenate(list(linked.edges())), linked.entries
        check(vectors, graph)
    assert len(looked_into) == len(leaders)


# -- which device does it


def test_small_builds_are_the_cpu_s_unless_a_card_is_asked_for(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kind(device: Device | None, count: int) -> type:
        return type(steps_for(device, count, 64, 1, pool))

    assert kind(None, 10**9) is OnCpu
    assert kind(Device("cpu"), 10**9) is OnCpu
    assert kind(Device("auto"), 1000) is OnCpu
    assert kind(Device("auto"), 10**7) is OnDevice
    assert kind(Device("cuda"), 1000) is OnDevice


def failing(card: Card, monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """A card that is lost once so many arrays were put on it or fetched; gives how many that were."""
    calls: list[int] = []

    def after_so_many(plain: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise CardError("the card was lost")
        return plain(*rest)

    for name in ("put", "get"):
        monkeypatch.setattr(card, name, functools.partial(after_so_many, getattr(card, name)))
    return calls


def test_a_card_that_is_lost_in_mid_build_leaves_a_whole_graph(
    card: Card, pool: ThreadPoolExecutor, built: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    monkeypatch.setattr(on_card, "_NODES_AT_ONCE", 25)
    vectors, queries = clustered(50), clustered(50, seed=1)
    expected = recall(vectors, built(vectors), queries, 60)
    with monkeypatch.context() as patch:
        calls = failing(card, patch, 10**9)
        built(vectors, OnDevice(Device("cuda"), OnCpu(1, pool)))
        total = len(calls)
    for after in np.linspace(0, total - 1, 6).astype(int).tolist():
        with monkeypatch.context() as patch:
            failing(card, patch, after)
            with pytest.warns(RuntimeWarning, match="the card was lost") as warned:
                found = built(vectors, OnDevice(Device("auto"), OnCpu(1, pool)))
        assert len(warned) == 1
        check(vectors, found)
        assert recall(vectors, found, queries, 60) >= expected - 0.01
        with monkeypatch.context() as patch:
            failing(card, patch, after)
            with pytest.raises(vecstore.DeviceError, match="the card was lost"):
                built(vectors, OnDevice(Device("cuda"), OnCpu(1, pool)))


# -- collections


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of few records, by a plan for few."""
    monkeypatch.setattr(config, "GRAPH_FROM", 100)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    monkeypatch.setattr(build, "Plan", functools.partial(build.Plan, **SMALL))


@pytest.mark.usefixtures("card", "small")
@pytest.mark.parametrize("codec", [None, "product4"])
def test_a_collection_is_built_on_the_card(tmp_path: Path, codec: str | None) -> None:
    vectors = clustered(110)
    found = []
    for device in ("cuda", "cpu"):
        path = tmp_path / f"{device}.vec"
        with vecstore.open(path, dim=6, metric="l2", device=device, codec=codec) as c:
            c.add(range(110), vectors)
            assert c.stats()["nodes"] == 110
        with vecstore.open(path, device="cpu") as c:
            assert c.verify().ok
            assert c.explain(vectors[0])["plan"] == "graph"
            found.append([c.search(vector, k=3).ids for vector in vectors[:20]])
    assert [row[0] for row in found[0]] == [row[0] for row in found[1]]


@pytest.mark.usefixtures("small")
def test_a_collection_is_whole_after_a_card_was_lost(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after a write is left to the next one; who asks for it is told."""
    vectors = clustered(110)
    path = tmp_path / "c.vec"
    with monkeypatch.context() as patch:
        failing(card, patch, 30)
        with vecstore.open(path, dim=6, metric="l2", device="cuda") as c:
            c.add(range(110), vectors)
            assert "nodes" not in c.stats() or not c.stats()["nodes"]
            with pytest.raises(vecstore.DeviceError, match="the card was lost"):
                c.optimize()
    with vecstore.open(path, device="cpu") as c:
        assert c.verify().ok
        assert len(c) == 110
        assert c.search(vectors[7], k=1).ids == [7]
    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    monkeypatch.setattr(on_card, "_FROM_NUMBERS", 0)
    with monkeypatch.context() as patch:
        failing(card, patch, 30)
        with vecstore.open(path) as c:
            with pytest.warns(RuntimeWarning, match="the card was lost"):
                c.optimize()
            assert c.explain(vectors[7])["plan"] == "graph"
            assert c.search(vectors[7], k=1).ids == [7]
            assert c.verify().ok
