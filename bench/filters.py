"""Searches with a filter, of vecstore and of every peer that can; and what filters cost beside the search.

    python bench/filters.py [cells] [--sets sift,text] [--peers faiss,zvec-hnsw,…] [--rows N] [--quick] [--again]
    python bench/filters.py --build              # build what is not built yet, and measure nothing
    python bench/filters.py --table              # the tables, and filters.png, from what has been measured
    python bench/filters.py evaluate [--rows N]  # a filter on an indexed field, against SQLite
    python bench/filters.py inserts [--rows N]   # inserts with ten metadata fields, with filters asked and without

A cell is a share of the records that match (50 to 0.01 %) and a way they lie: at random, nearest to the query, or
farthest from it. Every peer works in a process of its own. In each cell its knob is raised until recall@10 among what
matches reaches 0.95; then its speed is taken with filters evaluated anew and with filters asked before, beside its
searches without a filter. vecstore is measured as it comes, too.

Collections and results are kept in BENCH_RESULTS (a folder of the temporary directory unless said): what is there of
the same version is neither built nor measured again. vecstore is always measured, and built anew with --rebuild.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import filter_cells
import filter_costs
from filter_measure import TARGET
from filter_roster import FILTERING
from filter_tables import cells_of, draw, tables
from graph import SETS, events_of, finished, prepare, results_folder, run
from roster import chosen


def summary(events: list[dict[str, Any]]) -> str:
    failed = [event["error"] for event in events if event["event"] == "failed"]
    cells = list(cells_of(events).values())
    if failed or not cells:
        return failed[0] if failed else "built"
    reached = sum(bool(cell.get("reached")) for cell in cells)
    short = sum(cell.get("short", 0) > 0 for cell in cells)
    return f"{TARGET} reached in {reached} of {len(cells)} cells, fewer than k came back in {short}"


def results_of(results: Path, data: Path, variant: str, quick: bool) -> Path:
    return results / f"filters-{data.name}{'-quick' if quick else ''}.{variant}.jsonl"


def measure_all(arguments: argparse.Namespace, results: Path) -> None:
    for name in arguments.sets.split(","):
        data = prepare(results, name, arguments.rows)
        cells = filter_cells.prepare(data, arguments.queries)
        for variant in chosen(arguments.peers, FILTERING):
            out = results_of(results, data, variant, arguments.quick)
            if arguments.build:
                out = out.with_suffix(".built.jsonl")
            elif finished(out) and variant != "vecstore" and not arguments.again:
                continue
            place = results / "collections" / data.name / variant
            settings = {
                "variant": variant, "data": str(data), "cells": str(cells), "place": str(place),
                "metric": SETS[name][1], "queries": 30 if arguments.quick else arguments.queries,
                "cell_seconds": 2.0 if arguments.quick else arguments.seconds,
                "build": arguments.build, "rebuild": arguments.rebuild,
            }  # fmt: skip
            start = time.monotonic()
            limits = {"build": arguments.build_limit, "step": 120 + 10 * arguments.seconds}
            run("filter_measure.py", FILTERING[variant].peer.package, out, settings, limits)
            said = summary(events_of(out))
            print(f"{data.name} {variant}: {said} ({time.monotonic() - start:,.0f} s in all)", flush=True)


def measured(results: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Everything there is for the sets asked for: set → variant → its lines."""
    found: dict[str, dict[str, Any]] = {}
    for name in arguments.sets.split(","):
        folders = [path for path in (results / "data").glob(f"{name}-*") if path.name.count("-") == 1]
        sizes = [int(path.name.split("-")[1]) for path in folders]
        size = max((size for size in sizes if arguments.rows is None or size <= arguments.rows), default=0)
        data = results / "data" / f"{name}-{size}"
        files = {variant: results_of(results, data, variant, arguments.quick) for variant in FILTERING}
        lines = {variant: events_of(path) for variant, path in files.items() if path.exists()}
        if lines:
            found[f"{name}, {size:,} rows"] = lines
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="cells", choices=("cells", "evaluate", "inserts"))
    parser.add_argument("--sets", default="sift,text", help="of sift (l2) and text (cosine)")
    parser.add_argument("--peers", help=f"peers or variants: {', '.join(FILTERING)}")
    parser.add_argument("--rows", type=int, help="the first rows of the set, not all")
    parser.add_argument("--queries", type=int, default=500, help="slow peers take fewer (500)")
    parser.add_argument(
        "--seconds", type=float, default=10, help="that a peer may search for its knob in a cell (10)"
    )
    parser.add_argument("--quick", action="store_true", help="30 queries and 2 seconds a cell")
    parser.add_argument(
        "--again", action="store_true", help="measure what has been measured, and what failed"
    )
    parser.add_argument("--build", action="store_true", help="build collections, and measure nothing")
    parser.add_argument("--rebuild", action="store_true", help="build them though they are there")
    parser.add_argument("--build-limit", type=float, default=3600, help="seconds that a build may take")
    parser.add_argument("--table", action="store_true", help="print the tables and draw the picture")
    arguments = parser.parse_args()
    if arguments.what == "evaluate":
        filter_costs.evaluate(arguments.rows)
        return
    if arguments.what == "inserts":
        filter_costs.inserts(arguments.rows)
        return
    results = results_folder()
    if not arguments.table:
        measure_all(arguments, results)
    if arguments.build:
        return
    found = measured(results, arguments)
    print(tables(found))
    picture = results / "filters.png"
    draw(found, picture)
    print(picture, file=sys.stderr)


if __name__ == "__main__":
    main()
