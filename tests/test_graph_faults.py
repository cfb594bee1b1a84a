"""Graphs that are really built: under writers that die, disks that fail, bits that flip, and readers beside it all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.errors import CorruptionError
from vecstore.storage import keys

sys.path.insert(0, str(Path(__file__).parent))

from faults import builds, shim

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cases are forked, and /proc is read")
shimmed = pytest.mark.skipif(shim.missing() is not None, reason=str(shim.missing()))


@pytest.fixture
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in builds.SMALL.items():
        monkeypatch.setattr(config, name, value)


def campaign(module: str, *arguments: object, preload: bool = True) -> str:
    done = shim.run(module, *arguments, preload=preload, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@shimmed
def test_a_writer_killed_while_it_builds_loses_nothing() -> None:
    assert "builds: kill: 15 kills" in campaign("builds", "--part", "kill", "--kills", 15)


@shimmed
def test_a_build_that_cannot_be_written_is_made_up_for() -> None:
    faults = ["full once", "failing from then on", "failing once written", "half a write"]
    assert campaign("builds", "--part", "disk", "--faults", *faults).count("raised") == len(faults)


@linux
def test_graphs_made_to_harm_are_refused_or_walked_safely() -> None:
    assert "lies: 200 files" in campaign("lies", "--files", 200, preload=False)


# -- flipped bits


def test_a_flipped_bit_is_told_or_changes_no_answer(small_graphs: None, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    from faults import damage

    path = str(tmp_path / "c.vec")
    builds.fill(path, 0, 700)
    sound = Path(path).read_bytes()
    queries = builds.vectors(1, 12)

    def answers() -> Any:
        with vecstore.open(path, mode="r", threads=1) as collection:
            assert collection.explain(queries[0])["plan"] == "graph"
            return [(hits.ids, hits.distances.tolist()) for hits in collection.search(queries, k=10, recall=0.99)]

    right, pick, told = answers(), random.Random(1), dict.fromkeys(keys.NAMES, 0)
    kinds = [*keys.GRAPH_KINDS, keys.SUMS, keys.VECTORS]
    blocks = {kind: [block for block in damage.blocks_of(sound) if block.kind == kind] for kind in kinds}
    for turn in range(40 * len(kinds)):
        kind = kinds[turn % len(kinds)]
        block = pick.choice(blocks[kind])
        place, bit = block.start + pick.randrange(block.length), pick.randrange(8)
        Path(path).write_bytes(damage.flip(sound, place, bit))
        try:
            found, said = answers(), None
        except CorruptionError as error:
            found, said = None, str(error)
        where = f"bit {bit} of byte {place - block.start} of {block.name}"
        assert found == right if said is None else block.name in said, (where, said)
        told[kind] += said is not None
    # What is kept in memory is read whole, and of the rest what a walk comes to.
    assert all(told[kind] == 40 for kind in (keys.CODES, keys.INDEX, keys.LINKED))
    assert all(told[kind] > 0 for kind in (keys.GRAPH, keys.SUMS, keys.VECTORS))


# -- readers and threads beside a builder

WINDOW, STEP = 600, 150

READER = """
import sys, time
import numpy as np
import vecstore
sys.path.insert(0, sys.argv[2])
from faults import builds
WINDOW, STEP, LAST = (int(word) for word in sys.argv[3:])
queries = builds.vectors(77, 25)
rows = builds.vectors(5, LAST + WINDOW)
apart = np.sqrt(np.square(rows[None].astype(np.float64) - queries[:, None]).sum(axis=2))
states, turns = set(), 0
print("ready", flush=True)
with vecstore.open(sys.argv[1], mode="r", threads=1) as reader:
    while True:
        found = reader.search(queries, k=10)
        ids = np.array([hits.ids for hits in found])
        # One snapshot answers all of them: there is a state that has every id, and nothing nearer was missed often.
        firsts = [first for first in range(0, LAST + 1, STEP) if first <= ids.min() and ids.max() < first + WINDOW]
        assert firsts, (ids.min(), ids.max())
        np.testing.assert_allclose(found.distances, np.take_along_axis(apart, ids, axis=1), rtol=1e-6, atol=1e-6)
        shares = []
        for first in firsts:
            truth = np.sort(apart[:, first : first + WINDOW], axis=1)[:, :10]
            if (found.distances >= truth - 1e-6).all():
                shares.append((float((found.distances <= truth[:, -1:] + 1e-6).mean()), first))
        assert shares and max(shares)[0] >= 0.8, (firsts, shares)
        states.add(max(shares)[1])
        turns += 1
        if max(shares)[1] == LAST and reader.stats()["pending"] == 0:
            break
print(len(states), turns)
"""


def test_readers_elsewhere_follow_from_build_to_build(small_graphs: None, tmp_path: Path) -> None:
    """Each commit moves a window of records on; every answer is of one window, and near enough to the truth."""
    path, last = str(tmp_path / "c.vec"), 6 * STEP
    rows = builds.vectors(5, last + WINDOW)
    with vecstore.open(path, dim=builds.ROWS.dim, metric=builds.ROWS.metric, threads=1) as writer:
        writer.add(range(WINDOW), rows[:WINDOW])
        arguments = [path, str(Path(__file__).parent), *map(str, (WINDOW, STEP, last))]
        readers = [
            subprocess.Popen([sys.executable, "-c", READER, *arguments], stdout=-1, stderr=-1, text=True) for _ in "ab"
        ]
        try:
            assert [reader.stdout.readline() for reader in readers if reader.stdout] == ["ready\n"] * 2
            for first in range(0, last, STEP):
                with writer.transaction():
                    writer.delete(range(first, first + STEP))
                    writer.add(range(first + WINDOW, first + WINDOW + STEP), rows[first + WINDOW :][:STEP])
                writer.optimize()
                assert writer.stats()["pending"] == 0
            for reader in readers:
                output, errors = reader.communicate(timeout=60)
                assert reader.returncode == 0, errors[-3000:]
                states, turns = map(int, output.split())
                assert states > 1
                assert turns > 1
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
        assert writer.verify().ok


def test_threads_search_while_one_adds_and_builds(small_graphs: None, tmp_path: Path) -> None:
    rows, queries = builds.vectors(5, 2400), builds.vectors(6, 16)
    apart = np.sqrt(np.square(rows[None].astype(np.float64) - queries[:, None]).sum(axis=2))
    stop, failures, searches = threading.Event(), [], [0] * 3

    with vecstore.open(tmp_path / "c.vec", dim=builds.ROWS.dim, metric="l2", threads=2) as shared:
        shared.add(range(300), rows[:300])

        def search(mine: int) -> None:
            try:
                while not stop.is_set():
                    before = len(shared)
                    found = shared.search(queries, k=10) if mine else [shared.search(query, k=10) for query in queries]
                    after = len(shared)
                    for hits, distances in zip(found, apart, strict=True):
                        assert max(hits.ids) < after
                        np.testing.assert_allclose(hits.distances, distances[hits.ids], rtol=1e-6, atol=1e-6)
                        assert (hits.distances >= np.sort(distances[:after])[:10] - 1e-6).all()
                        # A walk may miss some, but not all of what was there before.
                        assert hits.distances[0] <= np.sort(distances[:before])[9] + 1e-6
                    searches[mine] += 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=search, args=(mine,)) for mine in range(3)]
        for thread in threads:
            thread.start()
        built = set()
        for first in range(300, 2400, 150):
            shared.add(range(first, first + 150), rows[first : first + 150])
            built.add(shared.stats()["nodes"])
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        assert min(searches) > 0
        assert len(built) >= 4
        assert shared.verify().ok


FORK = """
import os, sys
sys.path.insert(0, sys.argv[2])
import vecstore
from faults import builds
from vecstore import config
config.GRAPH_FROM, config.GRAPH_FROM_BYTES = builds.LEAST, 0
builds.fill(sys.argv[1], 0, 600)
queries = builds.vectors(1, 40)
parent = vecstore.open(sys.argv[1], threads=2)
mine = [hits.ids for hits in parent.search(queries)]
child = os.fork()
if child == 0:
    try:
        parent.search(queries)
    except vecstore.ForkError:
        with vecstore.open(sys.argv[1], threads=2) as own:
            assert own.explain(queries[0])["plan"] == "graph"
            assert [hits.ids for hits in own.search(queries)] == mine
            own.add(range(1000, 1400), builds.vectors(2, 400))
            assert own.stats()["nodes"] == 1000
        os._exit(7)
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert parent.stats()["nodes"] == 1000
assert [hits.ids for hits in parent.search(queries, exact=True)] != mine
assert parent.verify().ok
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_a_walk_opens_its_own_and_builds(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "c.vec"), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "done\n", done.stderr[-3000:]


# -- starting up

START = """
import time
begun = time.perf_counter()
import sys
import numpy as np
import vecstore
with vecstore.open(sys.argv[1], mode="r") as collection:
    hits = collection.search(np.ones(collection.dim, dtype=np.float32), k=10)
assert len(hits) == 10
print(time.perf_counter() - begun)
"""


def test_a_new_process_soon_has_its_first_answer(small_graphs: None, tmp_path: Path) -> None:
    """Kernels come from their cache. Half a second is usual; compiling would take many."""
    path = str(tmp_path / "c.vec")
    builds.fill(path, 0, 700)
    with vecstore.open(path, mode="r") as collection:
        assert collection.explain(builds.vectors(1, 1)[0])["plan"] == "graph"
        assert len(collection.search(builds.vectors(1, 1)[0])) == 10
    taken = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        taken.append(float(done.stdout))
    assert min(taken) < 3.0
