"""The graph in the file: written whole, staged, replaced under readers, followed by deletions, checked and copied."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import vecstore
from vecstore.config import FORMAT_VERSION
from vecstore.errors import CorruptionError, FormatVersionError
from vecstore.kernels import dispatch
from vecstore.storage import graph, keys
from vecstore.storage.blocks import HEAD_BYTES, PAGE_HEAD_BYTES, new_block, payload, seal
from vecstore.storage.graph import NONE
from vecstore.storage.header import GraphHeader, Header, read_header, write_header
from vecstore.storage.lazy import LazyTable
from vecstore.storage.linked import linked_mask, pending_slots
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask

sys.path.insert(0, str(Path(__file__).parent))

from faults.workload import some_graph

FIXTURES = Path(__file__).parent / "fixtures"


def change(collection: vecstore.Collection, do: Callable[[Session], Any], stage_bytes: int = 1 << 30) -> Any:
    """Do something in a session and commit it."""
    with collection._file.writing(5.0):
        session = Session(collection._file, stage_bytes)
        try:
            result = do(session)
            session.commit()
        finally:
            session.close()
    return result


def filled(opened: Any, count: int = 1000, dim: int = 4, **options: Any) -> vecstore.Collection:
    collection: vecstore.Collection = opened(dim=dim, metric="l2", durability="none", **options)
    collection.add(range(count), np.random.default_rng(0).standard_normal((count, dim)), [{"n": n} for n in range(count)])
    return collection


def check_written(blocks: Any, written: dict[str, Any], size: int | None = None) -> None:
    """All that was written is read, however it is asked for."""
    count = written["slots"].size
    header = blocks.header.graph
    assert header.nodes == count
    assert graph.read_index(blocks) == written["index"]
    np.testing.assert_array_equal(graph.graph_slots(blocks), written["slots"])
    for first in range(0, count, size or count):
        wanted = slice(first, min(first + (size or count), count))
        marks, neighbors = graph.graph_rows(blocks, first, wanted.stop - first)
        assert marks.dtype == neighbors.dtype == np.uint32
        assert not marks.any()
        np.testing.assert_array_equal(neighbors, written["neighbors"][wanted])
        np.testing.assert_array_equal(graph.code_rows(blocks, first, wanted.stop - first), written["codes"][wanted])


# -- writing and reading


@pytest.mark.parametrize("count", [1, 2, 21, 22, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_written_is_read(opened: Any, count: int, seed: int) -> None:
    collection = filled(opened, count)
    written = change(collection, lambda session: some_graph(session, seed))
    with collection._file.snapshot() as state:
        check_written(state, written)
        check_written(state, written, size=17)
        for first, count_ in ((-1, 1), (0, count + 1), (count, 1)):
            with pytest.raises(ValueError):
                graph.graph_rows(state, first, count_)
        assert graph.graph_rows(state, count, 0)[1].shape == (0, written["neighbors"].shape[1])
        assert linked_mask(state).all()
        assert pending_slots(state).size == 0
    stats = collection.stats()
    assert (stats["nodes"], stats["pending"], stats["codec"]) == (count, 0, "noise")
    assert stats["graph_degree"] == written["neighbors"].shape[1]
    assert stats["blocks"]["graph"] >= 1
    assert collection.verify(raise_on_error=True).ok


def test_a_collection_without_a_graph_says_so(opened: Any) -> None:
    collection = filled(opened, 10)
    stats = collection.stats()
    assert (stats["nodes"], stats["pending"], stats["codec"], stats["graph_degree"]) == (0, 0, None, None)
    with collection._file.snapshot() as state:
        assert state.header.graph is None
        assert pending_slots(state).size == 10
        for read in (graph.read_index, graph.graph_slots, lambda blocks: graph.graph_rows(blocks, 0, 1)):
            with pytest.raises(ValueError, match="no graph"):
                read(state)


def test_a_session_reads_what_it_wrote(opened: Any) -> None:
    collection = filled(opened)

    def do(session: Session) -> None:
        for seed in range(3):
            written = some_graph(session, seed)
            check_written(session, written, size=100)
            assert linked_mask(session).sum() == 1000
        graph.drop_graph(session)
        assert linked_mask(session).sum() == 0
        check_written(session, some_graph(session, 9))

    for stage_bytes in (1, 1 << 30):
        change(collection, do, stage_bytes)
        assert collection.verify().ok


@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [999, 0, 1], [21, 42, 937], [500, 500]])
def test_chunks_may_have_any_length(opened: Any, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_FILL_BYTES", 20_000)
    collection = filled(opened)
    rng = np.random.default_rng(1)
    written = {
        "slots": rng.permutation(1000),
        "neighbors": (np.arange(1000)[:, None] + np.arange(1, 8)).astype(np.uint32) % 1000,
        "codes": rng.integers(0, 256, (1000, 32), dtype=np.uint8),
        "index": msgpack.packb({}),
    }

    def cut(rows: Any) -> Iterator[Any]:
        bounds = np.cumsum([0, *sizes])
        yield from (rows[low:high] for low, high in itertools.pairwise(bounds))

    chunks = written | {"neighbors": cut(written["neighbors"]), "codes": cut(written["codes"])}
    change(collection, lambda session: graph.write_graph(session, **chunks, degree=7, code_bytes=32, codec="x", entries=3, seed=1))
    with collection._file.snapshot() as state:
        check_written(state, written)
        assert state.header.graph.entries == 3
    assert collection.verify().ok


def test_what_cannot_be_stored_is_refused(opened: Any) -> None:
    collection = filled(opened, 10)
    good: dict[str, Any] = {
        "slots": np.arange(10), "neighbors": np.full((10, 2), NONE, dtype=np.uint32),
        "codes": np.zeros((10, 16), dtype=np.uint8), "index": b"\x80", "degree": 2, "code_bytes": 16,
        "codec": "x", "entries": 1, "seed": 1,
    }  # fmt: skip
    few, narrow = np.full((9, 2), NONE, dtype=np.uint32), np.zeros((10, 8), dtype=np.uint8)
    for bad in (
        {"slots": np.arange(0)}, {"index": b""}, {"degree": 0}, {"degree": 256}, {"code_bytes": 0}, {"code_bytes": 24},
        {"code_bytes": 1 << 20}, {"entries": 0}, {"entries": 11}, {"neighbors": few}, {"neighbors": iter([few, few])},
        {"codes": narrow},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            change(collection, lambda session, bad=bad: graph.write_graph(session, **good | bad))
    with collection._file.snapshot() as state:
        assert state.header.graph is None
    change(collection, lambda session: graph.write_graph(session, **good))
    assert collection.verify().ok


# -- replacing


def test_readers_keep_the_graph_they_began_with(opened: Any) -> None:
    collection = filled(opened)
    first = change(collection, lambda session: some_graph(session, 1), stage_bytes=1)
    with collection._file.snapshot() as old:
        stamp = old.header.graph.stamp
        for seed in range(2, 8):
            newer = change(collection, lambda session, seed=seed: some_graph(session, seed), stage_bytes=1)
        check_written(old, first, size=50)
        with collection._file.snapshot() as new:
            check_written(new, newer)
            assert new.header.graph.stamp != stamp
        change(collection, graph.drop_graph)
        check_written(old, first, size=50)
    with collection._file.snapshot() as state:
        assert state.header.graph is None
        for kind in keys.GRAPH_KINDS:
            assert not state.present(kind).any()
    assert collection.verify().ok


def test_numbers_do_not_grow_with_rebuilds(opened: Any, path: str) -> None:
    collection = filled(opened, 5000)
    counts: list[dict[int, int]] = []
    firsts = []
    for _ in range(12):
        change(collection, lambda session: some_graph(session, 3), stage_bytes=1)
        with collection._file.snapshot() as state:
            counts.append({kind: state.header.counts[kind] for kind in keys.GRAPH_KINDS})
            firsts.append(state.header.graph.graph_first)
        assert collection.verify().ok
    assert counts[-1] == counts[2]
    assert firsts[::2] == [0] * 6
    assert len(set(firsts[1::2])) == 1


def test_staged_blocks_are_nobodys_until_the_commit(opened: Any) -> None:
    """Neither the new ones nor their absence shows; the next writer drops what a failed one left."""
    collection = filled(opened, 5000)
    for seed in (1, 2, 3):  # the third takes numbers below the counts again
        written = change(collection, lambda session, seed=seed: some_graph(session, seed), stage_bytes=1)
        with collection._file.writing(5.0):
            session = Session(collection._file, stage_bytes=1)
            some_graph(session, 50 + seed)
            with collection._file.snapshot() as state:
                assert state.header.staged
                check_written(state, written)
            session.close()
        assert collection.verify().ok
        with collection._file.snapshot() as state:
            check_written(state, written)
            blocks = sum(leaf.keys.size for leaf in state.pages.leaves())
        collection.add(f"after {seed}", [1, 2, 3, 4])
        with collection._file.snapshot() as state:
            assert not state.header.staged
            assert sum(leaf.keys.size for leaf in state.pages.leaves()) < blocks
        assert collection.verify().ok


def test_a_large_graph_is_written_quickly_in_little_memory(opened: Any) -> None:
    nodes, degree, width = 400_000, 47, 64
    collection = opened(dim=8, dtype="binary", durability="none")
    collection.add(range(nodes), np.ones((nodes, 1), dtype=np.uint8))
    dispatch.expect_many_checksums()
    steps = np.arange(1, degree + 1)

    def rows() -> Iterator[Any]:
        for first in range(0, nodes, 50_000):
            yield ((np.arange(first, first + 50_000)[:, None] + steps) % nodes).astype(np.uint32)

    def codes() -> Iterator[Any]:
        for _ in range(0, nodes, 50_000):
            yield np.ones((50_000, width), dtype=np.uint8)

    most = 0

    def do(session: Session) -> None:
        stage = session.stage

        def counted() -> None:
            nonlocal most
            most = max(most, sum(block.size for block in session._dirty.values()))
            stage()

        session.stage = counted  # type: ignore[method-assign]
        graph.write_graph(
            session, slots=np.arange(nodes), neighbors=rows(), codes=codes(), index=b"\x80",
            degree=degree, code_bytes=width, codec="x", entries=1, seed=0,
        )  # fmt: skip

    times = []
    for _ in range(3):
        begun = time.perf_counter()
        change(collection, do, stage_bytes=16 << 20)
        times.append(time.perf_counter() - begun)
    assert most <= (16 << 20) + (9 << 20)
    assert min(times) < 2, times  # 0.3 s on an idle machine
    with collection._file.snapshot() as state:
        first, count = state.header.graph.blocks(state.layout)[keys.GRAPH]
        begun = time.perf_counter()
        table = state.lazy(keys.GRAPH, first, count)
        assert time.perf_counter() - begun < 0.1  # 0.003 s on an idle machine
        assert table.addresses.size == 19_048


# -- what is linked


def test_deletions_and_insertions_are_followed(opened: Any) -> None:
    collection = filled(opened, 300)
    change(collection, lambda session: some_graph(session, 1))
    rng = np.random.default_rng(2)
    linked = set(range(300))
    for step in range(60):
        ids = [record.id for record in collection.scan(vectors=False)]
        some = [ids[place] for place in rng.permutation(len(ids))[:5]]
        draw = rng.integers(6)
        if draw == 0:
            collection.delete(some)
            linked.difference_update(some)
        elif draw == 1:
            collection.upsert(some, rng.standard_normal((len(some), 4)))
            linked.difference_update(some)
        elif draw == 2:
            collection.update(some, [{"step": step}] * len(some))
        elif draw == 3:
            collection.upsert(some, np.stack([collection[one].vector for one in some]), [{"again": step}] * len(some))
        elif draw == 4:
            collection.add([1000 + 10 * step + n for n in range(7)], rng.standard_normal((7, 4)))
        else:
            with collection.transaction():
                collection.delete(some[:2])
                collection.add(some[0], [1, 2, 3, 4])
                linked.difference_update(some[:2])
        check_linked(collection, linked)
    written = change(collection, lambda session: some_graph(session, 2))
    assert written["slots"].size == len(collection)
    check_linked(collection, {record.id for record in collection})


def check_linked(collection: vecstore.Collection, linked: set[Any]) -> None:
    ids = [record.id for record in collection.scan(vectors=False)]
    with collection._file.snapshot() as state:
        live, mask = live_mask(state), linked_mask(state)
        assert mask.size == live.size == state.header.slots
        assert {one for one, bit in zip(ids, mask[live > 0].tolist(), strict=True) if bit} == linked
        np.testing.assert_array_equal(pending_slots(state), np.flatnonzero(live & (1 - mask)))
        assert pending_slots(state) is pending_slots(state)
    assert collection.stats()["pending"] == len(ids) - len(linked)
    assert collection.verify(raise_on_error=True).ok


def test_what_a_purge_moves_keeps_its_node(opened: Any) -> None:
    collection = filled(opened, 6000, dim=64)
    change(collection, lambda session: some_graph(session, 1))
    gone = [n for n in range(6000) if n % 10 < 4]
    collection.delete(gone)
    stats = collection.stats()
    assert stats["count"] == 3600
    assert stats["pending"] == 0
    with collection._file.snapshot() as state:
        slots = graph.graph_slots(state)
        assert np.array_equal(np.sort(slots[slots != NONE]), np.flatnonzero(live_mask(state)))
    assert collection.verify().ok


def test_slots_stay_as_long_as_a_row_names_them(opened: Any) -> None:
    """No row of the graph names a slot that does not exist, though all records behind it are gone."""
    collection = filled(opened, 100)
    change(collection, lambda session: some_graph(session, 1))
    collection.delete(range(50, 100))
    with collection._file.snapshot() as state:
        assert state.header.slots == 100
    collection.delete(range(50))
    assert collection.verify().ok
    assert collection.stats()["pending"] == 0
    collection.add(range(200, 230), np.ones((30, 4)))
    with collection._file.snapshot() as state:
        assert state.header.slots == 130
        assert pending_slots(state).tolist() == list(range(100, 130))
    assert collection.verify().ok
    change(collection, graph.drop_graph)
    collection.delete(range(210, 230))
    with collection._file.snapshot() as state:
        assert state.header.slots == 110
    assert collection.verify().ok


def test_only_some_nodes_may_be_linked(opened: Any) -> None:
    """Records that were replaced while the graph was built have rows, and wait for the next one."""
    collection = filled(opened, 50)
    linked = np.arange(50) % 3 > 0
    slots = np.arange(50)
    slots[7] = NONE
    change(
        collection,
        lambda session: graph.write_graph(
            session, slots=slots, neighbors=np.full((50, 2), NONE, dtype=np.uint32), codes=np.zeros((50, 16), dtype=np.uint8),
            index=b"\x80", degree=2, code_bytes=16, codec="x", entries=1, seed=1, built=40, linked=linked,
        ),
    )  # fmt: skip
    with collection._file.snapshot() as state:
        expected = linked.astype(np.uint8)
        expected[7] = 0
        np.testing.assert_array_equal(linked_mask(state), expected)
        assert state.header.graph.built == 40
    assert collection.verify().ok


# -- copies


@pytest.mark.parametrize("copy", ["compact", "backup"])
def test_copies_keep_the_graph(opened: Any, path: str, copy: str) -> None:
    collection = filled(opened, 2000)
    written = change(collection, lambda session: some_graph(session, 4))
    collection.delete(range(0, 2000, 7))
    collection.upsert([1, 2, 3], np.ones((3, 4)))
    collection.add(range(5000, 5100), np.ones((100, 4)))
    pending, count = collection.stats()["pending"], len(collection)
    with collection._file.snapshot() as state:
        before = state.header.graph
        names = names_of_nodes(collection, state)
    if copy == "backup":
        collection.backup(path + ".copy")
        collection = opened(path + ".copy", mode="r")
    else:
        collection.compact()
    assert collection.verify(raise_on_error=True).records == count
    assert collection.stats()["pending"] == pending
    with collection._file.snapshot() as state:
        after = state.header.graph
        assert state.header.slots == count
        same = {"slots": 0, "stamp": 0, "graph_first": 0, "codes_first": 0, "index_first": 0}
        assert asdict(after) | same == asdict(before) | same
        assert after.stamp != before.stamp
        assert graph.read_index(state) == written["index"]
        np.testing.assert_array_equal(graph.graph_rows(state, 0, 2000)[1], written["neighbors"])
        np.testing.assert_array_equal(graph.code_rows(state, 0, 2000), written["codes"])
        assert names_of_nodes(collection, state) == names
        assert (graph.graph_slots(state) == NONE).any()


def names_of_nodes(collection: vecstore.Collection, state: Any) -> list[Any]:
    """The id of each node's record, None where it is gone or has another vector now."""
    ids = dict(zip(np.flatnonzero(live_mask(state)).tolist(), [one.id for one in collection], strict=True))
    mask = linked_mask(state)
    slots = graph.graph_slots(state).tolist()
    return [ids[slot] if slot < mask.size and mask[slot] else None for slot in slots]


def test_a_graph_of_nobody_is_not_copied(opened: Any) -> None:
    collection = filled(opened, 20)
    change(collection, lambda session: some_graph(session, 4))
    collection.upsert(range(20), np.ones((20, 4)))
    collection.compact()
    assert collection.stats()["nodes"] == 0
    assert collection.verify().ok


# -- old files


def test_a_file_of_format_1_becomes_one_of_today_when_written(tmp_path: Path) -> None:
    source = FIXTURES / "format-1" / "l2-float32.vec"
    path = tmp_path / "old.vec"
    shutil.copy(source, path)
    with vecstore.open(path, mode="r") as reader:
        assert reader.stats()["format_version"] == 1
        assert reader.stats()["blocks"]["graph"] == 0
        assert reader.verify().ok
        with reader._file.snapshot() as state:
            assert state.header.graph is None
            assert linked_mask(state).sum() == 0
    assert path.read_bytes() == source.read_bytes()
    with vecstore.open(path) as writer:
        assert writer.stats()["format_version"] == 1
        writer.delete("never there")
    assert path.read_bytes() == source.read_bytes()
    with vecstore.open(path) as writer:
        writer.update("img-1", {"later": 1})
        assert writer.stats()["format_version"] == FORMAT_VERSION
        written = change(writer, lambda session: some_graph(session, 1))
        with writer._file.snapshot() as state:
            check_written(state, written)
        assert writer.verify().ok


@pytest.mark.parametrize("change_it", ["graph", "compact", "staged"])
def test_any_write_makes_it_one_of_today(tmp_path: Path, change_it: str) -> None:
    path = tmp_path / "old.vec"
    shutil.copy(FIXTURES / "format-1" / "cosine-float16.vec", path)
    with vecstore.open(path) as writer:
        if change_it == "graph":
            change(writer, lambda session: some_graph(session, 1))
        elif change_it == "compact":
            writer.compact()
        else:
            with writer._file.writing(5.0):
                session = Session(writer._file, stage_bytes=1)
                some_graph(session, 1)
                session.close()
        assert writer.stats()["format_version"] == FORMAT_VERSION
        assert writer.verify().ok


def test_the_fixture_has_a_graph_with_all_that_can_be_in_one() -> None:
    for path in sorted((FIXTURES / f"format-{FORMAT_VERSION}").glob("*.vec")):
        with vecstore.open(path, mode="r") as fixture:
            stats = fixture.stats()
            assert (stats["nodes"], stats["graph_degree"], stats["codec"]) == (25, 6, "fixture")
            assert stats["pending"] == 1
            with fixture._file.snapshot() as state:
                assert msgpack.unpackb(graph.read_index(state)) == {"entries": [0]}
                assert linked_mask(state).sum() == 23
                np.testing.assert_array_equal(graph.graph_rows(state, 1, 1)[1], [[0, 2, NONE, NONE, NONE, NONE]])
            assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["records"]
        Path(f"{path}-lock").unlink(missing_ok=True)


# -- hostile headers


def header_with(**changes: Any) -> Any:
    """A block of a header whose graph says this."""
    settings = vecstore.config.check_settings(5, "l2", "float32")
    header = Header(settings, uuid=b"u" * 16, seed=1, created=1.5, slots=9, records=8)
    good = GraphHeader(nodes=8, degree=4, code_bytes=16, codec="x", entries=1, index_bytes=5, built=8, slots=9, seed=1, stamp=1)
    header.graph = replace(good, **changes)
    return write_header(header, 4096)


@pytest.mark.parametrize(
    "changes",
    [
        {name: value}
        for name in ("nodes", "degree", "code_bytes", "entries", "index_bytes", "built", "slots", "seed", "stamp", "graph_first")
        for value in (None, -1, 1.5, True, "1", 1 << 63, [])
        if not (name in ("seed", "stamp") and value == 1 << 63)
    ]
    + [{"codec": value} for value in (None, "", "x" * 33, b"x", 4)]
    + [{"nodes": 0}, {"degree": 0}, {"degree": 256}, {"code_bytes": 0}, {"code_bytes": 8}, {"code_bytes": 24}]
    + [{"entries": 0}, {"entries": 9}, {"index_bytes": 0}, {"slots": 0}, {"slots": 10}],
)
def test_a_header_that_lies_about_its_graph_is_damage(changes: dict[str, Any]) -> None:
    assert read_header(header_with(), 100).graph is not None
    with pytest.raises(CorruptionError):
        read_header(header_with(**changes), 100)


@pytest.mark.parametrize("content", [[], 5, "graph", {}, {"nodes": 5}])
def test_a_header_whose_graph_is_none_is_damage(content: Any) -> None:
    block = header_with()
    size = int.from_bytes(block[28:32].tobytes(), "little")
    fields = msgpack.unpackb(block[HEAD_BYTES : HEAD_BYTES + size].tobytes())
    fields["graph"] = content
    packed = msgpack.packb(fields)
    block[HEAD_BYTES : HEAD_BYTES + len(packed)] = np.frombuffer(packed, dtype=np.uint8)
    block[28:32] = np.frombuffer(len(packed).to_bytes(4, "little"), dtype=np.uint8)
    with pytest.raises(CorruptionError):
        read_header(block, 100)


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 101_000}, {"degree": 255}, {"code_bytes": 1 << 20}, {"code_bytes": 4096}, {"index_bytes": 1 << 20},
        {"graph_first": 1}, {"codes_first": 1}, {"index_first": 1}, {"graph_first": (1 << 32) - 1},
    ],
)  # fmt: skip
def test_a_graph_larger_than_its_blocks_is_damage(opened: Any, changes: dict[str, Any]) -> None:
    collection = filled(opened, 1000)
    change(
        collection,
        lambda session: graph.write_graph(
            session, slots=np.arange(1000), neighbors=np.full((1000, 20), NONE, dtype=np.uint32),
            codes=np.zeros((1000, 16), dtype=np.uint8), index=b"\x80", degree=20, code_bytes=16, codec="x", entries=1, seed=1,
        ),
    )  # fmt: skip

    def lie(session: Session) -> None:
        session.header.graph = replace(session.header.graph, **changes)  # type: ignore[type-var]
        session.changed = True

    change(collection, lie)
    with pytest.raises(CorruptionError):
        collection.get(1)


def test_an_older_reader_refuses_a_newer_format() -> None:
    settings = vecstore.config.check_settings(5, "l2", "float32")
    header = Header(settings, uuid=b"u" * 16, seed=1, created=1.5, version=FORMAT_VERSION + 1)
    with pytest.raises(FormatVersionError, match="upgrade"):
        read_header(write_header(header, 4096), 100)


# -- what verify finds


@pytest.fixture
def sound(opened: Any) -> vecstore.Collection:
    collection = filled(opened, 300)
    ring = (np.arange(300)[:, None] + np.arange(1, 4)).astype(np.uint32) % 300
    neighbors = np.concatenate((ring, np.full((300, 2), NONE, dtype=np.uint32)), axis=1)

    def do(session: Session) -> None:
        graph.write_graph(
            session, slots=np.arange(300), neighbors=neighbors, codes=np.zeros((300, 16), dtype=np.uint8),
            index=msgpack.packb({"a": 1}), degree=5, code_bytes=16, codec="x", entries=1, seed=1,
        )  # fmt: skip
        graph.add_edges(session, np.array([[7, 9], [3, 1]], dtype=np.uint32))

    change(collection, do)
    collection.delete([5])
    assert collection.verify().ok
    return collection


def edit_word(kind: int, row: int, column: int, value: int) -> Callable[[Session], None]:
    """Change a number in the graph's first block; the checksum stays right."""

    def do(session: Session) -> None:
        block = session.edit(kind, 0)
        payload(block)[24 * row + 4 * column : 24 * row + 4 * column + 4] = np.array([value], dtype="<u4").view(np.uint8)

    return do


def edit_place(kind: int, place: int, value: int) -> Callable[[Session], None]:
    def do(session: Session) -> None:
        payload(session.edit(kind, 0)).view("<u4")[place] = value

    return do


def edit_bit(slot: int) -> Callable[[Session], None]:
    def do(session: Session) -> None:
        payload(session.edit(keys.LINKED, 0))[slot // 8] ^= 1 << slot % 8

    return do


def spoil_index(session: Session) -> None:
    payload(session.edit(keys.INDEX, 0))[0] = 0x91


def free_one(kind: int) -> Callable[[Session], None]:
    return lambda session: session.free(kind, 0)


def add_one(kind: int) -> Callable[[Session], Any]:
    return lambda session: session.create(kind)


LIES: list[tuple[Callable[[Session], Any], str]] = [
    (edit_word(keys.GRAPH, 3, 1, 300), "block graph 0 is wrong: node 3 has a neighbour that does not exist"),
    (edit_word(keys.GRAPH, 3, 2, NONE - 1), "node 3 has a neighbour that does not exist"),
    (edit_word(keys.GRAPH, 3, 1, 3), "node 3 is its own neighbour"),
    (edit_word(keys.GRAPH, 3, 1, NONE), "node 3 has a neighbour behind the end of its row"),
    (edit_place(keys.NODES, 3, 300), "block nodes 0 is damaged: it names a node that does not exist"),
    (edit_place(keys.NODES, 3, 7), "slot 7 has the node of another slot"),
    (edit_place(keys.NODES, 3, NONE), "slot 3 is linked, and no node is its"),
    (edit_place(keys.EDGES, 1, 300), "block edges 0 is wrong: it has an edge from 7 to 300"),
    (edit_place(keys.EDGES, 2, 1), "block edges 0 is wrong: it has an edge from 1 to 1"),
    (edit_bit(5), "block linked 0 is wrong: slot 5 is linked, and not live"),
    (edit_bit(305), "it links slots behind those that there were"),
    (spoil_index, "block index 0 is damaged: its parameters cannot be read"),
    (free_one(keys.GRAPH), "block graph 0 is damaged: it is missing"),
    (free_one(keys.CODES), "block codes 0 is damaged: it is missing"),
    (free_one(keys.INDEX), "block index 0 is damaged: it is missing"),
    (free_one(keys.LINKED), "block linked 0 is damaged: it is missing"),
    (free_one(keys.NODES), "block nodes 0 is damaged: it is missing"),
    (free_one(keys.EDGES), "block edges 0 is damaged: it is missing"),
    (add_one(keys.GRAPH), "block graph 2 is no part of the graph"),
    (add_one(keys.CODES), "block codes 1 is no part of the graph"),
    (add_one(keys.INDEX), "block index 1 is no part of the graph"),
    (add_one(keys.LINKED), "block linked 1 is no part of the graph"),
    (add_one(keys.NODES), "block nodes 1 is no part of the graph"),
    (add_one(keys.EDGES), "block edges 1 is no part of the graph"),
]


@pytest.mark.parametrize("number", range(len(LIES)))
def test_verify_finds_what_contradicts(sound: vecstore.Collection, number: int) -> None:
    lie, problem = LIES[number]
    change(sound, lie)
    problems = sound.verify().problems
    assert any(problem in found for found in problems), problems


def test_a_graph_that_is_left_over_is_found(sound: vecstore.Collection) -> None:
    def forget(session: Session) -> None:
        session.header.graph = None
        session.changed = True

    change(sound, forget)
    assert {"block graph 0 is no part of the graph", "block linked 0 is no part of the graph"} <= set(sound.verify().problems)


def test_a_block_that_no_catalog_lists_is_found(sound: vecstore.Collection) -> None:
    def forget(session: Session) -> None:
        session._set_word(keys.GRAPH, 1, 0)
        session.changed = True

    change(sound, forget)
    assert "block graph 1 is in the file, and nothing names it" in sound.verify().problems


# -- damage


@pytest.mark.parametrize("kind", keys.GRAPH_KINDS)
def test_every_flipped_byte_of_the_graph_is_noticed(sound: vecstore.Collection, path: str, kind: int, tmp_path: Path) -> None:
    with sound._file.snapshot() as state:
        start = state._place(kind, 0) * state.layout.page_bytes
        length = state.layout.length(kind) + PAGE_HEAD_BYTES
    sound.close()
    data = Path(path).read_bytes()
    name = f"block {keys.NAMES[kind]} 0 is damaged"
    for place in [*range(PAGE_HEAD_BYTES), *range(PAGE_HEAD_BYTES, length, max(1, length // 40))]:
        flipped = bytearray(data)
        flipped[start + place] ^= 0x20
        copy = tmp_path / "flipped.vec"
        copy.write_bytes(flipped)
        with vecstore.open(copy, mode="r") as damaged:
            problems = damaged.verify().problems
            unused = 8 <= place < 10  # LMDB's padding
            assert unused or any(name in one or "page" in one for one in problems), place
            assert len(damaged.get(list(range(6, 300)))) == 294


def test_a_damaged_graph_can_be_replaced(sound: vecstore.Collection, path: str) -> None:
    with sound._file.snapshot() as state:
        places = [state._place(kind, 0) * state.layout.page_bytes for kind in keys.GRAPH_KINDS]
    sound.close()
    data = bytearray(Path(path).read_bytes())
    for place in places:
        data[place + 100] ^= 1
    Path(path).write_bytes(data)
    with vecstore.open(path) as damaged:
        assert not damaged.verify().ok
        written = change(damaged, lambda session: some_graph(session, 2))
        assert damaged.verify(raise_on_error=True).ok
        with damaged._file.snapshot() as state:
            check_written(state, written)


# -- lazy tables


def lazy_of(state: Any, kind: int = keys.GRAPH) -> LazyTable:
    table: LazyTable = state.lazy(kind, *state.header.graph.blocks(state.layout)[kind])
    return table


def first_not_whole(table: LazyTable, places: Any = None) -> int:
    from vecstore.kernels.cpu.verify import first_not_whole

    at = np.arange(table.addresses.size) if places is None else np.array(places, dtype=np.int64)
    return int(
        first_not_whole()(
            at, table.addresses, table.generations, table.seen, table.first, table.length, table.kind,
            table.base, table.page_bytes, table.weights,
        )
    )  # fmt: skip


def test_a_lazy_table_reads_nothing(opened: Any, path: str) -> None:
    with filled(opened, 3000) as collection:
        for seed in (1, 2):
            change(collection, lambda session, seed=seed: some_graph(session, seed))
    collection = opened(path, mode="r")
    with collection._file.snapshot() as state:
        for kind in (keys.GRAPH, keys.CODES, keys.INDEX, keys.LINKED):
            first, count = state.header.graph.blocks(state.layout)[kind]
            table = lazy_of(state, kind)
            assert table is lazy_of(state, kind)
            assert (table.first, table.length, table.addresses.size) == (first, state.layout.length(kind), count)
            assert not table.seen.any()
            assert first_not_whole(table, [count - 1]) == -1
            assert np.flatnonzero(table.seen).tolist() == [count - 1]
            assert first_not_whole(table) == -1
            np.testing.assert_array_equal(table.seen, table.generations)
            numbers = np.arange(first, first + count)
            apart = state.addresses(kind, numbers) - np.uint64(state._scanned.address)
            np.testing.assert_array_equal(table.addresses - np.uint64(table.base), apart)
            np.testing.assert_array_equal(table.generations, state.entries(kind, first, first + count) >> np.uint64(16))
            # What one way of reading has checked, the other does not check again.
            np.testing.assert_array_equal(state.checked.seen(kind, first + count)[numbers], table.generations)


def test_a_whole_verification_begins_anew(opened: Any) -> None:
    collection = filled(opened, 500)
    change(collection, lambda session: some_graph(session, 1))
    with collection._file.snapshot() as state:
        table = lazy_of(state)
        assert first_not_whole(table) == -1
    assert collection.verify().ok
    with collection._file.snapshot() as state:
        assert lazy_of(state) is not table


def test_a_missing_block_is_noticed_at_once(sound: vecstore.Collection) -> None:
    change(sound, free_one(keys.GRAPH))
    with sound._file.snapshot() as state:
        with pytest.raises(CorruptionError, match="block graph 0 is damaged: it is missing"):
            lazy_of(state)
        with pytest.raises(CorruptionError, match="it is missing"):
            state.lazy(keys.GRAPH, 0, 3)
        table = state.lazy(keys.GRAPH, 0, 2, gaps=True)
        assert table.addresses[0] == 0
        assert first_not_whole(table, [1]) == -1
        assert first_not_whole(table, [1, 0]) == 1
        assert not table.seen[0]
        with pytest.raises(CorruptionError):
            lazy_of(state)
        assert first_not_whole(table, [1, -1]) == first_not_whole(table, [1, 2]) == 1


def test_a_listed_block_that_the_tree_lacks_is_noticed(sound: vecstore.Collection) -> None:
    def lose(session: Session) -> None:
        session._freed.add(keys.order(keys.GRAPH, 1))
        session.changed = True

    change(sound, lose)
    with sound._file.snapshot() as state:
        for gaps in (False, True):
            with pytest.raises(CorruptionError, match="block graph 1 is damaged: it is missing"):
                state.lazy(keys.GRAPH, 0, 2, gaps=gaps)


PAGE = 4096


def by_hand(kind: int = keys.GRAPH, number: int = 1, generation: int = 9, pages: int = 1) -> tuple[Any, LazyTable]:
    """A file's bytes with one block on its third page, and the table that speaks of it."""
    memory = np.zeros((3 + pages) * PAGE, dtype=np.uint8)
    length = pages * PAGE - PAGE_HEAD_BYTES
    block = new_block(kind, number, length)
    payload(block)[:] = np.random.default_rng(0).integers(0, 256, length - HEAD_BYTES, dtype=np.uint8)
    seal(block, generation)
    memory[3 * PAGE + PAGE_HEAD_BYTES :] = block
    memory[3 * PAGE : 3 * PAGE + 8].view("<u8")[0] = 3
    memory[3 * PAGE + 10] = 4
    memory[3 * PAGE + 12 : 3 * PAGE + 16].view("<u4")[0] = pages
    base = memory.ctypes.data
    numbers = (np.array([value], dtype=np.uint64) for value in (base + 3 * PAGE + PAGE_HEAD_BYTES, 9, 0))
    return memory, LazyTable(keys.GRAPH, 1, length, base, PAGE, *numbers, mapping=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("pages", [1, 4])
def test_a_kernel_finds_every_flipped_byte(pages: int) -> None:
    memory, table = by_hand(pages=pages)
    assert first_not_whole(table) == -1
    assert table.seen[0] == 9
    for place in range(3 * PAGE, memory.size):
        table.seen[0] = 0
        memory[place] ^= 0x10
        padding = 3 * PAGE + 8 <= place < 3 * PAGE + 10
        assert (first_not_whole(table) == -1) == padding, place
        assert (table.seen[0] == 9) == padding
        memory[place] ^= 0x10
    assert first_not_whole(table) == -1


def test_a_kernel_finds_what_is_misplaced_or_stale() -> None:
    for wrong in ({"kind": keys.CODES}, {"number": 2}, {"generation": 8}, {"generation": 10}):
        memory, table = by_hand(**wrong)
        assert first_not_whole(table) == 0, wrong
        assert memory.size
    memory, table = by_hand()
    assert first_not_whole(replace(table, base=table.base - PAGE)) == 0
    assert first_not_whole(replace(table, length=2 * PAGE - PAGE_HEAD_BYTES)) == 0
    assert first_not_whole(replace(table, first=2)) == 0
    assert first_not_whole(replace(table, page_bytes=2 * PAGE)) == 0
    assert first_not_whole(table) == -1
    # What was seen is not looked at again.
    memory[:] = 0
    assert first_not_whole(table) == -1
    table.seen[0] = 8
    assert first_not_whole(table) == 0


def test_the_kernel_and_the_plain_path_agree(sound: vecstore.Collection, path: str, tmp_path: Path) -> None:
    with sound._file.snapshot() as state:
        start = state._place(keys.GRAPH, 1) * state.layout.page_bytes
    sound.close()
    data = Path(path).read_bytes()
    for place in [0, 3, 10, 12, 16, 20, 24, 32, 40, 44, 56, 64, 100, 4000]:
        flipped = bytearray(data)
        flipped[start + place] ^= 1
        copy = tmp_path / f"{place}.vec"
        copy.write_bytes(flipped)
        with vecstore.open(copy, mode="r") as damaged, damaged._file.snapshot() as state:
            assert first_not_whole(lazy_of(state)) == 1
            with pytest.raises(CorruptionError):
                state.block(keys.GRAPH, 1)
