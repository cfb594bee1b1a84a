"""vecstore against one peer after the other, both in one process and in turn, so that a noisy machine is fair.

    python bench/duel.py sift|text [hnswlib-16,faiss-fastscan,…]

For a recall of 0.95 and of 0.99 each side takes the two knobs around it; all four are timed round by round, and
speeds are read off between them. Data and truth are those of bench/graph.py, which also draws whole curves.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contenders import Knob, Peer
from curves import at
from graph import SETS, prepare, results_folder
from measure import pin, recall, table
from roster import VARIANTS

ROUNDS = 7
TARGETS = (0.95, 0.99)


def around(peer: Peer, data: dict[str, Any], target: float) -> list[tuple[Knob, float]]:
    """The knobs just below a recall and just above it, with what each reaches; fewer where it is never reached."""
    best: list[tuple[Knob, float]] = []
    quickest = np.inf
    for ladder in peer.ladders:
        below: tuple[Knob, float] | None = None
        for knob in ladder:
            peer.set(**knob)
            start = time.perf_counter()
            answers = [peer.one(query) for query in data["queries"]]
            seconds = time.perf_counter() - start
            ids = table([peer.ids(answer) for answer in answers])
            reached = recall(data["base"], data["queries"], data["limits"], ids)
            if reached >= target:
                if seconds < quickest:
                    best = [point for point in (below, (knob, reached)) if point is not None]
                    quickest = seconds
                break
            below = knob, reached
    return best


def calls(peer: Peer, queries: Any) -> dict[str, Callable[[], object]]:
    def singly() -> None:
        for query in queries:
            peer.one(query)

    found: dict[str, Callable[[], object]] = {"one by one": singly}
    if peer.batches:
        found["batch"] = lambda: peer.many(queries, 1)
        if peer.threads:
            found["batch, two threads"] = lambda: peer.many(queries, 2)
    return found


def duel(ours: Peer, theirs: Peer, name: str, data: dict[str, Any]) -> None:
    queries = data["queries"]
    for target in TARGETS:
        sides = {"ours": (ours, around(ours, data, target)), "theirs": (theirs, around(theirs, data, target))}
        for mode in calls(ours, queries):
            seconds: dict[tuple[str, int], list[float]] = {}
            pin(2 if "two" in mode else 1)
            for _ in range(ROUNDS + 1):
                for side, (peer, points) in sides.items():
                    peer.use(2 if "two" in mode else 1)
                    for place, (knob, _) in enumerate(points):
                        call = calls(peer, queries).get(mode)
                        if call is None:
                            continue
                        peer.set(**knob)
                        start = time.perf_counter()
                        call()
                        seconds.setdefault((side, place), []).append(time.perf_counter() - start)
            speeds = {}
            for side, (_, points) in sides.items():
                curve = [
                    (reached, len(queries) / statistics.median(seconds[side, place][1:]))
                    for place, (_, reached) in enumerate(points)
                    if (side, place) in seconds
                ]
                speeds[side] = at(curve, target) if curve else None
            line = [f"{speeds[side]:,.0f}" if speeds[side] else "–" for side in ("ours", "theirs")]
            ratio = f"{speeds['ours'] / speeds['theirs']:.2f}×" if speeds["ours"] and speeds["theirs"] else "–"
            print(f"| {name} | {target} | {mode} | {line[0]} | {line[1]} | {ratio} |", flush=True)


def main() -> None:
    name = sys.argv[1]
    peers = sys.argv[2].split(",") if len(sys.argv) > 2 else ["hnswlib-16", "faiss-fastscan"]
    folder = prepare(results_folder(), name, None)
    data = {what: np.load(folder / f"{what}.npy") for what in ("base", "queries", "limits")}
    rows, dim = data["base"].shape
    print("| peer | recall@10 | how | vecstore, queries/s | peer | ratio |\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as places:
        built = {}
        for variant in ("vecstore", *peers):
            kind = VARIANTS[variant]
            place = Path(places) / variant
            place.mkdir()
            peer = kind.peer(rows, dim, SETS[name][1], place, **kind.options)
            pin(2)
            peer.warm(data["base"][:1000])
            start = time.perf_counter()
            peer.build(data["base"])
            built[variant] = peer
            seconds = time.perf_counter() - start
            print(f"| {variant} | | build, two threads | {seconds:,.1f} s | | |", flush=True)
            if variant != "vecstore":
                duel(built["vecstore"], peer, variant, data)
                peer.close()
                del built[variant]


if __name__ == "__main__":
    main()
