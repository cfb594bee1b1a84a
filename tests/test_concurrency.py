"""Many processes and threads on one file: every answer is some committed state, and nobody is in the way.

Each commit rewrites every record with the commit's own number, so that a reader can tell a torn state from a
whole one. VECSTORE_LONG_SECONDS makes the long test longer than the few seconds of a usual run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import vecstore

SECONDS = float(os.environ.get("VECSTORE_LONG_SECONDS", "5"))
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Run a program beside this one; `path` and the arguments are its argv."""
    running: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: object) -> subprocess.Popen[str]:
        head = "import sys, os, time, signal, threading\nimport numpy as np\nimport vecstore\npath = sys.argv[1]\n"
        process = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """Its output; fails with its traceback if it failed."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        pytest.fail(f"it did not end within {seconds} s\n{output}\n{errors}")
    assert process.returncode == 0, f"{output}\n{errors}"
    return output


def until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line == word, line + process.communicate()[1]


def say(process: subprocess.Popen[str]) -> None:
    """Let a program that waits for a line go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


WRITER = """
    seconds, compacting = float(sys.argv[2]), sys.argv[3] == "compacting"
    rng = np.random.default_rng(0)
    end, g = time.monotonic() + seconds, 0
    with vecstore.open(path, timeout=30) as c:
        while time.monotonic() < end:
            g += 1
            count = 100 + min(g * 10, 3000)
            vectors = np.full((count, 16), g, dtype=np.float32)
            vectors[:, 0] = np.arange(count)
            ids = [f"t{n}" if n % 3 else n for n in range(count)]
            data = [{"g": g, "count": count, "pad": "x" * int(rng.integers(0, 300))} for _ in ids]
            data[5]["pad"] = "y" * 30_000
            with c.transaction():
                if g % 3 == 0:
                    assert c.delete(where={"g": g - 1})
                c.upsert(ids, vectors, data)
                if g % 4 == 0:
                    half = [id_ for id_ in ids if rng.random() < 0.5]
                    c.delete(half)
                    c.update([id_ for id_ in ids if id_ not in set(half)], [{"count": count - len(half)}] * (count - len(half)))
            if compacting and g % 7 == 0:
                c.compact()
    print(g)
"""

READER = """
    end, reads, last = time.monotonic() + float(sys.argv[2]), 0, 0
    c = vecstore.open(path, mode="r")
    while time.monotonic() < end:
        records = list(c.scan(batch_size=64))
        gs = {r.metadata["g"] for r in records}
        assert len(gs) <= 1, gs
        if records:
            g = gs.pop()
            assert g >= last, (g, last)
            last = g
            assert {r.metadata["count"] for r in records} == {len(records)}
            assert all((r.vector[1:] == g).all() for r in records)
        hits = c.search(np.zeros(16), k=50)
        assert len({hit.metadata["g"] for hit in hits}) <= 1
        if len(hits):
            g = hits[0].metadata["g"]
            assert g >= last
            last = g
            for hit in hits:
                n = int(hit.id[1:]) if isinstance(hit.id, str) else hit.id
                assert abs(hit.distance - (n * n + 15 * g * g) ** 0.5) < 1e-3 * g, hit
        found = c.search(np.zeros(16), k=9, where={"g": {"$gte": last}})
        assert len(found) in (0, 9) and all(hit.metadata["g"] >= last for hit in found)
        some = [r for r in c.get([0, 3, 6, "t1", "t2", "t4"]) if r]
        assert len({r.metadata["g"] for r in some}) <= 1
        reads += 1
        if reads % 50 == 0:
            c.close()
            c = vecstore.open(path, mode="r")
    assert c.verify().ok
    print(reads)
"""


@pytest.mark.parametrize("compacting", ["growing", "compacting"])
def test_eight_readers_and_a_writer(opened: Any, path: str, start: Start, compacting: str) -> None:
    opened(dim=16, metric="l2", durability="none").close()
    seconds = SECONDS if compacting == "growing" else SECONDS / 2
    writer = start(WRITER, path, seconds, compacting)
    readers = [start(READER, path, seconds) for _ in range(8)]
    reads = [int(finish(reader, 3 * seconds + 60)) for reader in readers]
    commits = int(finish(writer, 3 * seconds + 60))
    assert commits > 3
    assert min(reads) > 0
    with vecstore.open(path) as collection:
        assert collection.verify().problems == ()
        assert collection.stats()["readers"] <= 1


def test_many_writers_take_turns(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    program = """
        name, count = sys.argv[2], 40
        with vecstore.open(path, timeout=60) as c:
            for n in range(count):
                with c.transaction():
                    total = c["total"].metadata["n"] if "total" in c else 0
                    c.upsert("total", [0, 0], {"n": total + 1})
                    c.add(f"{name} {n}", [n, 0])
                if n == 20 and name == "w0":
                    c.compact()
    """
    writers = [start(program, path, f"w{n}") for n in range(4)]
    for writer in writers:
        finish(writer)
    with vecstore.open(path) as collection:
        assert len(collection) == 161
        assert collection["total"].metadata == {"n": 160}
        assert collection.verify().ok


@posix
def test_killed_readers_do_not_make_the_file_grow(opened: Any, path: str, start: Start) -> None:
    collection = opened(dim=64, metric="l2", durability="none")
    rng = np.random.default_rng(0)
    collection.add(range(4000), rng.standard_normal((4000, 64)))

    def write(rounds: int) -> int:
        for _ in range(rounds):
            collection.upsert(rng.permutation(4000)[:2000], rng.standard_normal((2000, 64)))
        return os.path.getsize(path)

    settled = write(12)
    program = """
        c = vecstore.open(path, mode="r")
        records = c.scan(batch_size=10)
        next(records)
        print("ready", flush=True)
        sys.stdin.readline()
    """
    readers = [start(program, path) for _ in range(5)]
    for reader in readers:
        until(reader, "ready")
    assert collection.stats()["readers"] >= 5
    for reader in readers:
        os.kill(reader.pid, signal.SIGKILL)
        reader.wait()
    time.sleep(1.1)  # a writer looks for the dead once in a while
    assert write(60) < 2 * settled
    assert collection.stats()["readers"] <= 1
    assert collection.verify().ok


def test_a_reader_that_stays_keeps_its_snapshot(opened: Any, path: str, start: Start) -> None:
    collection = opened(dim=16, metric="l2", durability="none")
    collection.add(range(3000), np.ones((3000, 16)), [{"v": 0}] * 3000)
    program = """
        c = vecstore.open(path, mode="r")
        records = c.scan(batch_size=10)
        first = next(records)
        print("ready", flush=True)
        sys.stdin.readline()
        rest = list(records)
        assert [r.id for r in (first, *rest)] == list(range(3000))
        assert all(r.metadata == {"v": 0} and (r.vector == 1).all() for r in rest)
        assert len(c) == 63_000 and c[2001].metadata == {"v": 9}
        print("done")
    """
    readers = [start(program, path) for _ in range(2)]
    for reader in readers:
        until(reader, "ready")
    held = collection.scan(batch_size=10)
    next(held)
    for v in range(10):
        collection.upsert(range(3000), np.full((3000, 16), v), [{"v": v}] * 3000)
    collection.delete(range(0, 3000, 2))
    collection.add(range(3000, 63_000), np.zeros((60_000, 16)))
    collection.compact()
    collection.add(range(0, 3000, 2), np.zeros((1500, 16)))
    for reader in readers:
        say(reader)
        assert "done" in finish(reader)
    assert sum(record.metadata == {"v": 0} for record in held) == 2999


# -- the writer's lock


HOLDER = """
    with vecstore.open(path) as c, c.transaction():
        c.add("held", [0, 0])
        print("ready", flush=True)
        sys.stdin.readline()
"""


def test_a_second_writer_waits_or_gives_up(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    holder = start(HOLDER, path)
    until(holder, "ready")
    for timeout in (0, 0.2):
        with vecstore.open(path, timeout=timeout) as impatient:
            begun = time.monotonic()
            with pytest.raises(vecstore.LockedError, match="timeout=") as caught:
                impatient.add("a", [1, 1])
            assert isinstance(caught.value, TimeoutError)
            assert timeout <= time.monotonic() - begun < timeout + 2
            with pytest.raises(vecstore.LockedError):
                impatient.compact()
            assert len(impatient) == 0  # reading goes on
    for timeout in (30, None):
        patient = opened(timeout=timeout)
        added = threading.Thread(target=patient.add, args=(f"patient {timeout}", [1, 1]))
        added.start()
        if timeout == 30:
            time.sleep(0.2)
            assert added.is_alive()
            say(holder)
            finish(holder)
        added.join(20)
        assert not added.is_alive()
        patient.close()
    with vecstore.open(path) as collection:
        assert {record.id for record in collection} == {"held", "patient 30", "patient None"}


@posix
def test_a_killed_writer_leaves_the_lock_free(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    holder = start(HOLDER, path)
    until(holder, "ready")
    holder.kill()
    holder.wait()
    with vecstore.open(path, timeout=5) as collection:
        collection.add("a", [1, 1])
        assert [record.id for record in collection] == ["a"]


def test_a_second_writer_in_a_thread(opened: Any) -> None:
    collection = opened(dim=2, metric="l2", timeout=0.1)
    caught: list[BaseException] = []

    def write() -> None:
        try:
            collection.add("b", [0, 0])
        except vecstore.LockedError as error:
            caught.append(error)

    with collection.transaction():
        collection.add("a", [0, 0])
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(caught) == 1
    write()
    assert len(collection) == 2


# -- threads


def test_threads_share_a_collection(opened: Any) -> None:
    collection = opened(dim=8, metric="l2", durability="none", timeout=60)
    collection.add(range(2000), np.random.default_rng(0).standard_normal((2000, 8)), [{"k": n % 5} for n in range(2000)])
    end = time.monotonic() + min(SECONDS, 60) / 2
    failures: list[BaseException] = []
    commits = [0] * 3

    def watched(work: Callable[..., None], *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                failures.append(error)

        return threading.Thread(target=run)

    def write(name: int) -> None:
        rng = np.random.default_rng(name)
        while time.monotonic() < end:
            v = commits[name] + 1
            with collection.transaction():
                collection.upsert([f"a{name}", f"b{name}"], rng.standard_normal((2, 8)), [{"v": v}, {"v": v}])
                if rng.random() < 0.3:
                    ids = [f"{name} {n}" for n in range(200)]
                    collection.upsert(ids, rng.standard_normal((200, 8)), [{"k": 7}] * 200)
                    if rng.random() < 0.5:
                        collection.delete(ids)
            commits[name] = v

    def read() -> None:
        seen = [0] * 3
        while time.monotonic() < end:
            for name in range(3):
                done = commits[name]
                found = [record for record in collection.get([f"a{name}", f"b{name}"]) if record]
                assert len({record.metadata["v"] for record in found}) <= 1
                if found:
                    assert found[0].metadata["v"] >= max(done, seen[name])
                    seen[name] = found[0].metadata["v"]
            assert len(collection.search(np.zeros(8), k=3000, where={"k": {"$in": [0, 1, 2, 3, 4]}})) == 2000
            assert len(collection.search(np.zeros(8), k=3000, where={"k": 7})) in (0, 200, 400, 600)
            assert len(list(collection.scan(where={"k": 3}, vectors=False))) == 400

    def tidy() -> None:
        while time.monotonic() < end:
            collection.compact()
            time.sleep(0.3)

    threads = [*(watched(write, n) for n in range(3)), *(watched(read) for _ in range(4)), watched(tidy)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert min(commits) > 0
    assert collection.verify().ok


def test_threads_open_and_close(opened: Any, path: str) -> None:
    opened(dim=2, metric="l2").add(range(10), np.zeros((10, 2)))
    failures: list[BaseException] = []

    def work(mode: str) -> None:
        try:
            for n in range(60):
                with vecstore.open(path, mode=mode, timeout=30) as collection:
                    assert len(collection) >= 10
                    if mode == "a" and n % 10 == 0:
                        collection.upsert(n, [n, 0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=("ar"[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# -- forks


@posix
def test_a_fork_opens_its_own(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    program = """
        import gc
        c = vecstore.open(path)
        c.add("parent", [1, 0])
        records = iter(c)
        pid = os.fork()
        if pid == 0:
            calls = [lambda: c.get("parent"), lambda: c.search([0, 0]), lambda: len(c), lambda: list(c),
                     lambda: c.add("x", [0, 0]), lambda: c.transaction().__enter__(), c.compact, c.stats, c.verify]
            for call in calls:
                try:
                    call()
                except vecstore.ForkError as error:
                    assert "open the collection again" in str(error)
                    assert isinstance(error, RuntimeError)
                else:
                    os._exit(3)
            own = vecstore.open(path)
            own.add("child", [0, 1])
            assert len(own) == 2
            c.close()
            del c, records
            gc.collect()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        c.add("later", [2, 0])
        assert [r.id for r in c] == ["parent", "child", "later"]
        assert c.verify().ok
        print("done")
    """
    assert "done" in finish(start(program, path))


@posix
def test_a_fork_inside_a_transaction(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    program = """
        c = vecstore.open(path)
        read, write = os.pipe()
        try:
            with c.transaction():
                c.add("parent", [1, 0])
                pid = os.fork()
                if pid == 0:
                    os.close(write)
        except vecstore.ForkError:
            assert pid == 0
        else:
            assert pid, "a child committed its parent's transaction"
        if pid == 0:
            os.read(read, 1)  # lives on until the parent is done
            os._exit(0)
        # The parent's lock is free again, for itself and for others.
        import subprocess
        code = "import sys, vecstore; vecstore.open(sys.argv[1], timeout=3).add('other', [0, 1])"
        subprocess.run([sys.executable, "-c", code, path], check=True)
        c.add("later", [0, 0])
        assert [r.id for r in c] == ["parent", "other", "later"]
        assert c.verify().ok
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("done")
    """
    assert "done" in finish(start(program, path))


@posix
def test_a_fork_beside_busy_threads(opened: Any, path: str, start: Start) -> None:
    opened(dim=2, metric="l2").close()
    program = """
        c = vecstore.open(path, durability="none")
        c.add(range(100), np.zeros((100, 2)))
        stop = False
        def busy():
            while not stop:
                with vecstore.open(path, mode="r") as own:
                    list(own)
                c.search([0, 0])
        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(25):
            pid = os.fork()
            if pid == 0:
                signal.alarm(15)  # ends a child that hangs
                with vecstore.open(path, timeout=10) as own:
                    assert len(own) >= 100
                    own.upsert(os.getpid(), [0, 0])
                c.close()
                os._exit(0)
            children.append(pid)
            time.sleep(0.01)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        stop = True
        for thread in threads:
            thread.join()
        assert codes == [0] * 25, codes
        assert len(c) == 125 and c.verify().ok
        print("done")
    """
    assert "done" in finish(start(program, path), 90)


# -- the file is put away under an open handle


def test_other_processes_follow_a_compaction(opened: Any, path: str, start: Start) -> None:
    collection = opened(dim=4, metric="l2")
    collection.add(range(5000), np.zeros((5000, 4)), [{"n": n} for n in range(5000)])
    program = """
        c = vecstore.open(path, mode=sys.argv[2])
        assert len(c.search(np.zeros(4), k=9000, where={"n": {"$gte": 0}})) == 5000
        print("ready", flush=True)
        sys.stdin.readline()
        assert len(c.search(np.zeros(4), k=9000, where={"n": {"$gte": 0}})) == 1000
        assert c[4500].metadata == {"n": 4500}
        if sys.argv[2] == "a":
            c.add("from the follower", np.zeros(4))
        print("followed", flush=True)
        sys.stdin.readline()
        assert "third" in c and "from the follower" in c
        assert c.verify().ok
    """
    followers = [start(program, path, mode) for mode in "rar"]
    for follower in followers:
        until(follower, "ready")
    collection.delete(range(4000))
    collection.compact()
    for follower in followers:
        say(follower)
        until(follower, "followed")
    collection.compact()
    collection.compact()
    collection.add("third", np.zeros(4))
    for follower in followers:
        say(follower)
        finish(follower)
    assert len(collection) == 1002


@posix
def test_a_file_that_is_deleted_and_made_anew(opened: Any, path: str, start: Start) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("old", [1, 0])
    program = """
        c = vecstore.open(path, mode=sys.argv[2])
        assert len(c) == 1
        held = iter(c)
        next(held)
        print("ready", flush=True)
        sys.stdin.readline()
        assert list(held) == []
        for call in (lambda: len(c), lambda: c.search([0, 0]), lambda: c.add("x", [0, 0])):
            try:
                call()
            except (vecstore.CollectionNotFoundError, vecstore.ReadOnlyError) as error:
                assert "open" in str(error)
            else:
                raise AssertionError("it went on with a file that is gone")
        with vecstore.open(path) as fresh:
            fresh.add(sys.argv[2], [0, 0, 0])
    """
    others = [start(program, path, mode) for mode in "ar"]
    for other in others:
        until(other, "ready")
    os.unlink(path)
    fresh = opened(dim=3, metric="l2")
    fresh.add("new", [1, 2, 3])
    for other in others:
        say(other)
        finish(other)
    with pytest.raises(vecstore.CollectionNotFoundError):
        collection.get("old")
    assert {record.id for record in fresh} == {"new", "a", "r"}
    assert fresh.verify().ok


@posix
def test_a_backup_put_in_place(opened: Any, path: str, start: Start) -> None:
    """Restoring over an open collection: handles go on with what the path names now."""
    collection = opened(dim=2, metric="l2")
    collection.add("kept", [1, 0])
    collection.backup(path + ".copy")
    for n in range(50):
        collection.add(f"lost {n}", [0, n])
    program = """
        c = vecstore.open(path, mode=sys.argv[2])
        assert len(c) == 51
        print("ready", flush=True)
        sys.stdin.readline()
        assert [r.id for r in c] == ["kept"]
        if sys.argv[2] == "a":
            c.add("after", [0, 1])
    """
    others = [start(program, path, mode) for mode in "ra"]
    for other in others:
        until(other, "ready")
    os.replace(path + ".copy", path)
    assert [record.id for record in collection] == ["kept"]
    for other in others:
        say(other)
        finish(other)
    assert [record.id for record in collection] == ["kept", "after"]
    collection.add("more", [0, 0])
    assert collection.verify().ok


@posix
def test_a_file_put_in_place_and_opened_again_in_one_process(opened: Any, path: str) -> None:
    collection = opened(dim=2, metric="l2")
    collection.add("kept", [1, 0])
    collection.backup(path + ".copy")
    collection.add("lost", [0, 1])
    os.replace(path + ".copy", path)
    again = opened()
    assert [record.id for record in again] == [record.id for record in collection] == ["kept"]
    again.add("more", [0, 0])
    assert len(collection) == 2
    with vecstore.open(path + ".other", dim=3, metric="l2") as other:
        other.add("stranger", [1, 2, 3])
    os.replace(path + ".other", path)
    fresh = opened()
    assert [record.id for record in fresh] == ["stranger"]
    for old in (collection, again):
        with pytest.raises(vecstore.CollectionNotFoundError, match="open it again"):
            old.get("kept")
