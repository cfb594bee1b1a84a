"""Collections that are searched on the card answer as those that are searched on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore.kernels import dispatch, reference
from vecstore.kernels.cuda.card import Card, CardError, simulated
from vecstore.query import on_card

PAIRS = [
    *((metric, dtype) for metric in reference.DENSE_METRICS for dtype in reference.DENSE_DTYPES),
    *((metric, "binary") for metric in reference.BINARY_METRICS),
]
ROWS, MORE_ROWS = 150, 260


def width(dtype: str) -> int:
    return 512 if dtype == "binary" else 10


def vectors(dtype: str, n: int, seed: int, dim: int | None = None) -> np.ndarray:
    rng, shape = np.random.default_rng(seed), (n, dim or width(dtype))
    if dtype == "binary":
        return np.packbits(rng.random(shape) < 0.5, axis=1)
    if dtype in ("uint8", "int8"):
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """One file, opened for the card and for the CPU."""
    made: list[vecstore.Collection] = []

    def make(
        metric: str = "l2",
        dtype: str = "float32",
        device: str = "cuda",
        dim: int | None = None,
        rows: int = ROWS,
    ) -> Any:
        path = tmp_path / f"{metric}-{dtype}.vec"
        made.append(vecstore.open(path, dim=dim or width(dtype), metric=metric, dtype=dtype, device="cpu"))
        made[-1].add(range(rows), vectors(dtype, rows, 1, dim), [{"n": n % 7} for n in range(rows)])
        made.append(vecstore.open(path, device=device))
        return made[-1], made[-2]

    yield make
    for each in made:
        each.close()


def same(there: Any, here: Any) -> None:
    assert there.ids.tolist() == here.ids.tolist()
    np.testing.assert_allclose(there.distances, here.distances, rtol=1e-12, atol=1e-14)


class Counted:
    """How many rows the kernel that copies to the card was given, and how many tiles were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = self.launches = 0
        norms, tile = dispatch.cuda().norms, dispatch.cuda().tile
        of_rows, score = norms.norms, tile.score

        def counted_rows(card: Card, rows: Any, *rest: Any) -> None:
            self.rows += rows.shape[0]
            of_rows(card, rows, *rest)

        def counted_launch(*args: Any) -> None:
            self.launches += 1
            score(*args)

        monkeypatch.setattr(norms, "norms", counted_rows)
        monkeypatch.setattr(tile, "score", counted_launch)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


@pytest.mark.parametrize(("metric", "dtype"), PAIRS)
def test_the_card_answers_as_the_cpu(
    both: Any, card: Card, counted: Counted, metric: str, dtype: str
) -> None:
    there, here = both(metric, dtype)
    queries = vectors(dtype, 5, 2)
    same(there.search(queries, k=5, exact=True), here.search(queries, k=5, exact=True))
    assert counted.launches > 0
    assert there.stats()["device"] == card.name
    assert there.stats()["device_memory_bytes"] > ROWS * there.settings.row_bytes
    assert here.stats()["device"] == "cpu"
    there.close()
    assert card.held == 0


def test_one_query_filters_and_records_like_one(both: Any, counted: Counted) -> None:
    there, here = both()
    query = vectors("float32", 1, 3)[0]
    for options in ({}, {"where": {"n": {"$lt": 3}}}, {"where": {"n": 99}}, {"k": 1}):
        asked = {"k": 8, "exact": True} | options
        assert there.search(query, **asked).ids == here.search(query, **asked).ids
        same(there.search(query[None], **asked), here.search(query[None], **asked))
    same(there.search(id=[3, 4], k=6, exact=True), here.search(id=[3, 4], k=6, exact=True))
    assert counted.launches > 0


def test_what_commits_change_follows(both: Any, counted: Counted) -> None:
    there, here = both(dim=40, rows=MORE_ROWS)
    assert there.stats()["blocks"]["vectors"] > 2
    queries = vectors("float32", 4, 4, 40)
    there.search(queries, k=5, exact=True)
    everything, counted.rows = counted.rows, 0
    same(there.search(queries, k=5, exact=True), here.search(queries, k=5, exact=True))
    assert counted.rows == 0
    here.delete(list(range(0, 60, 3)))
    here.upsert([1, "new"], queries[:2])
    found = there.search(queries, k=5, exact=True)
    same(found, here.search(queries, k=5, exact=True))
    assert {found.ids[0, 0], found.ids[1, 0]} == {1, "new"}
    assert 0 < counted.rows < everything
    here.compact()
    same(there.search(queries, k=5, exact=True), here.search(queries, k=5, exact=True))


def test_rows_stream_through_where_there_is_no_room(
    both: Any, card: Card, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_card, "_PIECE_BYTES", 1)
    for metric, dtype, dim in (("cosine", "float32", 40), ("hamming", "binary", 1280)):
        there, here = both(metric, dtype, dim=dim, rows=MORE_ROWS)
        assert there.stats()["blocks"]["vectors"] == 3
        here.delete(list(range(100, 210)))  # no record of the second block is left
        counted.rows = 0
        monkeypatch.setattr(on_card, "_held", lambda *_: None)
        queries = vectors(dtype, 5, 5, dim)
        for _ in range(2):
            same(there.search(queries, k=6, exact=True), here.search(queries, k=6, exact=True))
        assert 2 * (MORE_ROWS - 110) < counted.rows < 2 * MORE_ROWS
        same(
            there.search(queries, k=6, where={"n": 2}, exact=True),
            here.search(queries, k=6, where={"n": 2}, exact=True),
        )
        assert card.held == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_float32_cannot_hold_are_compared_as_well(both: Any) -> None:
    for metric in ("l2", "ip", "cosine"):
        there, here = both(metric)
        long = vectors("float32", 3, 6) * np.float32(1e20)
        here.add(["a", "b", "c"], long)
        queries = np.concatenate([vectors("float32", 3, 7), long])
        same(there.search(queries, k=4, exact=True), here.search(queries, k=4, exact=True))


def test_what_the_card_does_not_take_the_cpu_does(both: Any, counted: Counted) -> None:
    there, here = both()
    queries = vectors("float32", 3, 8)
    if dispatch.cuda().scan.most_pool() < 2 * 100 + 16:
        same(there.search(queries, k=100, exact=True), here.search(queries, k=100, exact=True))
        assert counted.launches == 0
    with here.transaction():
        here.delete(5)
    with there.transaction():
        there.delete(6)
        assert 6 not in there.search(queries, k=8, exact=True).ids
    assert counted.launches == 0
    assert len(there.search(queries, radius=1e9)[0]) == ROWS - 2
    assert counted.launches == 0


def test_neighbours_and_pairs(both: Any, counted: Counted) -> None:
    there, here = both()
    asked = {"where": {"n": 3}}
    for mine, other in zip(there.neighbours(2, **asked), here.neighbours(2, **asked), strict=True):
        assert mine.neighbours.tolist() == other.neighbours.tolist()
    assert counted.launches > 0
    counted.launches = 0
    assert {(pair.first, pair.second) for pair in there.near_duplicates(2.5, **asked)} == {
        (pair.first, pair.second) for pair in here.near_duplicates(2.5, **asked)
    }


# -- when it fails


def fail(*_: Any) -> None:
    raise CardError("the card fell off the bus")


def test_a_card_that_fails_raises_where_it_was_asked_for(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there, here = both()
    monkeypatch.setattr(dispatch.cuda().tile, "score", fail)
    for _ in range(2):
        with pytest.raises(vecstore.DeviceError, match=r"fell off the bus.*auto"):
            there.search(vectors("float32", 4, 9), k=3, exact=True)
    assert here.verify().ok


def test_a_card_that_fails_is_done_without_after_one_warning(
    both: Any, card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    monkeypatch.setattr(on_card.PACE, "cpu", 1.0)
    monkeypatch.setattr(on_card.PACE, "missed", 1e9)
    there, here = both(device="auto")
    queries = vectors("float32", 4, 9)
    same(there.search(queries, k=3, exact=True), here.search(queries, k=3, exact=True))
    assert there.stats()["device"] == card.name
    monkeypatch.setattr(dispatch.cuda().tile, "score", fail)
    with pytest.warns(RuntimeWarning, match=r"CPU.*fell off the bus") as caught:
        same(there.search(queries, k=3, exact=True), here.search(queries, k=3, exact=True))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(there.search(queries, k=3, exact=True), here.search(queries, k=3, exact=True))
    assert there.stats()["device"] == "cpu"
    assert card.held == 0


def test_too_little_memory_on_the_card(both: Any, card: Card) -> None:
    there, _ = both()
    card.budget = 10_000
    with pytest.raises(vecstore.DeviceError, match=r"room|fit"):
        there.search(vectors("float32", 4, 9), k=3, exact=True)
    assert card.held == 0


@pytest.mark.skipif(not simulated(), reason="this is a card")
def test_the_simulator_is_no_card_unless_asked_for(
    both: Any, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.delenv("VECSTORE_CUDA_SIMULATOR", raising=False)
    monkeypatch.setattr(on_card.PACE, "cpu", 1.0)
    monkeypatch.setattr(on_card.PACE, "missed", 1e9)
    there, _ = both(device="auto")
    there.search(vectors("float32", 4, 9), k=3, exact=True)
    assert counted.launches == 0
    assert there.stats()["device"] == "cpu"


def test_auto_looks_for_a_card_once_it_would_have_paid(
    both: Any, monkeypatch: pytest.MonkeyPatch, counted: Counted
) -> None:
    monkeypatch.setenv("VECSTORE_CUDA_SIMULATOR", "1")
    pace = on_card.Pace()
    monkeypatch.setattr(on_card, "PACE", pace)
    there, here = both(device="auto")
    queries = vectors("float32", 4, 9)
    there.search(queries, k=3, exact=True)
    assert pace.missed == 0  # so little is done before a card has begun
    pace.cpu = 1e3
    expected = 4 * ROWS * 10 / (1e3 * there._threads)
    pace.start = 1.5 * expected
    there.search(queries, k=3, exact=True)
    assert pace.missed == pytest.approx(expected)
    assert there.stats()["device"] == "cpu"
    assert counted.launches == 0
    same(there.search(queries, k=3, exact=True), here.search(queries, k=3, exact=True))
    assert counted.launches > 0
    assert there.stats()["device"] != "cpu"


def test_paces_are_measured_where_there_is_something_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now = on_card.Pace(cpu=100.0), [0.0]
    monkeypatch.setattr(on_card.time, "perf_counter", lambda: now[0])
    for seconds in (0.001, 2.0):
        with pace.measured("cpu", 800):
            now[0] += seconds
    assert pace.cpu == 0.75 * 100 + 0.25 * 400
