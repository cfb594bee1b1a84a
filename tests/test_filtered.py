"""Searches with a filter in a collection with a graph: what is found, by which way, and that k come back where k match."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config
from vecstore.index.chosen import Chosen
from vecstore.index.single import SingleAmong
from vecstore.index.walk import DamageFound
from vecstore.index.ways import Costs, Search

DATA = Path(os.environ.get("VECSTORE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
DIM, COUNT = 24, 3000
CENTRES = np.random.default_rng(9).normal(size=(12, DIM))

WAYS = {way: {each: float(each != way) for each in ("graph", "bundles", "codes")} for way in ("graph", "bundles", "codes")}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GRAPH_FROM": 400, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 32, "SWEPT_FROM": 200}.items():
        monkeypatch.setattr(config, name, value)


@pytest.fixture(params=[*WAYS, "as predicted"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way is taken, whatever it costs."""
    name: str = request.param
    if name in WAYS:
        monkeypatch.setattr(Costs, "predict", lambda self, chosen: WAYS[name])
    return name


def clustered(count: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    group = random.integers(0, 12, count)
    return (CENTRES[group] + 0.5 * random.normal(size=(count, DIM))).astype(np.float32), group


def metadata(group: NDArray[np.int64], seed: int = 3) -> list[dict[str, Any]]:
    share = np.random.default_rng(seed).random(len(group))
    return [{"group": int(g), "share": float(s)} for g, s in zip(group, share, strict=True)]


@pytest.fixture(params=[("l2", "float32"), ("cosine", "float16"), ("ip", "float32"), ("l2", "uint8"), ("hamming", "binary")], ids="-".join)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def vectors(kind: tuple[str, str], count: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    data, group = clustered(count, seed)
    if kind[1] == "binary":
        turned = data @ np.random.default_rng(5).normal(size=(DIM, 200))
        return turned > 0, group
    return (np.clip(np.round(data * 30 + 128), 0, 255) if kind[1] == "uint8" else data), group


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, str]], Path]:
    """A collection of each kind, built once."""

    @functools.cache
    def build(kind: tuple[str, str]) -> Path:
        path = tmp_path_factory.mktemp("built") / "c.vec"
        dim = 200 if kind[1] == "binary" else DIM
        with vecstore.open(path, dim=dim, metric=kind[0], dtype=kind[1], durability="none") as c:
            data, group = vectors(kind, COUNT)
            c.add(np.arange(COUNT), data, metadata(group))
        return path

    return build


@pytest.fixture
def filled(
    tmp_path: Path, kind: tuple[str, str], built: Callable[[tuple[str, str]], Path]
) -> Iterator[vecstore.Collection]:
    shutil.copy(built(kind), tmp_path / "c.vec")
    with vecstore.open(tmp_path / "c.vec", durability="none") as c:
        yield c


def share_found(c: vecstore.Collection, queries: NDArray[Any], where: Any, k: int = 10, **asked: Any) -> float:
    """Of the true neighbours; and every hit is one that matches, once, in order, with its own distance."""
    truth = c.search(queries, k=k, where=where, exact=True)
    found = c.search(queries, k=k, where=where, **asked)
    near = []
    for mine, true in zip(found, truth, strict=True):
        assert len(mine) == len(true)
        assert len(set(mine.ids)) == len(mine)
        assert (np.diff(mine.distances) >= -1e-9).all()
        distances = dict(zip(true.ids, true.distances.tolist(), strict=True))
        for hit in mine:
            if hit.id in distances:
                assert hit.distance == pytest.approx(distances[hit.id], rel=1e-9, abs=1e-9)
        if len(true):
            near.append(np.mean(mine.distances <= true.distances[-1] + 1e-6 * abs(true.distances[-1]) + 1e-9))
    return float(np.mean(near)) if near else 1.0


FILTERS: dict[str, Any] = {
    "nearly all": {"share": {"$lt": 0.9}},
    "half": {"share": {"$lt": 0.5}},
    "a tenth": {"share": {"$lt": 0.1}},
    "a hundredth": {"share": {"$lt": 0.01}},
    "one group": {"group": 3},
    "no group but one": {"group": {"$ne": 3}},
    "hardly any": {"share": {"$lt": 0.0011}},
}


@pytest.mark.parametrize("name", FILTERS)
def test_what_matches_is_found(filled: vecstore.Collection, kind: tuple[str, str], way: str, name: str) -> None:
    queries, _ = vectors(kind, 60, seed=1)
    where = FILTERS[name]
    assert share_found(filled, queries, where) >= 0.9
    assert share_found(filled, queries, where, recall=0.999) >= 0.98
    assert share_found(filled, queries, where, search_list=300) >= 0.98
    matching = {record.id for record in filled.scan(where=where, vectors=False)}
    for hits in filled.search(queries, k=10, where=where):
        assert set(hits.ids) <= matching
        assert len(hits) == min(10, len(matching))


def test_one_by_one_as_in_a_batch(filled: vecstore.Collection, kind: tuple[str, str], way: str) -> None:
    queries, _ = vectors(kind, 20, seed=1)
    for where in FILTERS.values():
        batch = filled.search(queries, k=7, where=where, threads=2)
        for query, hits in zip(queries, batch, strict=True):
            for _ in range(2):  # the second time by what was kept of the first
                assert filled.search(query, k=7, where=where).ids == hits.ids


def test_explain_says_which_way(filled: vecstore.Collection, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    [query], _ = vectors(kind, 1, seed=1)
    for place, (name, predicted) in enumerate(WAYS.items()):
        monkeypatch.setattr(Costs, "predict", lambda self, chosen, predicted=predicted: predicted)
        said = filled.explain(query, where={"share": {"$lt": 0.6 + 0.1 * place}})
        assert said["plan"] == name
        assert said["predicted"] == predicted
        assert said["hits"] == 10
        assert name == "bundles" or (said["hops"] > 0) == (name == "graph")
        if name == "codes":
            assert said["scores"] == said["candidates"]


def test_a_walk_that_meets_nothing_that_matches_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that matches is far from the queries: a walk looks round them in vain."""
    monkeypatch.setattr(Costs, "predict", lambda self, chosen: WAYS["graph"])
    data, group = clustered(COUNT)
    far = np.argsort(((CENTRES - CENTRES[0]) ** 2).sum(1))[-6:]
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2", durability="none") as c:
        c.add(np.arange(COUNT), data, metadata(group))
        queries = data[group == 0][:40] + 0.01
        where = {"group": {"$in": far.tolist()}}
        assert c.explain(queries, where=where)["given_up"] >= 30
        assert share_found(c, queries, where) >= 0.95


def test_costs_are_measured_and_decide(filled: vecstore.Collection, kind: tuple[str, str]) -> None:
    [query], _ = vectors(kind, 1, seed=1)
    few, many = (filled.explain(query, where={"share": {"$lt": s}}) for s in (0.02, 0.999))
    assert few["plan"] != "graph"
    for said in (few, many):
        assert sorted(said["predicted"]) == ["bundles", "codes", "graph"]
        assert all(0 < seconds < 1 for seconds in said["predicted"].values())
    assert few["predicted"]["codes"] < many["predicted"]["codes"]
    assert few["predicted"]["graph"] > many["predicted"]["graph"]


def test_what_comes_and_goes_is_followed(filled: vecstore.Collection, kind: tuple[str, str], way: str) -> None:
    """Pending records, deleted ones, changed metadata, in this process and in another reader."""
    queries, _ = vectors(kind, 30, seed=1)
    more, group = vectors(kind, 400, seed=2)
    where = {"share": {"$lt": 0.4}}
    newest_found = []
    with vecstore.open(filled.path, mode="r") as reader:
        filled.search(queries[0], where=where)
        for step, first in enumerate(range(0, 400, 20)):
            filled.add(np.arange(10_000 + first, 10_020 + first), more[first : first + 20], metadata(group[first : first + 20], step))
            filled.delete(np.arange(40 * step, 40 * step + 25))
            filled.update([2500 + step], [{"share": 0.0 if step % 2 else 1.0}])
            for c in (filled, reader):
                assert share_found(c, queries[:5], where, recall=0.999) >= 0.9
                newest, theirs = more[first : first + 20 : 5], {"group": int(group[first])}
                newest_found.append(share_found(c, newest, theirs, k=1, recall=0.999))
    assert np.mean(newest_found) >= 0.95
    assert share_found(filled, queries, where, recall=0.999) >= 0.95
    assert filled.verify().ok


def test_many_pending_records_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(config, "LINKED_FROM", 1 << 30)
    monkeypatch.setattr("vecstore.graph._NUMBERS_IN_WALKS", 100)
    data, group = clustered(COUNT)
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2", durability="none") as c:
        c.add(np.arange(COUNT - 300), data[:-300], metadata(group[:-300]))
        c.add(np.arange(COUNT - 300, COUNT), data[-300:], metadata(group[-300:]))
        assert c.stats()["pending"] == 300
        for where in FILTERS.values():
            assert share_found(c, data[-40:] + 0.01, where, recall=0.99) >= 0.95
        hits = [c.search(vector, k=1, where={"group": int(g)}) for vector, g in zip(data[-40:], group[-40:], strict=True)]
        assert [hit.ids[0] for hit in hits] == list(range(COUNT - 40, COUNT))


def test_like_a_record_among_those_that_match(filled: vecstore.Collection, way: str) -> None:
    hits = filled.search(id=5, k=8, where={"share": {"$lt": 0.5}})
    assert len(hits) == 8
    assert 5 not in hits.ids
    batch = filled.search(id=[5, 6], k=8, where={"share": {"$lt": 0.5}})
    assert batch[0].ids == hits.ids
    assert 6 not in batch[1].ids


def test_in_a_transaction_it_is_scanned(filled: vecstore.Collection, kind: tuple[str, str]) -> None:
    [query], _ = vectors(kind, 1, seed=1)
    with filled.transaction():
        filled.update([1], [{"share": 0.0}])
        assert filled.explain(query, where={"share": {"$lt": 0.5}})["plan"] == "scan"
        assert len(filled.search(query, where={"share": 0.0})) == 1


def test_threads_share_filters(filled: vecstore.Collection, kind: tuple[str, str]) -> None:
    queries, _ = vectors(kind, 20, seed=1)
    filters = [{"share": {"$lt": 0.05 * n}} for n in range(1, 20)]
    right = [[filled.search(query, where=where).ids for query in queries] for where in filters]
    wrong: list[Any] = []

    def ask(seed: int) -> None:
        pick = np.random.default_rng(seed)
        for _ in range(100):
            i, j = pick.integers(len(filters)), pick.integers(len(queries))
            if filled.search(queries[j], where=filters[i]).ids != right[i][j]:
                wrong.append((i, j))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_kept_of_filters_is_bounded(filled: vecstore.Collection, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    [query], _ = vectors(kind, 1, seed=1)
    filtered = filled._planner._filtered
    monkeypatch.setattr(filtered, "_most", 60_000)
    for n in range(1, 100):
        filled.search(query, where={"share": {"$lt": n / 100}})
        assert sum(each.nbytes for each in filtered._kept.values()) <= 60_000
    assert 1 <= len(filtered._kept) < 99


def test_a_query_that_has_no_distances_is_refused(filled: vecstore.Collection, kind: tuple[str, str]) -> None:
    if kind[1] == "binary":
        return
    for query in (np.full(DIM, np.nan, np.float32), np.full(DIM, np.inf, np.float32)):
        with pytest.raises(vecstore.InvalidVectorError):
            filled.search(query, where={"share": {"$lt": 0.5}})
    with pytest.raises(vecstore.DimensionError):
        filled.search(np.ones(DIM + 1, np.float32), where={"share": {"$lt": 0.5}})


def test_damage_is_told(filled: vecstore.Collection, way: str) -> None:
    """A vector that is not what was written ends a filtered search in an error that names its block."""
    rows = [record.vector.tobytes() for record in filled.scan()]
    query, path = filled[0].vector, Path(filled.path)
    filled.close()
    data = bytearray(path.read_bytes())
    for row in rows:
        data[data.index(row) + 5] ^= 0x10
    path.write_bytes(data)
    with vecstore.open(path, mode="r") as c, pytest.raises(vecstore.CorruptionError, match="block"):
        c.search(c.settings.dim * [1] if c.dtype == "binary" else query, where={"share": {"$lt": 0.8}})


def test_damage_is_told_by_a_filter_that_was_asked_before(
    filled: vecstore.Collection, kind: tuple[str, str], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [query], _ = vectors(kind, 1, seed=1)
    where = {"share": {"$lt": 0.8}}
    assert len(filled.search(query, where=where)) == len(filled.search(query, where=where)) == 10

    def meet_damage(*_: Any) -> None:
        raise DamageFound(graph=False, number=0, foreign=True)

    monkeypatch.setattr(Search, "_run", meet_damage)
    monkeypatch.setattr(SingleAmong, "search", lambda *_: None)
    with pytest.raises(vecstore.CorruptionError, match="block"):
        filled.search(query, where=where)


def test_chosen_knows_its_nodes(filled: vecstore.Collection, kind: tuple[str, str]) -> None:
    state = filled._file.snapshot().state
    ready = filled._graph.ready(state)
    assert ready is not None
    slots = np.array([1500, 3, 77], dtype=np.int32)
    mask = np.zeros_like(ready.mask)
    mask[slots] = 1
    none = np.zeros(0, np.int64)
    for chosen in Chosen.among(ready.walker, slots), Chosen(ready.walker, np.packbits(mask, bitorder="little"), None, none, None):
        assert chosen.count == 3
        assert sorted(ready.walker.resident.slots[chosen.nodes].tolist()) == [3, 77, 1500]
        assert (np.diff(chosen.nodes.astype(int)) > 0).all()


# -- real vectors


@pytest.fixture(scope="module")
def sift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[vecstore.Collection, NDArray[np.float32], NDArray[np.int64]]]:
    """40,000 descriptors, the group of each, queries of which each has a group, and the collection."""
    path = DATA / "sift-400k.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    with np.load(path) as loaded:
        base, queries = loaded["base"][:40_000].astype(np.float32), loaded["query"][:100].astype(np.float32)
    centres = base[:200]
    group = np.argmin((centres**2).sum(1) - 2 * base @ centres.T, axis=1)
    order = np.argsort((centres**2).sum(1) - 2 * queries @ centres.T, axis=1)
    with vecstore.open(tmp_path_factory.mktemp("sift") / "c.vec", dim=128, metric="l2", durability="none") as c:
        c.add(np.arange(len(base)), base, metadata(group))
        yield c, queries, order


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("how", ["random", "correlated", "against"])
def test_the_target_holds_on_sift(
    sift: tuple[vecstore.Collection, NDArray[np.float32], NDArray[np.int64]], share: float, how: str
) -> None:
    c, queries, order = sift
    assert c.explain(queries[0])["plan"] == "graph"
    if how == "random":
        assert share_found(c, queries, {"share": {"$lt": share}}) >= 0.94
        return
    groups = max(1, round(200 * share))
    chosen = order[:, :groups] if how == "correlated" else order[:, -groups:]
    found = [
        share_found(c, query[None], {"group": {"$in": mine.tolist()}})
        for query, mine in zip(queries, chosen, strict=True)
    ]
    assert np.mean(found) >= 0.94
