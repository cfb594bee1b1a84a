"""What the benchmarks share: data, timing in turns, and the peers' own ways of doing the same."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(os.environ.get("VECSTORE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def sift(rows: int, dtype: str) -> NDArray[np.generic]:
    """Real SIFT descriptors, repeated with a little noise where more are asked for than there are."""
    path = DATA / "sift-400k.npz"
    if not path.exists():
        raise SystemExit(f"{path} is missing: set VECSTORE_DATA to the folder that holds sift-400k.npz")
    base = np.load(path)["base"]
    rng = np.random.default_rng(0)
    parts = [base]
    while sum(map(len, parts)) < rows:
        noise = rng.integers(-2, 3, base.shape, dtype=np.int16)
        parts.append(np.clip(base + noise, 0, 255).astype(np.uint8))
    return np.ascontiguousarray(np.concatenate(parts)[:rows].astype(dtype))


def sift_queries(count: int) -> NDArray[np.float32]:
    return np.load(DATA / "sift-400k.npz")["query"][:count].astype(np.float32)


def in_turn(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median seconds of each call, all of them once a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def row(what: str, ours: float, peer: float, target: str) -> None:
    """A line of the table: seconds of both, and how many times our speed is the peer's."""
    print(
        f"| {what} | {ours * 1e3:,.2f} ms | {peer * 1e3:,.2f} ms | {peer / ours:.2f}× | {target} |",
        flush=True,
    )
