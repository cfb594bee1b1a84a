"""What a collection says of itself: its statistics, a search's plan, a long call's progress."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import config
from vecstore.device import Device
from vecstore.index.walk import Effort
from vecstore.query.fields import Fields
from vecstore.storage import keys
from vecstore.storage.fields import listed
from vecstore.storage.file import File
from vecstore.storage.linked import linked_mask, pending_slots
from vecstore.storage.state import Blocks


def stats(
    blocks: Blocks, file: File, fields: Fields, graph_bytes: int, drift: float | None, device: Device
) -> dict[str, Any]:
    """Counts, sizes, and what waits to be done."""
    header, layout = blocks.header, blocks.layout
    present = {kind: int(blocks.present(kind).sum()) for kind in keys.KINDS}
    catalog = sum(len(parts) for parts in header.catalog.values())
    # The two meta pages and the header stand beside what the catalog lists.
    pages = sum(count * layout.pages(kind) for kind, count in present.items()) + catalog + 3
    rows = present[keys.VECTORS] * layout.rows
    graph, readers = header.graph, file.readers()
    file_bytes = os.path.getsize(file.path)
    cached = sum(value.nbytes for value in blocks.cache.values() if isinstance(value, np.ndarray))
    return {
        "path": file.path,
        "count": header.records,
        "dim": header.settings.dim,
        "metric": header.settings.metric,
        "dtype": header.settings.dtype,
        "format_version": header.version,
        "created": header.created,
        "file_bytes": file_bytes,
        "live_bytes": pages * layout.page_bytes,
        "free_bytes": max(0, file_bytes - pages * layout.page_bytes),
        "vector_bytes": header.records * layout.row_bytes,
        "dead_rows_share": round(1 - header.records / rows, 4) if rows else 0.0,
        "block_bytes": layout.pages(keys.VECTORS) * layout.page_bytes,
        "blocks": {keys.NAMES[kind]: count for kind, count in present.items()},
        "memory_bytes": fields.nbytes + cached + graph_bytes,
        # "cpu" until a card did something; then its name, and what this process holds there for all collections.
        "device": device.name,
        "device_memory_bytes": device.held,
        "filter_columns": fields.names,
        "indexes": listed(blocks),
        "readers": len(readers),
        "held_snapshots": [
            {"process": process, "commits_behind": behind} for process, behind in readers if behind
        ],
        "snapshot_age_seconds": file.oldest_snapshot(),
        "pending": 0 if graph is None else header.records - int(linked_mask(blocks).sum(dtype=np.int64)),
        "graph_degree": None if graph is None else graph.degree,
        "nodes": 0 if graph is None else graph.nodes,
        "codec": None if graph is None else graph.codec,
        # Rows that are behind with what came and went, edges that wait beside the rows, and changes since walks were measured.
        "unswept": 0 if graph is None else graph.owed,
        "later_edges": 0 if graph is None else graph.edges,
        "uncalibrated": 0 if graph is None else graph.changes,
        "codec_drift": None if drift is None else round(drift, 3),
    }


def warn_of_old_snapshots(file: File, known: set[int]) -> None:
    """Name each process once that keeps the file from using again what was freed."""
    for process, behind in file.readers():
        if behind >= config.OLD_SNAPSHOT and process not in known:
            known.add(process)
            warnings.warn(
                f"process {process} has been reading {file.path} for {behind:,} commits, and the file grows as long as it "
                "does, because what was freed since cannot be used again: end that iteration, export or backup",
                RuntimeWarning,
                stacklevel=2,
            )


def plan(
    blocks: Blocks,
    mask: NDArray[np.uint8],
    queries: int,
    hits: int,
    stages: dict[str, float],
    effort: Effort | None,
) -> dict[str, Any]:
    """What a scan did, or a walk."""
    candidates = int(np.count_nonzero(mask))
    if effort is not None:
        pending = int(pending_slots(blocks).size)
        filtered: dict[str, Any] = {}
        if effort.predicted is not None:
            filtered = {"given_up": effort.given_up, "predicted": effort.predicted}
        return filtered | {
            "plan": effort.plan,
            "exact": False,
            "queries": queries,
            "candidates": candidates,
            "hops": effort.hops,
            "distances": effort.scores + effort.reranked + pending * queries,
            "scores": effort.scores,
            "reranked": effort.reranked,
            "pending": pending,
            "blocks": effort.hops + effort.reranked,
            "hits": hits,
            "seconds": stages,
        }
    rows = blocks.layout.rows
    padded = np.zeros(-(-mask.size // rows) * rows, dtype=np.uint8)
    padded[: mask.size] = mask
    return {
        "plan": "scan",
        "exact": True,
        "queries": queries,
        "candidates": candidates,
        "hops": 0,
        "distances": candidates * queries,
        "blocks": int(padded.reshape(-1, rows).any(axis=1).sum()),
        "hits": hits,
        "seconds": stages,
    }


@contextlib.contextmanager
def build_progress() -> Iterator[Callable[[float], None]]:
    """A line that tells how far the building of a graph is; for builds of some seconds, on a terminal."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    start = last = time.perf_counter()
    drawn = False

    def report(share: float) -> None:
        nonlocal last, drawn
        now = time.perf_counter()
        if shown and now - start > 1.0 and now - last > 0.1:
            last, drawn = now, True
            bar = "#" * int(30 * share)
            sys.stderr.write(f"\rlinking the graph [{bar:<30}] {share:4.0%}, {now - start:,.0f} s")
            sys.stderr.flush()

    try:
        yield report
    finally:
        if drawn:
            sys.stderr.write("\n")


@contextlib.contextmanager
def progress_line(wanted: bool) -> Iterator[Callable[[int], None]]:
    """A line that tells how far a long call is; silent where standard error is no terminal."""
    shown = wanted and sys.stderr is not None and sys.stderr.isatty()
    start = time.perf_counter()
    last = 0.0

    def report(count: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if shown and now - last > 0.1:
            last = now
            sys.stderr.write(f"\r{count:,} records, {count / max(now - start, 1e-9):,.0f} a second")
            sys.stderr.flush()

    try:
        yield report
    finally:
        if shown:
            sys.stderr.write("\n")
