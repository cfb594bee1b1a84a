"""All pairs within a distance over a whole collection, against the time that its graph takes to build.

    python bench/pairs.py [--rows 400000] [--radii 80,140] [--sample 4000]

SIFT descriptors under l2, as uint8. Seconds are of the clock and of the processor: beside other work on the machine only
the latter tell. Recall is measured on the pairs of so many records, found by a scan.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers import DATA

import vecstore


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, and its seconds by the clock and by the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - clock, time.process_time() - processor


def share(
    collection: vecstore.Collection, pairs: set[tuple[int, int]], radius: float, sample: Any
) -> tuple[float, int]:
    """Of the true pairs of these records, how many were found; and how many there are."""
    truth = set()
    for id_ in sample.tolist():
        hits = collection.search(id=id_, radius=radius, exact=True)
        truth |= {(min(id_, other), max(id_, other)) for other in hits.ids}
    return len(truth & pairs) / max(1, len(truth)), len(truth)


def run(rows: Any, radii: list[float], sample: int) -> list[dict[str, float]]:
    chosen = np.random.default_rng(0).choice(len(rows), min(sample, len(rows)), replace=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.vec"
        collection = vecstore.open(path, dim=rows.shape[1], metric="l2", dtype="uint8")
        with collection:
            _, *build = timed(lambda: collection.add(np.arange(len(rows)), rows))
            print(f"built in {build[0]:.1f} s, {build[1]:.1f} s of the processor")
            return [measure(collection, radius, build, chosen) for radius in radii]


def measure(
    collection: vecstore.Collection, radius: float, build: list[float], sample: Any
) -> dict[str, float]:
    found, *taken = timed(lambda: list(collection.near_duplicates(radius)))
    pairs = {(min(pair[:2]), max(pair[:2])) for pair in found}
    recall, true = share(collection, pairs, radius, sample)
    clock, processor = (mine / its for mine, its in zip(taken, build, strict=True))
    print(
        f"radius {radius:g}: {len(pairs):,} pairs in {taken[0]:.1f} s, {taken[1]:.1f} s of the processor; "
        f"{clock:.2f} and {processor:.2f} of the build; recall {recall:.4f} of {true:,}"
    )
    return {"pairs": len(pairs), "recall": recall, "clock": clock, "processor": processor}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--radii", default="80,140")
    parser.add_argument("--sample", type=int, default=4_000)
    asked = parser.parse_args()
    rows = np.load(DATA / "sift-400k.npz")["base"][: asked.rows]
    run(rows, [float(radius) for radius in asked.radii.split(",")], asked.sample)


if __name__ == "__main__":
    main()
