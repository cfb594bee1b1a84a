"""Batches of searches that are walked on the card answer as those that are walked on the CPU, whatever commits change."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import carried, config
from vecstore.errors import CorruptionError, DeviceError
from vecstore.index.afar import Afar
from vecstore.kernels.cuda import beam
from vecstore.kernels.cuda.card import Card, CardError
from vecstore.storage import graph as stored

DATA = Path(os.environ.get("VECSTORE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
ROWS, DIM = 500, 16
# A batch, as small as the simulator is slow.
ASKED = 5


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GRAPH_FROM": 100, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 16, "LINKED_AT_ONCE": 150, "SWEPT_FROM": 200,
        "SWEPT_AT_ONCE": 1000,
    }.items():  # fmt: skip
        monkeypatch.setattr(config, name, value)
    monkeypatch.setattr(carried, "FEWEST", ASKED)
    monkeypatch.setattr(carried, "_trusted", lambda: True)
    monkeypatch.setattr(carried, "_LEAST", {})


def vectors(metric: str, count: int, seed: int) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if metric in config.METRICS_BY_DTYPE["binary"]:
        whole = np.random.default_rng(7).random((8, 8 * DIM)) < 0.4
        return np.packbits(
            whole[random.integers(0, 8, count)] ^ (random.random((count, 8 * DIM)) < 0.1), axis=1
        )
    centres = np.random.default_rng(7).normal(size=(8, DIM))
    return (centres[random.integers(0, 8, count)] + 0.4 * random.normal(size=(count, DIM))).astype(np.float32)


class Counted:
    """What went to the card: searches, and rows of the graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = self.rows = 0
        run, copy_rows = Afar.run, carried._copy_rows

        def counted_run(*args: Any) -> Any:
            self.runs += 1
            return run(*args)

        def counted_rows(*args: Any) -> None:
            self.rows += args[-1]
            copy_rows(*args)

        monkeypatch.setattr(Afar, "run", counted_run)
        monkeypatch.setattr(carried, "_copy_rows", counted_rows)

    def take(self) -> tuple[int, int]:
        taken = self.runs, self.rows
        self.runs = self.rows = 0
        return taken


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.fixture
def both(tmp_path: Path, card: Card) -> Iterator[Callable[..., Any]]:
    """One file, opened for the card and for the CPU."""
    made: list[vecstore.Collection] = []

    def make(metric: str = "l2", rows: int = ROWS, device: str = "cuda", **options: Any) -> Any:
        path = tmp_path / f"{metric}.vec"
        binary = metric in config.METRICS_BY_DTYPE["binary"]
        made.append(
            vecstore.open(path, dim=8 * DIM if binary else DIM, metric=metric, device="cpu", **options)
        )
        if not len(made[-1]):
            made[-1].add(range(rows), vectors(metric, rows, 1), [{"n": n % 3} for n in range(rows)])
        made.append(vecstore.open(path, device=device))
        return made[-1], made[-2]

    yield make
    for each in made:
        each.close()
    made.clear()
    gc.collect()


def same(there: vecstore.Collection, here: vecstore.Collection, seed: int = 2, **options: Any) -> Any:
    """A pool that is walked wholly has one answer; the answers of the one on the card."""
    queries = vectors(here.metric, ASKED, seed)
    asked = {"k": 5, "search_list": 24} | options
    found, wanted = (each.search(queries, **asked) for each in (there, here))
    assert found.ids.tolist() == wanted.ids.tolist()
    np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-12, atol=1e-14)
    return found


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip", "hamming", "jaccard"])
def test_batches_are_walked_on_the_card(both: Any, counted: Counted, card: Card, metric: str) -> None:
    there, here = both(metric)
    same(there, here)
    assert counted.take() == (1, ROWS)
    same(there, here, seed=3, k=2)
    assert counted.take() == (1, 0)
    # By a target of recall a walk there compares what one here does, and at most a few more.
    queries = vectors(metric, ASKED, 4)
    found, wanted = (each.search(queries, k=5, recall=0.9) for each in (there, here))
    assert np.mean(found.distances <= wanted.distances + 1e-9) >= 0.95
    assert counted.take() == (1, 0)
    assert there.stats()["device"] == card.name
    there.close()
    gc.collect()
    assert card.held == 0


def test_small_batches_filters_and_long_lists_stay_on_the_cpu(both: Any, counted: Counted) -> None:
    there, here = both()
    queries = vectors("l2", ASKED, 2)
    for asked in ({"where": {"n": 1}}, {"search_list": beam.MOST_ROOM + 1}, {"exact": True}):
        found, wanted = (each.search(queries, **({"k": 4} | asked)) for each in (there, here))
        assert [hits.ids for hits in found] == [hits.ids for hits in wanted]
        assert counted.take() == (0, 0), asked
    there.search(queries[: ASKED - 1], k=4)
    there.search(queries[0], k=4)
    assert counted.take() == (0, 0)


def test_what_commits_change_follows(both: Any, counted: Counted) -> None:
    there, here = both(rows=ROWS)
    same(there, here)
    counted.take()
    # Pending records, and those that are gone.
    here.add(["new"], vectors("l2", ASKED, 2)[:1])
    here.delete(list(range(0, 60, 3)))
    assert same(there, here).ids[0, 0] == "new"
    assert counted.take()[0] == 1
    # Linked by edges that came later, and then by rows.
    here.add([f"more-{n}" for n in range(40)], vectors("l2", 40, 5))
    assert here.stats()["nodes"] > ROWS
    same(there, here, seed=5)
    held = there._device.kept["graph"].held
    assert len(held.starts)
    assert held.nodes == here.stats()["nodes"]
    here.upsert(range(60, 90), vectors("l2", 30, 6))
    same(there, here, seed=6)
    here.optimize()
    same(there, here, seed=7)
    here.compact()
    same(there, here, seed=8)
    assert counted.take()[0] >= 4


def test_a_commit_that_only_adds_edges_copies_few_rows(both: Any, counted: Counted) -> None:
    there, here = both(rows=3000)
    same(there, here)
    assert counted.take()[1] == 3000
    here.add([f"more-{n}" for n in range(16)], vectors("l2", 16, 5))
    same(there, here)  # the graph has outgrown its place
    same(there, here)
    assert counted.take()[1] == here.stats()["nodes"]
    here.add([f"again-{n}" for n in range(16)], vectors("l2", 16, 6))
    same(there, here)
    assert 0 < counted.take()[1] < 1000


def test_an_older_snapshot_is_asked_of_the_cpu(both: Any, counted: Counted) -> None:
    there, here = both()
    wanted = [batch.neighbours.tolist() for batch in here.neighbours(k=5, batch_size=ASKED)]
    batches = there.neighbours(k=5, batch_size=ASKED)
    next(batches)
    here.delete(list(range(0, ROWS, 7)))
    same(there, here)
    assert counted.take()[0] == 2
    assert [batch.neighbours.tolist() for batch in batches] == wanted[1:]
    assert counted.take() == (0, 0)


def test_threads_walk_there_one_after_the_other(both: Any, counted: Counted) -> None:
    there, here = both()
    seeds = range(10, 14)
    wanted = [here.search(vectors("l2", ASKED, seed), k=5, search_list=24).ids.tolist() for seed in seeds]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda seed: there.search(vectors("l2", ASKED, seed), k=5, search_list=24), seeds)
        assert [each.ids.tolist() for each in found] == wanted
    assert counted.take() == (4, ROWS)


def test_near_duplicates_and_neighbours_are_found_there_too(both: Any, counted: Counted) -> None:
    there, here = both(rows=120)
    twins = vectors("l2", 120, 1)[:ASKED] + 1e-3
    here.add([f"twin-{n}" for n in range(ASKED)], twins)
    found, wanted = (sorted((p.first, p.second) if isinstance(p.first, int) else (p.second, p.first) for p in each.near_duplicates(0.05))
                     for each in (there, here))  # fmt: skip
    assert found == wanted == [(n, f"twin-{n}") for n in range(ASKED)]
    assert counted.take()[0] > 0


def test_a_graph_that_has_no_room_is_walked_on_the_cpu(both: Any, counted: Counted, card: Card) -> None:
    there, here = both()
    card.budget = card.held + 10_000
    same(there, here)
    same(there, here)
    assert counted.take() == (0, 0)
    card.budget = 200 << 20
    here.add(["new"], vectors("l2", ASKED, 2)[:1])
    same(there, here)
    assert counted.take()[0] == 1


def test_a_card_that_is_lost_is_told_or_done_without(
    both: Any, monkeypatch: pytest.MonkeyPatch, card: Card
) -> None:
    def lost(*_: Any) -> None:
        raise CardError("the card fell off the bus")

    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    monkeypatch.setattr(carried, "_STARTING", -1e9)
    there, here = both(device="auto")
    same(there, here)
    strict, _ = both()
    same(strict, here)
    monkeypatch.setattr(beam.Berth, "send", lost)
    with pytest.warns(RuntimeWarning, match="fell off the bus"):
        same(there, here)
    same(there, here)
    with pytest.raises(DeviceError, match="fell off the bus"):
        strict.search(vectors("l2", ASKED, 2), k=5)


def test_damage_that_a_walk_does_not_meet_is_none_of_its_business(
    both: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = both()

    def damaged(*_: Any) -> Any:
        raise CorruptionError("a row is damaged")

    monkeypatch.setattr(stored, "graph_rows", damaged)
    same(there, here)
    assert counted.runs == 0


def test_a_row_that_lies_is_told_of(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there, _ = both()
    honest = stored.graph_rows

    def lying(*args: Any) -> Any:
        marks, rows = honest(*args)
        rows[:, 0] = ROWS + 5
        return marks, rows

    monkeypatch.setattr(stored, "graph_rows", lying)
    with pytest.raises(CorruptionError, match="node"):
        there.search(vectors("l2", ASKED, 2), k=5)


def test_what_stands_behind_the_end_of_a_row_is_no_neighbour(
    both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = both()
    honest = stored.graph_rows

    def longer(*args: Any) -> Any:
        marks, rows = honest(*args)
        ended = rows[:, -2] == stored.NONE
        assert ended.any()
        rows[ended, -1] = ROWS + 5
        return marks, rows

    monkeypatch.setattr(stored, "graph_rows", longer)
    same(there, here)


# -- when it pays


def test_under_auto_the_card_waits_until_the_cpu_was_busy_long_enough(
    both: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    there, here = both(device="auto")
    same(there, here)
    assert counted.take() == (0, 0)
    assert there.stats()["device"] == "cpu"
    monkeypatch.setattr(carried, "_PORTION", 2)
    ticks = iter(range(1000))
    monkeypatch.setattr(carried.time, "perf_counter", lambda: float(next(ticks)))
    # Each portion takes a second by this clock, so the rest of the batch goes to the card after three of them.
    queries = vectors("l2", 12, 9)
    found, wanted = (each.search(queries, k=5, search_list=24) for each in (there, here))
    assert found.ids.tolist() == wanted.ids.tolist()
    assert counted.take() == (1, ROWS)


def test_a_batch_is_as_large_as_it_must_be(
    both: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second a look, all takes as long: a card that is no quicker is never asked again."""
    there, here = both()
    monkeypatch.setattr(carried, "_TIMED_THERE", (2, 3))
    monkeypatch.setattr(carried, "_TIMED_HERE", 4)
    monkeypatch.setattr(carried, "_trusted", lambda: False)
    times = iter([0, 9, 10, 14, 20, 25, 30, 38])
    monkeypatch.setattr(carried.time, "perf_counter", lambda: float(next(times)))
    # There 4 seconds for two and 5 for three, so 2 and 1 a query; here 8 for four. So from two queries on.
    same(there, here)
    assert counted.take()[0] == 4
    assert list(carried._LEAST.values()) == [carried.break_even(2.0, 1.0, 2.0)] == [2]
    carried._LEAST[next(iter(carried._LEAST))] = ASKED + 1
    same(there, here)
    assert counted.take() == (0, 0)


def test_a_card_that_is_never_quicker_is_left(
    both: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch, card: Card
) -> None:
    there, here = both()
    monkeypatch.setattr(carried, "_measured", lambda *_: float("inf"))
    for _ in range(3):
        same(there, here)
    assert counted.take() == (0, ROWS)
    assert "graph" not in there._device.kept
    assert card.held == 0


# -- real vectors


def test_real_descriptors_are_found_as_well_at_the_same_cost(tmp_path: Path, counted: Counted) -> None:
    path = DATA / "sift-400k.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing: set VECSTORE_DATA to the folder that holds sift-400k.npz")
    with np.load(path) as file:
        base, queries = file["base"][:1500].astype(np.float32), file["query"][:ASKED].astype(np.float32)
    with (
        vecstore.open(tmp_path / "sift.vec", dim=128, metric="l2", dtype="uint8", device="cpu") as here,
        here.bulk(),
    ):
        here.add(range(len(base)), base)
    with (
        vecstore.open(tmp_path / "sift.vec", device="cpu") as here,
        vecstore.open(tmp_path / "sift.vec", device="cuda") as there,
    ):
        farthest = here.search(queries, k=10, exact=True).distances[:, -1:]
        found, wanted = (each.search(queries, k=10, recall=0.95) for each in (there, here))
        assert counted.take()[0] == 1
        share, its = (float(np.mean(each.distances <= farthest + 1e-9)) for each in (found, wanted))
        assert share >= its
        assert its >= 0.9
