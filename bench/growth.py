"""What a query costs as a collection grows: time, pages read from a cold disk, memory, and the file.

    python bench/growth.py [--rows 50000,100000,200000,400000] [--cold 100]

SIFT descriptors under l2, as float32; recall 0.95, which the collection calibrates for itself; one query at a time. Pages
are the system's own count of what was read from the disk, after everything of the file was dropped from memory before
each query (Linux). Exponents are fitted: time ~ rows^e. The last line is text-384 under cosine, for its file.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from large import read_from_disk
from measure import pin
from peers import DATA

import vecstore

_DONTNEED = 4
ROUNDS = 5


def forget(path: Path) -> None:
    """Nothing of the file stays in memory: neither in this process's mappings nor in the page cache."""
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] == str(path):
            low, high = (int(end, 16) for end in parts[0].split("-"))
            libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _DONTNEED)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def share(collection: Any, queries: Any) -> float:
    truth = collection.search(queries, k=10, exact=True).distances[:, -1:]
    return float(np.mean(collection.search(queries, k=10).distances <= truth * (1 + 1e-6) + 1e-9))


def build(path: Path, rows: Any, metric: str) -> float:
    start = time.perf_counter()
    with vecstore.open(path, dim=rows.shape[1], metric=metric) as collection:
        collection.add(np.arange(len(rows)), rows)
    return time.perf_counter() - start


def measure(path: Path, queries: Any, cold: int) -> dict[str, float]:
    with vecstore.open(path, mode="r", threads=1) as collection:
        found = {"recall": share(collection, queries)}
        pin(1)
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for query in queries:
                collection.search(query, k=10)
            seconds.append((time.perf_counter() - start) / len(queries))
        found["seconds"] = statistics.median(seconds)
        found["hops"] = statistics.mean(collection.explain(query, k=10)["hops"] for query in queries[:100])
        found["memory"] = collection.stats()["memory_bytes"]
        pages, waits = [], []
        for query in queries[:cold]:
            forget(path)
            read, start = read_from_disk(), time.perf_counter()
            _ = collection.search(query, k=10).ids
            waits.append(time.perf_counter() - start)
            pages.append((read_from_disk() - read) / 4096)
        found["pages"], found["cold"] = statistics.mean(pages), statistics.median(waits)
        pin(2)
    return found


def exponent(rows: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(rows), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="50000,100000,200000,400000")
    parser.add_argument("--cold", type=int, default=100, help="queries after which pages are counted")
    options = parser.parse_args()
    sizes = [int(size) for size in options.rows.split(",")]
    sift, text = np.load(DATA / "sift-400k.npz"), np.load(DATA / "text-384.npz")
    queries = sift["query"].astype(np.float32)
    print(
        "| rows | add and build, s | recall@10 | hops | one query, µs | cold: pages read | cold, ms | memory, MB | file / raw |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    results: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as folder:
        sets = [(f"{size:,}", sift["base"][:size].astype(np.float32), queries, "l2") for size in sizes]
        sets.append(("text-384", text["base"].astype(np.float32), text["query"].astype(np.float32), "cosine"))
        for name, rows, asked, metric in sets:
            path = Path(folder).resolve() / f"{len(rows)}-{metric}.vec"
            seconds = build(path, rows, metric)
            found = measure(path, asked, options.cold) | {"file": path.stat().st_blocks * 512 / rows.nbytes}
            results.append(found)
            print(
                f"| {name} | {seconds:.1f} | {found['recall']:.3f} | {found['hops']:.1f} | {found['seconds'] * 1e6:.1f} | "
                f"{found['pages']:.1f} | {found['cold'] * 1e3:.2f} | {found['memory'] / 1e6:.1f} | {found['file']:.2f}× |",
                flush=True,
            )
            path.unlink()
    grown = {what: exponent(sizes, [each[what] for each in results[:-1]]) for what in ("seconds", "pages", "memory")}
    print(f"\nExponents: time {grown['seconds']:.2f}, cold pages {grown['pages']:.2f}, memory {grown['memory']:.2f}.")


if __name__ == "__main__":
    main()
