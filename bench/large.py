"""Far more vectors than memory: built and searched in 300 MB, page cache counted, by vecstore and by its peers on disk.

    python bench/large.py [--peers vecstore,zvec,lancedb,diskannpy] [--cap 300] [--memory 150MB] [--rows N] [--again]

The set is SIFT descriptors of the photographs in VECSTORE_DATA (OpenCV is needed once). It is made once, and so are
the stores, in BENCH_LARGE (a folder of the temporary directory unless said). Every step runs in a process of its own
inside `memcap` (`shared/tools`, needs root), or without a limit where there is none. A peer that cannot build inside
the limit is built without one, and only searched inside. Searches are cold at first: the page cache is dropped.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import stores
from contenders import WIDTHS, K, Peer
from graph import python_of
from measure import disk, memory, recall, squared, table
from peers import DATA
from roster import VARIANTS

PHOTOS, SIDE, CONTRAST = DATA / "photos", 900, 0.02
MEMCAP = DATA.parent / "tools" / "memcap"
FOLDER = Path(os.environ.get("BENCH_LARGE", Path(tempfile.gettempdir()) / "vecstore-bench-large"))
# Queries that a search's width is chosen with, and others that it is timed with.
CHOOSING, TIMING = 200, 1000
WARMING = 50_000
TARGET = 0.95
SECONDS = 20.0


class Vecstore(stores.Vecstore):
    memory = "150MB"

    def warm(self, some: Any) -> None:
        import vecstore

        # So little memory that the kernels of a build in shards are among those compiled.
        with vecstore.open(
            self.folder / "warm.vec", dim=self.dim, metric=self.metric, memory="16MB"
        ) as store:
            store.add(np.arange(len(some)), some)
            for query in some[:3]:  # the first takes another way than those after it
                store.search(query, k=K)

    def build(self, base: Any) -> None:
        import vecstore

        path = self.folder / "large.vec"
        settings = {"dim": self.dim, "metric": self.metric, "dtype": "float32", "memory": self.memory}
        with vecstore.open(path, **settings) as store:
            parts = (range(low, min(low + 10_000, len(base))) for low in range(0, len(base), 10_000))
            store.extend((np.asarray(part), np.asarray(base[part.start : part.stop])) for part in parts)

    def open(self) -> None:
        import vecstore

        self.ladders = [[{"recall": value} for value in (0.8, 0.85, 0.9, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99)]]
        self.store = vecstore.open(self.folder / "large.vec", mode="r", memory=self.memory)


class Zvec(stores.Zvec):
    def open(self) -> None:
        import zvec

        self.zvec = zvec
        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=1, optimize_threads=1)
        self.store = zvec.open(str(self.folder / "zvec"), zvec.CollectionOption(read_only=True))


class Lancedb(stores.Lancedb):
    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).open_table("graph")


class Diskann(stores.Diskann):
    def open(self) -> None:
        import diskannpy

        self.ladders = [[{"complexity": width} for width in WIDTHS]]
        self.index = diskannpy.StaticDiskIndex(str(self.folder), 1, 0)


PEERS: dict[str, tuple[type[Any], dict[str, Any], str]] = {
    "vecstore": (Vecstore, {}, "vecstore"),
    "zvec": (Zvec, {"kind": "diskann"}, "zvec-diskann"),
    "lancedb": (Lancedb, {"kind": "ivfpq"}, "lancedb-ivfpq"),
    "diskannpy": (Diskann, {"kind": "disk"}, "diskann-disk"),
}


# -- the set


def make_set(folder: Path) -> None:
    """All descriptors as float32 rows, but for some that are held out as queries."""
    if (folder / "queries.npy").exists():
        return
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    sift, parts = cv2.SIFT_create(contrastThreshold=CONTRAST), []
    for path in sorted(PHOTOS.iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        scale = SIDE / max(image.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        image = cv2.resize(
            image, (round(image.shape[1] * scale), round(image.shape[0] * scale)), interpolation=how
        )
        found = sift.detectAndCompute(image, None)[1]
        if found is not None:
            parts.append(found.astype(np.uint8))
    every = np.concatenate(parts)
    order = np.random.default_rng(0).permutation(len(every))
    held = np.sort(order[: CHOOSING + TIMING])
    queries = every[np.random.default_rng(1).permutation(held)].astype(np.float32)
    base = np.delete(every, held, axis=0).astype(np.float32)
    np.save(folder / "base.npy", base)
    np.save(folder / "queries.npy", queries)


def tenth_distances(folder: Path, rows: int | None) -> Path:
    """The queries' tenth distances within the first rows, or all; measured once."""
    path = folder / ("limits.npy" if rows is None else f"limits-{rows}.npy")
    if path.exists():
        return path
    base, queries = np.load(folder / "base.npy")[:rows], np.load(folder / "queries.npy")
    limits = np.empty(len(queries))
    norms = np.einsum("ij,ij->i", base, base)
    for low in range(0, len(queries), 50):
        part = queries[low : low + 50]
        near = norms - 2 * (part @ base.T)
        best = np.argpartition(near, 2 * K, axis=1)[:, : 2 * K]
        limits[low : low + 50] = np.sort(squared(base, part, best), axis=1)[:, K - 1]
    np.save(path, limits)
    return path


def load(folder: Path, rows: int | None) -> dict[str, Any]:
    return {
        "queries": np.load(folder / "queries.npy"),
        "limits": np.load(tenth_distances(folder, rows)),
        "base": np.load(folder / "base.npy", mmap_mode="r")[:rows],
    }


# -- in a process of its own


def read_from_disk() -> int:
    """Bytes that this process had read from the disk: what was in memory already does not count."""
    try:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0
    return int(lines["read_bytes"])


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def warm(peer: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What is compiled once after the installation is no part of what is measured."""
    peer.warm(np.asarray(data["base"][:WARMING]))
    return {}


def build(peer: Any, data: dict[str, Any]) -> dict[str, Any]:
    base = data["base"]
    start = time.perf_counter()
    peer.build(base)
    return {"seconds": time.perf_counter() - start, "disk": disk(peer.folder), **memory()}


def ask(peer: Any, data: dict[str, Any]) -> dict[str, Any]:
    """The first width that reaches the target, and what fresh queries cost with it."""
    base, limits = data["base"], data["limits"]
    # Rows are looked up to measure recall: megabytes read ahead for each would drive the index out of the page cache.
    base._mmap.madvise(mmap.MADV_RANDOM)
    choosing, timing = data["queries"][:CHOOSING], data["queries"][CHOOSING:]
    start = time.perf_counter()
    peer.open()
    peer.set(**peer.ladders[0][0])
    peer.one(choosing[0])
    opened = time.perf_counter() - start
    for knob in (knob for ladder in peer.ladders for knob in ladder):
        peer.set(**knob)
        answers = table([peer.ids(peer.one(query)) for query in choosing])
        reached = recall(base, choosing, limits[:CHOOSING], answers)
        if reached >= TARGET:
            break
    found, seconds = [], []
    read, fault, begun = read_from_disk(), faults(), time.perf_counter()
    for query in timing:
        start = time.perf_counter()
        found.append(peer.one(query))
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - begun > SECONDS:
            break
    count = len(found)
    read, fault = read_from_disk() - read, faults() - fault
    answers = table([peer.ids(answer) for answer in found])
    return {
        "opened": opened, "knob": knob, "chosen at": reached, "queries": count,
        "recall": recall(base, timing[:count], limits[CHOOSING : CHOOSING + count], answers),
        "qps": count / sum(seconds), "p50": float(np.median(seconds)), "p99": float(np.quantile(seconds, 0.99)),
        "pages": read / 4096 / count, "faults": fault / count, **memory(),
    }  # fmt: skip


def child(settings: dict[str, Any]) -> None:
    kind, options, _ = PEERS[settings["peer"]]
    place = Path(settings["place"])
    data = load(Path(settings["data"]), settings["rows"])
    Vecstore.memory = settings["memory"]
    peer: Peer = kind(len(data["base"]), data["base"].shape[1], "l2", place, **options)
    step: Callable[[], dict[str, Any]] = {
        "warm": lambda: warm(peer, data),
        "build": lambda: build(peer, data),
        "ask": lambda: ask(peer, data),
    }[settings["step"]]
    print("result " + json.dumps(step()), flush=True)
    os._exit(0)  # some do not end by themselves


# -- starting these


def run(step: str, name: str, settings: dict[str, Any], cap: int | None, limit: float) -> dict[str, Any]:
    asked = settings | {"step": step, "peer": name}
    command = [python_of(VARIANTS[PEERS[name][2]].peer.package), str(Path(__file__).resolve()), "--child", json.dumps(asked)]
    if cap is not None:
        command = [str(MEMCAP), str(cap), *command]
    names = ("OMP", "RAYON", "NUMBA", "OPENBLAS", "LANCE_CPU")
    env = os.environ | {f"{each}_{'' if 'LANCE' in each else 'NUM_'}THREADS": "2" for each in names}
    started = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = started.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        said = started.communicate()[0] + f"\nended after {limit:,.0f} s"
    lines = said.strip().splitlines()
    results = [json.loads(line.removeprefix("result ")) for line in lines if line.startswith("result ")]
    peak = re.search(r"memcap: peak (\d+) of", said)
    found: dict[str, Any] = {"cap": cap, "peak in the cap": int(peak[1]) if peak else None}
    if results:
        return found | results[-1]
    other = [line for line in lines if not line.startswith("memcap:") and "/memcap: line" not in line]
    why = "ended for want of memory" if started.returncode == 137 else other[-1] if other else "nothing said"
    return found | {"failed": f"{why} (exit {started.returncode})"}


def measure(
    name: str, settings: dict[str, Any], cap: int | None, limit: float, again: bool
) -> dict[str, Any]:
    place = Path(settings["place"])
    note = place / "built.json"
    if again or not note.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        run("warm", name, settings, None, limit)
        shutil.rmtree(place)
        place.mkdir()
        built = run("build", name, settings, cap, limit)
        if "failed" in built and cap is not None:
            print(f"{name}: {built['failed']} in {cap} MB; once more without a limit", flush=True)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            built = run("build", name, settings, None, limit) | {"in the cap": built["failed"]}
        note.write_text(json.dumps(built))
    built = json.loads(note.read_text())
    print(f"{name} build: {built}", flush=True)
    if "failed" in built:
        return {"build": built}
    asked = run("ask", name, settings, cap, limit)
    print(f"{name} ask: {asked}", flush=True)
    return {"build": built, "ask": asked}


def tabulate(results: dict[str, dict[str, Any]], rows: int, cap: int | None) -> str:
    inside = "without a limit" if cap is None else f"inside {cap} MB"
    head = f"{rows:,} × 128 float32, {inside}, one query at a time"
    lines = [
        f"### {head}",
        "",
        "| store | build, s | its peak, MB | on disk, MB | recall@10 | queries/s | p99, ms | pages read a query |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, found in results.items():
        made, asked = found["build"], found.get("ask", {})
        if "failed" in made or "failed" in asked:
            lines.append(f"| {name} | {made.get('failed') or asked.get('failed')} ||||||| ")
            continue
        without = "" if made["cap"] else " (no limit)"
        lines.append(
            f"| {name} | {made['seconds']:,.0f}{without} | {made['peak in the cap'] or made['peak'] / 2**20:,.0f} | "
            f"{made['disk'] / 1e6:,.0f} | {asked['recall']:.3f} | {asked['qps']:,.0f} | {asked['p99'] * 1e3:,.1f} | "
            f"{asked['pages']:,.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--cap", type=int, default=300, help="MB that a process may take, page cache counted; 0: no limit"
    )
    parser.add_argument("--memory", default="150MB", help="vecstore's own budget")
    parser.add_argument("--rows", type=int, help="the first rows of the set, not all")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that a step may take")
    parser.add_argument("--again", action="store_true", help="build what was built once more")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
    make_set(FOLDER / "data")
    cap = arguments.cap or None
    if cap and not (MEMCAP.exists() and hasattr(os, "geteuid") and os.geteuid() == 0):
        print(f"no limit on memory: {MEMCAP} and root are needed for one", file=sys.stderr)
        cap = None
    tenth_distances(FOLDER / "data", arguments.rows)
    rows = len(load(FOLDER / "data", arguments.rows)["base"])
    results = {}
    for name in arguments.peers.split(","):
        place = FOLDER / f"{name}-{rows}"
        settings = {
            "data": str(FOLDER / "data"),
            "place": str(place),
            "rows": arguments.rows,
            "memory": arguments.memory,
        }
        results[name] = measure(name, settings, cap, arguments.limit, arguments.again)
    print(tabulate(results, rows, cap))


if __name__ == "__main__":
    main()
