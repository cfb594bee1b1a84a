"""A graph that is changed in place: records that come are linked, those that go are swept, and readers follow."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config
from vecstore.errors import CorruptionError
from vecstore.index.build import Plan
from vecstore.resident import Keeper
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.blocks import payload
from vecstore.storage.linked import linked_mask
from vecstore.storage.session import Session

DIM = 24


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections of a few hundred records get a graph, and every few changes a commit of upkeep."""
    for name, value in {
        "GRAPH_FROM": 400, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 16, "LINKED_AT_ONCE": 150, "SWEPT_FROM": 200,
        "SWEPT_AT_ONCE": 1000,
    }.items():  # fmt: skip
        monkeypatch.setattr(config, name, value)


def clustered(count: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    centres = np.random.default_rng(9).normal(size=(12, dim))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 12, count)] + 0.5 * random.normal(size=(count, dim))).astype(np.float32)


@pytest.fixture(params=[("l2", "float32"), ("cosine", "float16"), ("ip", "float32"), ("l2", "uint8"), ("hamming", "binary")], ids="-".join)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def vectors(kind: tuple[str, str], count: int, seed: int = 0) -> NDArray[Any]:
    dtype = kind[1]
    if dtype == "binary":
        whole = np.random.default_rng(77).random((12, 200)) < 0.4
        random = np.random.default_rng(seed)
        return whole[random.integers(0, 12, count)] ^ (random.random((count, 200)) < 0.1)
    data = clustered(count, seed)
    return np.clip(np.round(data * 30 + 128), 0, 255) if dtype == "uint8" else data


@pytest.fixture
def grown(tmp_path: Path, kind: tuple[str, str]) -> Iterator[vecstore.Collection]:
    dim = 200 if kind[1] == "binary" else DIM
    with vecstore.open(tmp_path / "c.vec", dim=dim, metric=kind[0], dtype=kind[1], durability="none") as c:
        c.add(np.arange(1500), vectors(kind, 1500))
        yield c


def recall(collection: vecstore.Collection, queries: NDArray[Any], **asked: Any) -> float:
    farthest = collection.search(queries, k=10, exact=True).distances[:, -1:]
    found = collection.search(queries, k=10, **asked)
    assert (np.diff(found.distances, axis=1) >= -1e-9).all()
    assert all(len(set(ids)) == len(ids) for ids in found.ids.tolist())
    return float(np.mean(found.distances <= farthest + 1e-6 * np.abs(farthest) + 1e-9))


def nodes_of(collection: vecstore.Collection) -> int:
    return int(collection.stats()["nodes"])


# -- records that come


def test_what_is_added_is_linked(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    more = vectors(kind, 900, seed=1)
    for first in range(0, 900, 60):
        grown.add(np.arange(1500 + first, 1560 + first), more[first : first + 60])
        assert grown.stats()["pending"] < config.LINKED_FROM
    assert nodes_of(grown) == len(grown) == 2400
    assert grown.explain(more[0], k=10)["plan"] == "graph"
    assert recall(grown, vectors(kind, 80, seed=2)) >= 0.9
    assert recall(grown, vectors(kind, 80, seed=2), search_list=300) >= 0.98
    found, truth = (grown.search(more[::90], k=1, **how) for how in ({"search_list": 100}, {"exact": True}))
    assert np.mean(found.distances <= truth.distances + 1e-6) == 1.0
    assert grown.verify().ok


def test_single_records_are_linked_a_few_at_a_time(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    right = []
    for number, vector in enumerate(vectors(kind, 50, seed=1)):
        grown.add(f"new {number}", vector)
        found, truth = (grown.search(vector, k=1, **how)[0].distance for how in ({}, {"exact": True}))
        right.append(found == pytest.approx(truth, abs=1e-6))
    # Whether it waits or was linked just now. By inner product the nearest may be another record, which a walk may miss.
    assert sum(right) >= (47 if kind[0] == "ip" else 50)
    assert nodes_of(grown) == 1500 + 48
    assert grown.verify().ok


def test_what_waits_is_found_whichever_way_it_is_compared(
    grown: vecstore.Collection, kind: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few are compared within walks; many are scanned, and the answers are put together."""
    monkeypatch.setattr(config, "LINKED_FROM", 10_000)
    more = vectors(kind, 100, seed=1)
    grown.add(np.arange(1500, 1600), more)
    grown.delete([1503, 7])
    found = []
    for most in (0, 1 << 18):
        monkeypatch.setattr("vecstore.graph._NUMBERS_IN_WALKS", most)
        with vecstore.open(tmp_path / "c.vec", mode="r") as reader:
            assert reader.stats()["pending"] == 99
            singles = [reader.search(vector, k=5) for vector in more]
            batch = reader.search(more, k=5)
            assert [hits.ids for hits in singles] == batch.ids.tolist()
            found.append((batch.ids.tolist(), batch.distances))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6, atol=1e-6)
    truth = grown.search(more, k=1, exact=True)
    assert [ids[0] for ids in found[0][0]] == truth.ids[:, 0].tolist() or kind[0] == "ip"


def test_a_tenth_at_once_is_linked_in_slices(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    before = grown._file.snapshot().state.header.graph
    grown.add(np.arange(1500, 1750), vectors(kind, 250, seed=1))
    after = grown._file.snapshot().state.header.graph
    assert before is not None
    assert after is not None
    assert (after.stamp, after.nodes) == (before.stamp, 1750)
    assert recall(grown, vectors(kind, 80, seed=2), search_list=300) >= 0.98


@pytest.mark.parametrize("leaf", [700, 40], ids=["compared", "in leaves"])
def test_many_at_once_are_stitched_in(
    grown: vecstore.Collection, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch, leaf: int
) -> None:
    """One slice links all of them, and what was deleted before lends them its nodes."""
    monkeypatch.setattr(config, "MANY_FROM", 300)
    monkeypatch.setattr(config, "WORN_SHARE", 0.9)
    monkeypatch.setattr("vecstore.living.build.Plan", lambda seed: Plan(seed=seed, leaf=leaf))
    before = grown._file.snapshot().state.header.graph
    grown.delete(np.arange(0, 400, 2))
    grown.optimize()
    grown.optimize()
    more = vectors(kind, 1200, seed=1)
    commits = grown._file.snapshot().number
    grown.add(np.arange(1500, 2700), more)
    after = grown._file.snapshot().state.header.graph
    assert before is not None
    assert after is not None
    assert after.stamp == before.stamp
    assert 2500 <= after.nodes <= 2700
    assert grown.stats()["pending"] == 0
    # The records, their links, and what the sweep does behind them; slices of 150 would be eight.
    assert grown._file.snapshot().number - commits <= 6
    assert recall(grown, vectors(kind, 80, seed=2)) >= 0.9
    assert recall(grown, vectors(kind, 80, seed=2), search_list=300) >= 0.98
    found, truth = (grown.search(more[::60], k=1, **how) for how in ({"search_list": 100}, {"exact": True}))
    assert np.mean(found.distances <= truth.distances + 1e-6) == 1.0
    assert grown.verify().ok


def test_many_at_once_are_built_anew(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    before = grown._file.snapshot().state.header.graph
    grown.add(np.arange(1500, 2500), vectors(kind, 1000, seed=1))
    after = grown._file.snapshot().state.header.graph
    assert before is not None
    assert after is not None
    assert after.stamp != before.stamp
    assert after.nodes == 2500


# -- records that go


def test_a_collection_that_is_replaced_again_and_again_stays_what_it_was(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    queries, order = vectors(kind, 80, seed=2), np.random.default_rng(3)
    fresh = 1500
    for turn in range(12):
        for part in np.array_split(order.permutation([record.id for record in grown])[:450], 9):
            grown.delete(part)
            grown.add(np.arange(fresh, fresh + part.size), vectors(kind, part.size, seed=fresh))
            fresh += part.size
        assert recall(grown, queries, search_list=200) >= 0.95, turn
    assert len(grown) == 1500
    assert nodes_of(grown) < 2600
    assert grown.verify().ok


def test_a_cluster_that_is_deleted_whole_is_never_found_again(tmp_path: Path) -> None:
    data = clustered(2000)
    data[:500] += 20
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2", durability="none") as c:
        c.add(np.arange(2000), data)
        for first in range(0, 500, 50):
            c.delete(np.arange(first, first + 50))
            found = c.search(data[:40], k=10)
            assert (np.array(found.ids.tolist()) >= first + 50).all()
        c.optimize()
        assert recall(c, data[:40]) >= 0.95
        assert recall(c, data[500:600]) >= 0.95
        assert c.verify().ok


def test_a_changed_vector_moves_its_record(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    for turn in range(1, 8):
        changed = vectors(kind, 100, seed=turn)
        grown.upsert(np.arange(100), changed)
        found = grown.search(changed, k=1, search_list=200)
        truth = grown.search(changed, k=1, exact=True)
        assert np.mean(found.distances <= truth.distances + 1e-6) >= 0.97
    assert len(grown) == 1500
    assert grown.verify().ok


def test_moving_rows_together_leaves_them_linked(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    """Deleting three in four has rows moved, which had nodes and keep them."""
    grown.delete(np.flatnonzero(np.arange(1500) % 4))
    assert grown.stats()["pending"] < config.LINKED_FROM
    assert recall(grown, vectors(kind, 50, seed=2), search_list=300) >= 0.95
    assert grown.verify().ok


# -- dense copies


def test_compaction_leaves_live_nodes_near_ones_beside_each_other(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    order, queries = random.Random(3), vectors(kind, 80, seed=2)
    for turn in range(4):
        grown.delete(order.sample([record.id for record in grown], 300))
        grown.add([f"{turn} {n}" for n in range(300)], vectors(kind, 300, seed=10 + turn), [{"n": n} for n in range(300)])
    grown.add("pending", vectors(kind, 1, seed=99)[0])
    grown.delete(order.choice([record.id for record in grown if record.id != "pending"]))
    expected = {record.id: (np.asarray(record.vector).tolist(), record.metadata) for record in grown}
    before = recall(grown, queries, search_list=60)
    assert nodes_of(grown) > len(grown)
    assert grown.stats()["pending"] == 1
    apart = steps_apart(grown)
    grown.compact()
    assert grown.verify(raise_on_error=True).records == 1500
    stats = grown.stats()
    assert (stats["nodes"], stats["pending"], stats["uncalibrated"]) == (1500, 0, 1)  # the one that was pending
    assert {record.id: (np.asarray(record.vector).tolist(), record.metadata) for record in grown} == expected
    assert recall(grown, queries, search_list=60) >= before - 0.03
    assert recall(grown, queries) >= 0.93
    assert steps_apart(grown) < apart / 2
    grown.add("after", vectors(kind, 1, seed=98)[0])
    grown.delete("pending")
    assert "after" in grown
    assert "pending" not in grown
    assert grown.verify().ok


def steps_apart(collection: vecstore.Collection) -> float:
    """How far a record's slot is from those of its neighbours in the graph, in the middle."""
    with collection._file.snapshot() as state:
        graph = state.header.graph
        assert graph is not None
        slots = stored.graph_slots(state).astype(np.int64)
        first = stored.graph_rows(state, 0, graph.nodes)[1][:, 0]
    alive = np.flatnonzero(slots != stored.NONE)
    alive = alive[first[alive] != stored.NONE]
    apart = np.abs(slots[alive] - slots[first[alive]])
    return float(np.median(apart))


def test_a_copy_of_a_collection_whose_entries_are_all_gone_is_walked(tmp_path: Path) -> None:
    data = clustered(1500)
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2", durability="none") as c:
        c.add(np.arange(1500), data)
        with c._file.snapshot() as state:
            entries = Keeper().of(state).entries
            slots = stored.graph_slots(state)[entries]
        c.delete(slots)
        assert nodes_of(c) == 1500
        c.compact()
        assert nodes_of(c) == len(c) == 1500 - slots.size
        assert recall(c, clustered(80, seed=2)) >= 0.9
        assert c.verify().ok


def test_what_cannot_be_walked_is_copied_as_it_is(
    grown: vecstore.Collection, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grown.delete(np.arange(0, 1500, 5))
    with monkeypatch.context() as patch, grown._file.snapshot() as state:
        patch.setattr("vecstore.graph._CODECS", set())
        assert grown._graph.arranged(state) is None
        grown.compact()
    assert (len(grown), nodes_of(grown)) == (1200, 1500)
    assert grown.verify().ok
    assert recall(grown, vectors(kind, 80, seed=2)) >= 0.9


# -- readers


def test_what_moves_stays_where_it_was_for_older_snapshots(tmp_path: Path) -> None:
    """Rows are moved together when most of them are gone; a search that began before has them where they were."""
    keeper = Keeper()
    with vecstore.open(tmp_path / "c.vec", dim=DIM, metric="l2", durability="none") as c:
        c.add(np.arange(1500), clustered(1500))
        with c._file.snapshot() as old:
            resident = keeper.of(old)
            before = resident.slots.copy()
            c.delete(np.flatnonzero(np.arange(1500) % 9 > 3))
            with c._file.snapshot() as new:
                after = keeper.of(new).slots
                both = (before != stored.NONE) & (after != stored.NONE)
                assert (before[both] != after[both]).any()
            np.testing.assert_array_equal(resident.slots, before)


def test_a_reader_that_follows_knows_what_a_new_one_reads(grown: vecstore.Collection, kind: tuple[str, str]) -> None:
    keeper, random = Keeper(), np.random.default_rng(5)
    fresh = 1500
    for turn in range(40):
        if turn % 3 == 2:
            grown.delete(random.permutation([r.id for r in grown])[:30])
        else:
            count = int(random.integers(1, 90))
            grown.add(np.arange(fresh, fresh + count), vectors(kind, count, seed=fresh))
            fresh += count
        if turn == 30:
            grown.compact()
        with grown._file.snapshot() as state:
            known, read = keeper.of(state), Keeper().of(state)
            graph = state.header.graph
            assert graph is not None
            np.testing.assert_array_equal(known.codes, read.codes)
            alive = read.slots != stored.NONE
            np.testing.assert_array_equal(known.slots[alive], read.slots[alive])
            linked = linked_mask(state)
            old = known.slots[~alive]
            old = old[old != stored.NONE]
            assert not linked[old[old < linked.size]].any()
            assert known.edges == read.edges == graph.edges
            used = int(read.later.used[0])
            assert known.later.used[0] == used
            np.testing.assert_array_equal(known.later.lines[:used], read.later.lines[:used])


def test_readers_search_while_a_writer_links_and_sweeps(grown: vecstore.Collection, kind: tuple[str, str], tmp_path: Path) -> None:
    queries, failures, done = vectors(kind, 20, seed=2), [], threading.Event()

    def read() -> None:
        try:
            with vecstore.open(tmp_path / "c.vec", mode="r") as reader:
                while not done.is_set():
                    batch = reader.search(queries, k=5, search_list=100)
                    assert all(len(set(ids)) == 5 for ids in batch.ids.tolist())
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    fresh = 1500
    for turn in range(25):
        grown.add(np.arange(fresh, fresh + 40), vectors(kind, 40, seed=turn))
        grown.delete(np.arange(fresh - 1500, fresh - 1460))
        fresh += 40
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert grown.verify().ok


# -- what the file may claim


@pytest.mark.parametrize("lie", ["far edge", "far node"])
def test_a_number_that_is_no_node_is_damage(grown: vecstore.Collection, kind: tuple[str, str], lie: str, tmp_path: Path) -> None:
    grown.add(np.arange(1500, 1600), vectors(kind, 100, seed=1))
    with grown._file.writing(5.0):
        session = Session(grown._file)
        graph = session.header.graph
        assert graph is not None
        number = graph.edges_first if lie == "far edge" else 0
        block = session.edit(keys.EDGES if lie == "far edge" else keys.NODES, number)
        payload(block).view("<u4")[3] = graph.nodes
        session.commit()
        session.close()
    grown.close()
    with vecstore.open(tmp_path / "c.vec") as again:
        with pytest.raises(CorruptionError, match=r"edges|nodes"):
            again.search(vectors(kind, 1)[0], k=3)
        assert not again.verify().ok
        assert len(again.search(vectors(kind, 1)[0], k=3, exact=True)) == 3



# -- files of before


def as_before(collection: vecstore.Collection) -> None:
    """The graph as format 3 had it: the slots of all nodes behind the parameters, and no table of nodes."""
    with collection._file.writing(5.0):
        session = Session(collection._file)
        graph = session.header.graph
        assert graph is not None
        index, slots = stored.read_index(session), stored.graph_slots(session)
        first, count = graph.blocks(session.layout)[keys.INDEX]
        for number in range(first, first + count):
            session.free(keys.INDEX, number)
        session.free_all(keys.NODES)
        older = replace(graph, named=0)
        older = replace(older, index_first=session.free_numbers(keys.INDEX, older.blocks(session.layout)[keys.INDEX][1]))
        session.describe_graph(older)
        stored.write_index(session, older, index + slots.astype("<u4").tobytes())
        session.commit()
        session.close()


def test_a_graph_of_an_older_format_is_searched_and_taken_over(grown: vecstore.Collection, kind: tuple[str, str], tmp_path: Path) -> None:
    queries = vectors(kind, 40, seed=2)
    expected = grown.search(queries, k=10).ids.tolist()
    as_before(grown)
    assert grown.verify().ok
    with vecstore.open(tmp_path / "c.vec", mode="r") as reader:
        assert reader.explain(queries[0], k=10)["plan"] == "graph"
        assert reader.search(queries, k=10).ids.tolist() == expected
    before = grown._file.snapshot().state.header.graph
    grown.add(np.arange(1500, 1600), vectors(kind, 100, seed=1))
    after = grown._file.snapshot().state.header.graph
    assert before is not None
    assert after is not None
    assert (before.named, after.named, after.stamp, after.nodes) == (0, 1, before.stamp, 1600)
    assert grown.stats()["pending"] == 0
    assert recall(grown, queries, search_list=300) >= 0.98
    assert grown.verify().ok
