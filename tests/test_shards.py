"""Graphs that are built in shards: as good as those built at once, in the memory there is, and nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vecstore
from vecstore import config
from vecstore.index import build, division, scratch, shards
from vecstore.index.division import Limits, Source
from vecstore.kernels import dispatch

DATA = Path(os.environ.get("VECSTORE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
NONE = np.uint32(0xFFFFFFFF)
PLAN = build.Plan(degree=24, leaf=80, largest_leaf=200, entries=32, seed=3)


def clustered(count: int, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(30, dim))
    found = centres[random.integers(0, 30, count)] + 0.4 * random.normal(size=(count, dim))
    return found.astype(np.float32)


def source_of(vectors: NDArray[np.float32]) -> Source:
    """The vectors as stored rows, whose labels are 7 more than their numbers."""
    rows = vectors.view(np.uint8)
    return Source(
        np.arange(7, 7 + len(vectors), dtype=np.uint32),
        vectors.shape[1],
        rows.shape[1],
        lambda low, high: rows[low:high].copy(),
        lambda stored: stored.view(np.float32),
    )


def link(vectors: NDArray[np.float32], room: int, folder: Path, threads: int = 1) -> dict[str, Any]:
    limits = Limits(room, PLAN, threads, 1 << 16)
    sample = vectors[np.sort(np.random.default_rng(0).permutation(len(vectors))[:2000])]
    told: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        leaders = division.choose_leaders(sample, len(vectors), limits, pool)
        with shards.link(source_of(vectors), leaders, limits, pool, str(folder), told.append) as linked:
            found = {
                "labels": linked.labels(),
                "edges": np.concatenate(list(linked.edges())),
                "vectors": np.concatenate(list(linked.vectors())),
                "table": linked.table().copy(),
                "entries": linked.entries,
                "shards": len(leaders),
                "files": os.listdir(folder),
            }
    assert told == sorted(told)
    assert told[-1] == 1.0
    return found


def reached(edges: NDArray[np.uint32], entries: NDArray[np.uint32]) -> int:
    seen = np.zeros(len(edges), dtype=bool)
    seen[entries] = True
    front = entries.astype(np.int64)
    while front.size:
        following = np.unique(edges[front])
        following = following[following != NONE].astype(np.int64)
        front = following[~seen[following]]
        seen[front] = True
    return int(seen.sum())


def walked(found: dict[str, Any], query: NDArray[np.float32], width: int = 40) -> list[int]:
    """A plain best-first walk over exact distances: the labels of the ten nearest that it meets."""
    vectors, edges = found["vectors"], found["edges"]

    def apart(nodes: NDArray[Any]) -> list[tuple[float, int]]:
        return list(zip(((vectors[nodes] - query) ** 2).sum(axis=1).tolist(), nodes.tolist(), strict=True))

    pool = sorted(apart(found["entries"]))[:width]
    seen, done = {node for _, node in apart(found["entries"])}, set()
    while ahead := [node for _, node in pool if node not in done]:
        done.add(ahead[0])
        row = edges[ahead[0]]
        fresh = np.array([node for node in row[row != NONE].tolist() if node not in seen], dtype=np.int64)
        if fresh.size:
            seen.update(fresh.tolist())
            pool = sorted(pool + apart(fresh))[:width]
    return [int(found["labels"][node]) for _, node in pool[:10]]


# -- the graph


@pytest.mark.parametrize("room", [3000, 900])
def test_every_vector_is_a_node_and_every_node_is_reached(tmp_path: Path, room: int) -> None:
    vectors = clustered(4000)
    found = link(vectors, room, tmp_path)
    assert found["shards"] == -(-8000 // (0.92 * room))
    assert sorted(found["labels"].tolist()) == list(range(7, 4007))
    np.testing.assert_array_equal(found["vectors"], vectors[found["labels"] - 7])
    np.testing.assert_array_equal(found["table"][:, 0], found["labels"])
    np.testing.assert_array_equal(found["table"][:, 1:], found["edges"])
    for node, row in enumerate(found["edges"]):
        used = row[row != NONE].tolist()
        assert len(used) == len(set(used)) > 0
        assert node not in used
        assert max(used) < 4000
        assert (row[len(used) :] == NONE).all()
    assert reached(found["edges"], found["entries"]) == 4000


def test_walks_find_about_as_much_as_in_a_graph_built_at_once(tmp_path: Path) -> None:
    vectors, queries = clustered(4000), clustered(60, seed=1)
    found = link(vectors, 900, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        order, edges, entries = build.build(vectors, PLAN, 1, pool, lambda share: None)
    whole = {"vectors": vectors[order], "edges": edges, "labels": order + 7, "entries": entries}

    def recall(graph: dict[str, Any]) -> float:
        hits = 0
        for query in queries:
            truth = np.argsort(((vectors - query) ** 2).sum(axis=1))[:10] + 7
            hits += len(set(walked(graph, query)) & set(truth.tolist()))
        return hits / (10 * len(queries))

    assert recall(found) >= 0.95
    assert recall(found) >= recall(whole) - 0.02


def test_threads_change_nothing(tmp_path: Path) -> None:
    vectors = clustered(3000)
    one, three = (link(vectors, 1000, tmp_path, threads) for threads in (1, 3))
    for name in ("labels", "edges", "entries"):
        np.testing.assert_array_equal(one[name], three[name])


def test_vectors_that_are_all_the_same_get_a_graph_too(tmp_path: Path) -> None:
    found = link(np.ones((3000, 8), dtype=np.float32), 1000, tmp_path)
    assert reached(found["edges"], found["entries"]) == 3000


def test_numbers_of_which_no_square_fits_get_a_graph_too(tmp_path: Path) -> None:
    found = link(clustered(2000) * np.float32(1e25), 900, tmp_path)
    assert sorted(found["labels"].tolist()) == list(range(7, 2007))


def test_no_file_has_a_name(tmp_path: Path) -> None:
    assert link(clustered(2000), 900, tmp_path)["files"] == []


# -- its parts


def test_two_rows_become_one() -> None:
    random = np.random.default_rng(0)
    count, degree = 300, 12
    rows, others = np.full((count, 1 + degree), NONE), np.full((count, degree), NONE)
    for i in range(count):
        for row in (rows[i, 1:], others[i]):
            size = random.integers(0, degree + 1)
            row[:size] = random.permutation(40)[:size]
    rows[:, 0] = np.arange(count)
    places, nodes = random.permutation(count), random.permutation(40).astype(np.uint32)
    merged = rows.copy()
    dispatch.cpu().merge.merge()(merged, others, places, nodes, 0, 200)
    for i in range(count):
        expected: list[int] = []
        for pair in zip(rows[i, 1:], others[places[i]], strict=True):
            expected += [int(nodes[edge]) for edge in pair if edge != NONE and nodes[edge] not in expected]
            expected = list(dict.fromkeys(expected))
        expected = expected[:degree] + [int(NONE)] * (degree - len(expected))
        assert merged[i, 1:].tolist() == (expected if i < 200 else rows[i, 1:].tolist())
    np.testing.assert_array_equal(merged[:, 0], rows[:, 0])


@pytest.mark.parametrize("same", [False, True])
def test_no_shard_is_fuller_than_it_may_be(same: bool) -> None:
    vectors = np.ones((3000, 8), dtype=np.float32) if same else clustered(3000, 8)
    leaders = np.pad(vectors[:5], ((0, 0), (0, 1)))
    limits = Limits(1300, PLAN, 1, 1 << 16)
    with ThreadPoolExecutor(1) as pool:
        chosen = division.assign(source_of(vectors), leaders, limits, pool)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    assert np.bincount(chosen.ravel()).max() <= 1300


def test_shards_are_alike_in_size(tmp_path: Path) -> None:
    vectors = clustered(6000, 8)
    limits = Limits(1500, PLAN, 1, 1 << 16)
    with ThreadPoolExecutor(1) as pool:
        leaders = division.choose_leaders(vectors, len(vectors), limits, pool)
        chosen = division.assign(source_of(vectors), leaders, limits, pool)
    sizes = np.bincount(chosen.ravel(), minlength=len(leaders))
    assert sizes.max() <= 1.05 * sizes.mean()
    assert (leaders[:, -1] > 0).any()


def test_rows_in_a_file(tmp_path: Path) -> None:
    with scratch.Rows(str(tmp_path), 12) as rows:
        table = np.arange(300, dtype=np.uint32).reshape(100, 3)
        rows.write(50, table[50:])
        rows.write(0, table[:50])
        np.testing.assert_array_equal(rows.read(10, 20).view(np.uint32), table[10:20])
        np.testing.assert_array_equal(np.concatenate(list(rows.windows(100))).view(np.uint32), table)
        np.testing.assert_array_equal(rows.mapped(100, at_random=True).view(np.uint32), table)
        with pytest.raises(OSError, match="shorter"):
            rows.read(90, 101)
        assert os.listdir(tmp_path) == []


def test_what_is_promised_depends_on_no_thread() -> None:
    plan = build.Plan()
    one, many = (Limits.of(100_000_000, 400_000, 128, plan, threads) for threads in (1, 64))
    assert one is not None
    assert many is not None
    assert (one.room, one.plan) == (many.room, many.plan)
    assert many.threads * division.leaf_bytes(many.plan, 128) <= 100_000_000 / 8
    larger = Limits.of(300_000_000, 400_000, 128, plan, 1)
    assert larger is not None
    assert larger.room > 2 * one.room
    assert Limits.of(16_000_000, 2_000_000, 128, plan, 1) is None
    assert Limits.of(16_000_000, 10_000, 65_536, plan, 1) is None


# -- through the collection


@pytest.fixture
def sift() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    path = DATA / "sift-400k.npz"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    with np.load(path) as loaded:
        return loaded["base"][:20_000].astype(np.float32), loaded["query"][:200].astype(np.float32)


def share(collection: vecstore.Collection, queries: NDArray[np.float32], **asked: Any) -> float:
    truth = collection.search(queries, k=10, exact=True)
    found = collection.search(queries, k=10, **asked)
    return float(np.mean(found.distances <= truth.distances[:, -1:] * (1 + 1e-6) + 1e-9))


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The members of each shard that is built from now on."""
    members: list[int] = []
    plain = build.build

    def counted(vectors: Any, *rest: Any) -> Any:
        members.append(len(vectors))
        return plain(vectors, *rest)

    monkeypatch.setattr(build, "build", counted)
    return members


def test_sift_in_shards(
    tmp_path: Path, sift: tuple[NDArray[np.float32], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, queries = sift
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    recalls, distances = {}, {}
    for memory, fewest in (("16MB", 5), ("32MB", 3), (None, 1)):
        members = counting(monkeypatch)
        with vecstore.open(tmp_path / f"{memory}.vec", dim=128, metric="l2", memory=memory, threads=2) as c:
            c.add(np.arange(len(base)), base)
            assert len(members) >= fewest
            assert (len(members) > 1) == (memory is not None)
            assert c.explain(queries[0])["plan"] == "graph"
            recalls[memory] = share(c, queries, search_list=40)
            distances[memory] = c.explain(queries, search_list=40)["distances"]
            # Calibrated on the graph as it is, in shards or not.
            assert share(c, queries) >= 0.93
            assert c.verify().ok
    assert min(recalls.values()) >= recalls[None] - 0.02
    assert max(distances.values()) <= 1.15 * distances[None]


@pytest.mark.parametrize(
    ("metric", "dtype"), [("cosine", "float16"), ("ip", "float32"), ("hamming", "binary")]
)
def test_other_metrics_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, dtype: str
) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    data, queries = clustered(8000, 200), clustered(40, 200, seed=1)
    if dtype == "binary":
        data, queries = (np.packbits(x > 0, axis=1) for x in (data, queries))
    members = counting(monkeypatch)
    with vecstore.open(tmp_path / "c.vec", dim=200, metric=metric, dtype=dtype, memory="16MB") as c:
        c.add(np.arange(len(data)), data)
        assert len(members) > 2
        assert share(c, queries, search_list=400) >= 0.9
        c.delete(np.flatnonzero(np.arange(8000) % 4))
        c.optimize()
        assert c.stats()["nodes"] == 2000
        assert c.verify().ok


def test_too_little_memory_for_the_codes_is_told_and_scanned(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).integers(0, 256, (64_000, 500), dtype=np.uint8)
    path = tmp_path / "c.vec"
    with vecstore.open(path, dim=500, metric="l2", dtype="uint8", memory="16MB") as c:
        with pytest.warns(RuntimeWarning, match="16 MB is too little for a graph of 64,000 records"):
            c.add(np.arange(64_000), vectors)
        # Once is enough.
        c.optimize()
        assert c.stats()["nodes"] == 0
        assert c.search(vectors[5], k=1).ids == [5]


def test_a_graph_that_does_not_fit_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    vectors, path = clustered(20_000), tmp_path / "c.vec"
    with vecstore.open(path, dim=24, metric="l2") as c:
        c.add(np.arange(20_000), vectors)
        assert c.explain(vectors[0])["plan"] == "graph"
    monkeypatch.setattr("vecstore.linking.resident_bytes", lambda nodes, code_bytes, edges=0: 1000 * nodes)
    with vecstore.open(path, mode="r", memory="16MB") as c:
        with pytest.warns(RuntimeWarning, match="16 MB is too little"):
            assert c.search(vectors[5], k=1).ids == [5]
        assert c.explain(vectors[5])["plan"] == "scan"


# -- what goes wrong


def fail_in_the_second_shard(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    plain, calls = shards._link_shard, []

    def failing(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise error
        plain(*arguments)

    monkeypatch.setattr(shards, "_link_shard", failing)


def open_files(folder: Path) -> list[str]:
    """Files of this process in a folder, those without a name included."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    return sorted(name for name in found if name.startswith(str(folder)))


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "no room"), vecstore.StorageFullError),
    ],
)
def test_a_build_that_ends_early_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, seen: type[BaseException]
) -> None:
    vectors = clustered(8000, 200)
    with vecstore.open(tmp_path / "c.vec", dim=200, metric="l2", memory="16MB") as c:
        monkeypatch.setattr(config, "GRAPH_FROM", 1_000_000)
        c.add(np.arange(8000), vectors)
        monkeypatch.setattr(config, "GRAPH_FROM", 400)
        monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
        before, size = open_files(tmp_path), os.path.getsize(tmp_path / "c.vec")
        with monkeypatch.context() as patched:
            fail_in_the_second_shard(patched, error)
            with pytest.raises(seen):
                c.optimize()
        assert open_files(tmp_path) == before
        assert sorted(os.listdir(tmp_path)) == ["c.vec", "c.vec-lock"]
        assert os.path.getsize(tmp_path / "c.vec") == size
        assert c.stats()["nodes"] == 0
        assert c.search(vectors[5], k=1).ids == [5]
        c.optimize()
        assert c.stats()["nodes"] == 8000
        assert c.verify().ok


def test_readers_and_a_build_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(8000, 200)
    wrong: list[Any] = []
    with vecstore.open(tmp_path / "c.vec", dim=200, metric="l2", memory="16MB") as c:
        monkeypatch.setattr(config, "GRAPH_FROM", 400)
        monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
        c.add(np.arange(7000), vectors[:7000])
        stop = threading.Event()

        def search() -> None:
            while not stop.is_set():
                found = c.search(vectors[:20], k=1)
                wrong.extend(ids for ids in found.ids if len(ids) != 1)

        reader = threading.Thread(target=search)
        reader.start()
        try:
            c.add(np.arange(7000, 8000), vectors[7000:])
            c.optimize()
        finally:
            stop.set()
            reader.join()
        assert c.stats()["nodes"] == 8000
    assert not wrong


KILLED = """
import os, signal, sys
import numpy as np
import vecstore
from vecstore import config
from vecstore.index import shards

plain, calls = shards._link_shard, []

def until_the_second(*arguments):
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(*arguments)

shards._link_shard = until_the_second
config.GRAPH_FROM, config.GRAPH_FROM_BYTES = 400, 0
vectors = np.random.default_rng(0).normal(size=(8000, 200)).astype(np.float32)
with vecstore.open(sys.argv[1], dim=200, metric="l2", memory="16MB") as c:
    c.add(np.arange(8000), vectors)
"""


@pytest.mark.skipif(os.name == "nt", reason="nothing is killed like that there")
def test_a_killed_build_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.vec"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-4000:]
    assert sorted(os.listdir(tmp_path)) == ["c.vec", "c.vec-lock"]
    with vecstore.open(path, mode="r") as c:
        assert len(c) in (0, 8000)
        assert c.verify().ok


MEASURED = """
import sys, threading, time
import numpy as np
import vecstore
from vecstore import config

def own():
    with open("/proc/self/status") as file:
        return int(dict(line.split(":", 1) for line in file)["RssAnon"].split()[0]) * 1024

def rows(low, high):
    return np.random.default_rng(low).integers(0, 200, (high - low, 128)).astype(np.float32)

def fill(path, count, memory):
    with vecstore.open(path, dim=128, metric="l2", memory=memory, threads=2) as c:
        c.extend((np.arange(low, low + 2000), rows(low, low + 2000)) for low in range(0, count, 2000))
        return c.stats()["nodes"]

config.GRAPH_FROM_BYTES = 0
folder, count, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
assert fill(folder + "/warm.vec", 12_000, 16_000_000) == 12_000  # kernels are compiled or loaded
before, peak, stop = own(), 0, False

def watch():
    global peak
    while not stop:
        peak = max(peak, own())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
nodes = fill(folder + "/c.vec", count, memory)
stop = True
watcher.join()
assert nodes == count
print((peak - before) / memory)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell")
def test_the_memory_is_kept_to(tmp_path: Path, run_python: Callable[..., str]) -> None:
    told = run_python(MEASURED, tmp_path, 30_000, 20_000_000)
    # Linked at once these take 55 MB.
    assert float(told) < 1.1


@pytest.fixture
def run_python() -> Callable[..., str]:
    def run(code: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip().splitlines()[-1]

    return run
