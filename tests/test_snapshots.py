"""What a snapshot promises: the newest commit at its beginning, and nothing written over until its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.errors import CollectionNotFoundError, LockedError


def write_elsewhere(path: str, first: int, commits: int) -> None:
    """Another process adds records with ids from ``first``, one a commit."""
    code = (
        "import sys, vecstore\n"
        "with vecstore.open(sys.argv[1]) as c:\n"
        "    for n in range(int(sys.argv[2]), int(sys.argv[3])): c.add(n, [n, 1])\n"
    )
    subprocess.run([sys.executable, "-c", code, path, str(first), str(first + commits)], check=True)


def test_commits_of_others_are_seen_at_once(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    for commits in range(1, 4):
        start = len(collection)
        write_elsewhere(path, start, commits)
        assert collection.search(np.array([start + commits, 1], np.float32), k=1).ids == [start + commits - 1]


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_a_writer_that_did_not_know_of_a_snapshot_is_told_of(opened: Any, path: str, commits: int) -> None:
    collection = opened(dim=2)
    collection.add([100, 101], np.ones((2, 2)))
    snapshot = collection._file.snapshot()
    os.unlink(path + "-lock")
    write_elsewhere(path, 0, commits)
    if commits:
        with pytest.raises(LockedError, match="behind this read's back"):
            snapshot.__exit__(None)
    else:
        snapshot.__exit__(None)
    # The next call takes the new lock file, whether anything was written or not.
    assert len(collection) == 2 + commits
    assert collection._file._now.lock_file == vecstore.storage.opened.identity(path + "-lock")


def test_a_writer_that_knew_of_a_snapshot_is_no_reason(opened: Any, path: str) -> None:
    collection = opened(dim=2)
    collection.add([100, 101], np.ones((2, 2)))
    with collection._file.snapshot() as state:
        write_elsewhere(path, 0, 3)
        assert state.header.records == 2
    assert len(collection) == 5


def test_what_replaced_the_file_is_read_from_the_next_call_on(opened: Any, path: str) -> None:
    collection = opened(dim=2)
    collection.add([1, 2], np.ones((2, 2)))
    hits = collection.search(np.ones(2))
    records = collection.scan(vectors=False)
    assert next(records).id == 1
    code = "import sys, vecstore\nwith vecstore.open(sys.argv[1]) as c: c.add(3, [1, 1]); c.compact()"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    assert collection.search(np.ones(2)).ids == [1, 2, 3]
    assert [record.id for record in records] == [2]
    assert hits.metadata == [{}, {}]
    assert len(collection._file._former) == 0


def test_a_file_that_is_gone_leaves_no_reader(opened: Any, path: str) -> None:
    collection = opened(dim=2)
    collection.add([1, 2], np.ones((2, 2)))
    environment = collection._file._now.environment
    shutil.move(path, path + ".moved")
    for _ in range(3):
        with pytest.raises(CollectionNotFoundError):
            collection.search(np.ones(2))
    assert collection._file._now.active == 0
    assert all(line.rstrip().endswith("-") for line in environment.readers().splitlines()[1:])


def test_a_snapshot_that_is_held_for_long_is_named(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OLD_SNAPSHOT", 5)
    collection = opened(dim=2)
    collection.add(range(10), np.ones((10, 2)))
    records = iter(collection)
    next(records)
    assert collection.stats()["held_snapshots"] == []
    for turn in range(4):
        collection.upsert(1, [turn, 1])
    with pytest.warns(RuntimeWarning, match=rf"process {os.getpid()} has been reading .* for 5 commits"):
        collection.upsert(1, [4, 1])
    for turn in range(5, 9):  # warnings are errors here
        collection.upsert(1, [turn, 1])
    assert collection.stats()["held_snapshots"] == [{"process": os.getpid(), "commits_behind": 9}]
    records.close()
    assert collection.stats()["held_snapshots"] == []


def test_the_oldest_snapshot_is_known_by_its_age(opened: Any) -> None:
    collection = opened(dim=2)
    file = collection._file
    assert file.oldest_snapshot() == 0
    first = file.snapshot()
    time.sleep(0.05)
    with file.snapshot():
        assert file.oldest_snapshot() >= 0.05
        first.close()
        assert file.oldest_snapshot() < 0.05
    first.close()
    assert file.oldest_snapshot() == 0
    file.snapshot()  # let go of at once
    assert file.oldest_snapshot() == file._now.active == 0


def test_threads_share_a_collection(opened: Any) -> None:
    """Searches beside a writer: each sees a whole commit, and no earlier one than it saw before."""
    collection = opened(dim=2, metric="l2")
    collection.add(0, [0, 0])
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        last = 0
        try:
            while not done.is_set():
                hits = collection.search(np.full(2, 1e6, np.float32), k=5)
                newest = max(hits.ids)
                assert newest >= last
                assert hits.metadata == [{"n": id_} if id_ else {} for id_ in hits.ids]
                assert newest % 3 == 0  # each commit has three
                last = newest
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(1, 150, 3):
        collection.add([n, n + 1, n + 2], np.full((3, 2), n), [{"n": m} for m in range(n, n + 3)])
    done.set()
    for reader in readers:
        reader.join()
    assert not failures
