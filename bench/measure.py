"""One peer on one set, in a process of its own: `bench/graph.py` starts it, and reads the lines it writes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contenders import K, Knob, Peer, Vectors
from numpy.typing import NDArray
from roster import VARIANTS

ENOUGH = 0.9995  # recall at which a ladder ends
GAIN = 0.0002  # what a step up must bring; a ladder ends after three that bring less


def memory() -> dict[str, int]:
    """Bytes of this process: now, at its peak, and now without what is mapped from files."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        pick = {"now": "VmRSS", "peak": "VmHWM", "own": "RssAnon"}
        return {name: int(lines[key].split()[0]) * 1024 for name, key in pick.items()}
    except FileNotFoundError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"now": peak, "peak": peak, "own": peak}


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of memory counts from the start of the process", file=sys.stderr)


def pin(cores: int) -> None:
    """All threads of this process on that many cores, those that a library keeps for itself included."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), CORES[-cores:])


CORES = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else [0, 1]


def disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def squared(base: Vectors, queries: Vectors, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distances of each query to the rows named, exact in float64; infinite where an id is none."""
    found = np.full(ids.shape, np.inf)
    for row, (query, mine) in enumerate(zip(queries, ids, strict=True)):
        good = (mine >= 0) & (mine < len(base))
        found[row, good] = ((base[mine[good]].astype(np.float64) - query) ** 2).sum(1)
    return found


def recall(base: Vectors, queries: Vectors, limits: NDArray[np.float64], ids: NDArray[np.int64]) -> float:
    """How many of the k found lie no farther than the true k-th: a tie is as good. An id counts once."""
    hits = squared(base, queries, ids) <= limits[: len(ids), None] * (1 + 1e-6) + 1e-9
    firsts = np.zeros(ids.shape, bool)
    for row, mine in enumerate(ids):
        firsts[row, np.unique(mine, return_index=True)[1]] = True
    return float((hits & firsts).sum() / (len(ids) * K))


def table(answers: list[Any]) -> NDArray[np.int64]:
    """Row numbers of every answer, −1 where fewer than k came back."""
    ids = np.full((len(answers), K), -1, np.int64)
    for row, answer in enumerate(answers):
        mine = np.asarray([-1 if id_ is None else id_ for id_ in answer], np.int64)[:K]
        ids[row, : len(mine)] = mine
    return ids


def timed(call: Callable[[], Any], count: int, rounds: int) -> dict[str, float]:
    """Queries per second in the median round, and how many cores were busy over all rounds."""
    seconds, start, used = [], time.perf_counter(), time.process_time()
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    cores = (time.process_time() - used) / (time.perf_counter() - start)
    return {"qps": count / statistics.median(seconds), "cores": round(cores, 2)}


def measure(peer: Peer, knob: Knob, data: dict[str, Any], rounds: int, budget: float) -> dict[str, Any]:
    """A point of the curve. A round of a slow peer takes fewer queries, so that it lasts about `budget` seconds."""
    base, queries, limits = data["base"], data["queries"], data["limits"]
    pin(1)
    peer.set(**knob)
    peer.use(1)
    each = min(1 / timed(lambda q=query: peer.one(q), 1, 1)["qps"] for query in queries[:4])
    queries = queries[: max(20, min(len(queries), int(budget / each)))]
    answers = [peer.one(query) for query in queries]  # the round that does not count
    point: dict[str, Any] = {"knob": knob, "queries": len(queries)}
    point["recall"] = recall(base, queries, limits, table([peer.ids(answer) for answer in answers]))

    def singly() -> None:
        for query in queries:
            peer.one(query)

    point["one"] = timed(singly, len(queries), rounds)
    if peer.batches:
        for threads in (1, 2) if peer.threads else (1,):
            pin(threads)
            peer.use(threads)
            start = time.perf_counter()
            answer = peer.many(queries, threads)
            while time.perf_counter() - start < 0.2:  # threads find their cores
                peer.many(queries, threads)
            got = recall(base, queries, limits, table(list(peer.ids(answer))))
            point[f"batch{threads}"] = timed(lambda t=threads: peer.many(queries, t), len(queries), rounds)
            point[f"batch{threads}"]["recall"] = got
    peer.use(1)
    point["distances"] = peer.distances(queries)
    return point


def climb(
    peer: Peer, say: Callable[..., None], data: dict[str, Any], rounds: int, budget: float, step: int
) -> None:
    for ladder in peer.ladders:
        best, idle = 0.0, 0
        for place, knob in enumerate(ladder):
            if place % step and place != len(ladder) - 1:
                continue
            point = measure(peer, knob, data, rounds, budget)
            say("point", **point)
            idle = 0 if point["recall"] > best + GAIN else idle + 1
            best = max(best, point["recall"])
            if best >= ENOUGH or idle == 3:
                break


def version_of(package: str) -> str:
    version = importlib.metadata.version(package)
    if package != "vecstore-db":
        return version
    asked = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parent)
    return f"{version} {done.stdout.strip()}".strip()


def main() -> None:
    settings = json.loads(sys.argv[1])
    out = open(settings["out"], "a", buffering=1)  # noqa: SIM115

    def say(event: str, **more: Any) -> None:
        out.write(json.dumps({"event": event, **more}) + "\n")

    variant, metric = VARIANTS[settings["variant"]], settings["metric"]
    pin(2)
    folder = Path(settings["data"])
    data = {name: np.load(folder / f"{name}.npy") for name in ("base", "queries", "limits")}
    data["queries"] = data["queries"][: settings["queries"]]
    base = data["base"]
    say(
        "start",
        package=variant.peer.package,
        version=version_of(variant.peer.package),
        python=sys.version.split()[0],
        numpy=np.__version__,
        load=os.getloadavg()[0],
        when=time.strftime("%Y-%m-%d %H:%M"),
    )
    place = Path(settings["place"])
    forget_peak()
    before = memory()
    peer = variant.peer(len(base), base.shape[1], metric, place, **variant.options)
    peer.warm(base[:1000])
    say("warm")
    start = time.perf_counter()
    peer.build(base)
    seconds = time.perf_counter() - start
    say("build", seconds=seconds, disk=disk(place), raw=base.nbytes, before=before, after=memory())
    climb(peer, say, data, settings["rounds"], settings["budget"], settings["step"])
    say("done", after=memory())
    peer.close()


if __name__ == "__main__":
    main()
