"""Searches for one vector, which take no snapshot while nothing was committed: they see what others did all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config
from vecstore.storage.file import File

COUNT = 600


@pytest.fixture(autouse=True)
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)


def vectors(count: int = COUNT, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


DATA = vectors()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "glance.vec")


@pytest.fixture
def c(path: str) -> Iterator[vecstore.Collection]:
    """A collection with a graph, in which the next search for one vector takes no snapshot."""
    with vecstore.open(path, dim=24, metric="l2") as collection:
        collection.add(np.arange(COUNT), DATA, [{"n": 0}] * COUNT)
        collection.search(DATA[0], k=5)
        yield collection


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each snapshot that is taken from now on."""
    taken: list[str] = []
    plain = File.snapshot

    def counted(self: File, *kept: Any) -> Any:
        taken.append(self.path)
        return plain(self, *kept)

    monkeypatch.setattr(File, "snapshot", counted)
    return taken


def elsewhere(program: str, path: str) -> None:
    """Do this in another process."""
    head = "import sys\nimport vecstore\nwith vecstore.open(sys.argv[1]) as c:\n"
    code = head + textwrap.indent(textwrap.dedent(program), "    ")
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)


# -- the same answers


@pytest.mark.parametrize(
    ("metric", "dtype"), [(m, d) for d in config.DTYPES for m in config.METRICS_BY_DTYPE[d]]
)
def test_one_vector_finds_what_a_batch_finds(tmp_path: Path, metric: str, dtype: str, snapshots: list[str]) -> None:
    data, queries = vectors(), vectors(20, seed=1)
    if dtype in ("uint8", "int8"):
        low = 0 if dtype == "uint8" else -128
        data, queries = (np.clip(np.round(x * 30 + 128 + low), low, low + 255) for x in (data, queries))
    if dtype == "binary":
        data, queries = data > 0, queries > 0
    with vecstore.open(tmp_path / "c.vec", dim=24, metric=metric, dtype=dtype) as c:
        c.add([f"r{n}" for n in range(COUNT)], data, [{"n": n} for n in range(COUNT)])
        batch = c.search(queries, k=7, search_list=60)
        snapshots.clear()
        for query, expected in zip(queries, batch, strict=True):
            assert c.search(query, k=7, search_list=60) == expected
        for query, expected in zip(queries.tolist(), batch, strict=True):
            assert c.search(query, k=7, search_list=60) == expected
        assert snapshots == []


def test_all_ways_of_asking_are_told_apart(c: vecstore.Collection) -> None:
    query = vectors(1, seed=2)
    for asked in ({"k": 3}, {"k": 8}, {"k": 8, "recall": 0.5}, {"k": 8, "search_list": 40}, {"search_list": 60}) * 2:
        assert c.search(query[0], **asked) == c.search(query, **asked)[0]
    for k in range(1, 60):
        assert len(c.search(query[0], k=k)) == k


def test_records_that_are_gone_are_no_answers(c: vecstore.Collection) -> None:
    gone = c.search(DATA[3], k=40).ids
    c.delete(gone)
    for _ in range(2):
        found = c.search(DATA[3], k=10)
        assert len(found) == 10
        assert not set(found.ids) & set(gone)


def test_pending_records_are_found(c: vecstore.Collection) -> None:
    for n in range(3):
        c.add(f"new{n}", DATA[5])
        assert f"new{n}" in c.search(DATA[5], k=5).ids


# -- what must not be searched for


@pytest.mark.parametrize("asked", [{}, {"where": {"n": {"$exists": False}}}], ids=["all", "filtered"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_what_is_no_query_is_refused_as_ever(tmp_path: Path, metric: str, asked: dict[str, Any]) -> None:
    with vecstore.open(tmp_path / "c.vec", dim=24, metric=metric) as c:
        c.add(np.arange(COUNT), DATA)
        for _ in range(2):
            c.search(DATA[0], **asked)
            for wrong in (np.nan, np.inf, -np.inf):
                query = DATA[0].copy()
                query[17] = wrong
                with pytest.raises(vecstore.InvalidVectorError):
                    c.search(query, **asked)
            for length in (0, 23, 25):
                with pytest.raises(vecstore.DimensionError):
                    c.search(np.ones(length, dtype=np.float32), **asked)
            if metric == "cosine":
                with pytest.raises(vecstore.InvalidVectorError, match="zero"):
                    c.search(np.zeros(24, dtype=np.float32), **asked)
        # Large and small, and still numbers.
        for scale in (1e30, 1e-30):
            query = DATA[:1] * np.float32(scale)
            assert c.search(query[0], **asked) == c.search(query, **asked)[0]
        twisted = np.asfortranarray(np.stack([DATA[1], DATA[2]], axis=1))[:, 0]
        strided = np.repeat(DATA[1], 2)[::2]
        crooked = np.frombuffer(b" " + DATA[1].tobytes(), dtype=np.float32, offset=1)
        for query in (twisted, strided, crooked, crooked[None], DATA[1].astype(">f4"), DATA[1].tolist()):
            found = c.search(query, **asked)
            assert (found if isinstance(found, vecstore.Hits) else found[0]).ids == c.search(DATA[1], **asked).ids


def test_a_closed_collection_says_so(c: vecstore.Collection) -> None:
    c.close()
    with pytest.raises(vecstore.ClosedError):
        c.search(DATA[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_says_so(c: vecstore.Collection) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            c.search(DATA[0])
        except vecstore.ForkError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert c.search(DATA[0], k=1).ids == [0]


# -- what others commit


def test_nothing_is_registered_while_nothing_changes(c: vecstore.Collection, snapshots: list[str]) -> None:
    for query in DATA[:50]:
        c.search(query)
    assert snapshots == []
    assert c._file.readers() == []


def test_the_next_search_sees_what_another_process_wrote(
    c: vecstore.Collection, path: str, snapshots: list[str]
) -> None:
    for n in range(1, 4):
        elsewhere(f"c.update(11, {{'n': {n}}})", path)
        assert c.search(DATA[11], k=1)[0].metadata == {"n": n}
        snapshots.clear()
        assert c.search(DATA[11], k=1)[0].metadata == {"n": n}
        assert snapshots == []
    elsewhere("c.delete(11)", path)
    assert c.search(DATA[11], k=1).ids != [11]


def test_the_next_search_sees_the_file_that_a_compaction_put_there(
    c: vecstore.Collection, path: str, snapshots: list[str]
) -> None:
    elsewhere("c.delete(list(range(100, 200))); c.compact(); c.update(11, {'n': 1})", path)
    assert c.search(DATA[11], k=1)[0].metadata == {"n": 1}
    c.search(DATA[0])
    snapshots.clear()
    assert c.search(DATA[0], k=1).ids == [0]
    assert snapshots == []


def test_a_file_that_went_is_missed(c: vecstore.Collection, path: str) -> None:
    os.unlink(path)
    with pytest.raises(vecstore.CollectionNotFoundError):
        c.search(DATA[0])


def test_a_backup_put_in_place_is_searched(c: vecstore.Collection, path: str) -> None:
    c.backup(path + "2")
    with vecstore.open(path + "2") as other:
        other.update(5, {"n": 5})
    assert c.search(DATA[5], k=1)[0].metadata == {"n": 0}
    shutil.move(path + "2", path)
    assert c.search(DATA[5], k=1)[0].metadata == {"n": 5}


def test_a_search_that_a_commit_overtakes_begins_anew(
    c: vecstore.Collection, path: str, monkeypatch: pytest.MonkeyPatch, snapshots: list[str]
) -> None:
    walk = c._planner.answer_one

    def overtaken(*arguments: Any) -> Any:
        found = walk(*arguments)
        elsewhere("c.update(11, {'n': 1})", path)
        return found

    monkeypatch.setattr(c._planner, "answer_one", overtaken)
    assert c.search(DATA[11], k=1)[0].metadata == {"n": 1}
    assert len(snapshots) == 1


def test_damage_that_a_commit_made_is_none(
    c: vecstore.Collection, monkeypatch: pytest.MonkeyPatch, snapshots: list[str]
) -> None:
    def torn(*_: object) -> Any:
        raise vecstore.CorruptionError("a page that was written to meanwhile")

    monkeypatch.setattr(c._planner, "answer_one", torn)
    assert c.search(DATA[11], k=1).ids == [11]
    assert len(snapshots) == 1


def test_a_transaction_sees_its_own_writes(c: vecstore.Collection) -> None:
    with c.transaction():
        c.update(11, {"n": 1})
        assert c.search(DATA[11], k=1)[0].metadata == {"n": 1}
        c.add("twin", DATA[11])
        assert set(c.search(DATA[11], k=2).ids) == {11, "twin"}
    assert set(c.search(DATA[11], k=2).ids) == {11, "twin"}


def test_threads_search_while_another_writes(c: vecstore.Collection) -> None:
    expected = {n: c.search(DATA[n], k=3).distances.tolist() for n in range(40)}
    failures: list[object] = []
    done = threading.Event()
    newest = 0

    def reads(first: int) -> None:
        try:
            while not done.is_set():
                for n in range(first, 40, 3):
                    least = newest
                    found = c.search(DATA[n], k=3)
                    assert found.distances.tolist() == expected[n]
                    assert found[0].id == n
                    assert found[0].metadata["n"] >= least
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=reads, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for n in range(1, 60):
        c.update(list(range(40)), [{"n": n}] * 40)
        newest = n
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
