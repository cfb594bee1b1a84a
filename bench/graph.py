"""Recall against speed, of vecstore's graph and of every peer there is a package of.

    python bench/graph.py [--sets sift,text] [--peers faiss,hnswlib-16,…] [--rows N] [--quick] [--again]
    python bench/graph.py --table [--rows N]     # the table, and curves.png, from what has been measured

Every peer builds and answers in a process of its own, with a time limit, and leaves a file of JSON lines in
BENCH_RESULTS (a folder of the temporary directory unless said): what is there is not measured again, so an
interrupted run goes on where it was. A package that needs an environment of its own is looked for in
`bench-<package>` beside this one's (`python -m venv ../bench-diskannpy`, which wants NumPy 1), or where
BENCH_PYTHON_<PACKAGE> says. BENCH_FOLDER is where indexes on disk are made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from curves import MARKS, draw, summary, tables
from measure import squared
from peers import DATA
from roster import VARIANTS, chosen

SETS = {"sift": ("sift-400k", "l2"), "text": ("text-384", "cosine")}
HERE = Path(__file__).resolve().parent


def results_folder() -> Path:
    folder = Path(os.environ.get("BENCH_RESULTS", Path(tempfile.gettempdir()) / "vecstore-bench-graph"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepare(results: Path, name: str, rows: int | None) -> Path:
    """The set as float32 rows and queries, unit vectors for cosine, and each query's true tenth distance."""
    file, metric = SETS[name]
    loaded = np.load(DATA / f"{file}.npz")
    base = loaded["base"].astype(np.float32)
    queries = loaded["query"].astype(np.float32)
    whole = rows is None or rows >= len(base)
    base = base if whole else base[:rows]
    folder = results / "data" / f"{name}-{len(base)}"
    if (folder / "limits.npy").exists():
        return folder
    if metric == "cosine":
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    if whole:
        truth = loaded["neighbors"][:, :10].astype(np.int64)
    else:
        near = (base**2).sum(1) - 2 * (queries @ base.T)
        truth = np.argpartition(near, 20, axis=1)[:, :20]
    limits = np.sort(squared(base, queries, truth), axis=1)[:, 9]
    folder.mkdir(parents=True, exist_ok=True)
    for what, array in (("base", base), ("queries", queries), ("limits", limits)):
        np.save(folder / f"{what}.npy", array)
    return folder


def python_of(package: str) -> str:
    said = os.environ.get(f"BENCH_PYTHON_{package.replace('-', '_').upper()}")
    own = Path(sys.prefix).parent / f"bench-{package}" / "bin" / "python"
    return said or (str(own) if own.exists() else sys.executable)


def events_of(path: Path) -> list[dict[str, Any]]:
    """What a child has said so far; a line that it was killed in does not count."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    return events


def run(script: str, package: str, out: Path, settings: dict[str, Any], limits: dict[str, float]) -> None:
    """Start the child, watch its lines, end it where none has come for too long, and write down how it ended."""
    out.unlink(missing_ok=True)
    settings |= {"out": str(out)}
    # Two threads wherever a library asks the environment; those that wait shall sleep and not spin.
    names = ("OMP", "RAYON", "NUMBA", "OPENBLAS", "LANCE_CPU")
    env = os.environ | {f"{name}_{'' if 'LANCE' in name else 'NUM_'}THREADS": "2" for name in names}
    env |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    log = out.with_suffix(".log")
    with open(log, "w") as file:
        child = subprocess.Popen(
            [python_of(package), str(HERE / script), json.dumps(settings)],
            stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True, cwd=out.parent,
        )  # fmt: skip
    size, since, phase, error = 0, time.monotonic(), "start", None
    try:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1)
            if out.exists() and out.stat().st_size > size:
                size, since = out.stat().st_size, time.monotonic()
                phase = [event["event"] for event in events_of(out)][-1]
            limit = limits["build" if phase == "warm" else "step"]
            if time.monotonic() - since > limit:
                error = f"ended: nothing came for {limit:,.0f} s after “{phase}”"
                break
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if error is None and not any(event["event"] == "done" for event in events_of(out)):
        said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        error = f"exit status {child.returncode} after “{phase}”: {said[-1] if said else 'nothing said'}"
    if error:
        with open(out, "a") as file:
            file.write("\n" + json.dumps({"event": "failed", "error": error[:500]}) + "\n")


def finished(path: Path) -> bool:
    """Measured, or failed in a way that the next time would show again: vecstore itself changes all the time, and
    a package that was missing may be there by now."""
    missing = ("PackageNotFoundError", "ModuleNotFoundError", "ImportError")
    for event in events_of(path):
        if event["event"] == "done":
            return True
        if event["event"] == "failed":
            return not path.stem.endswith("vecstore") and not any(name in event["error"] for name in missing)
    return False


def measure_all(arguments: argparse.Namespace, results: Path) -> None:
    quick = arguments.quick
    settings = {"rounds": 1 if quick else 3, "budget": 2 if quick else 5, "step": 3 if quick else 1}
    settings |= {"queries": 200 if quick else 1000}
    for name in arguments.sets.split(","):
        data = prepare(results, name, arguments.rows)
        for variant in chosen(arguments.peers):
            out = results / f"{data.name}{'-quick' if quick else ''}.{variant}.jsonl"
            if name not in VARIANTS[variant].sets or (finished(out) and not arguments.again):
                continue
            limits = {"build": arguments.build_limit, "step": arguments.limit}
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as place:
                asked = settings | {"metric": SETS[name][1], "place": place, "variant": variant}
                asked |= {"data": str(data)}
                run("measure.py", VARIANTS[variant].peer.package, out, asked, limits)
            told = summary(variant, events_of(out))
            said = told["error"] or " · ".join(
                f"{what} {told['one'][level] or 0:,.0f}/s" for what, level in (("0.95", 0), ("0.99", 1))
            )
            print(f"{data.name} {variant}: {said} ({time.monotonic() - start:,.0f} s in all)", flush=True)


def measured(results: Path, sets: list[str], rows: int | None, quick: bool) -> dict[str, dict[str, Any]]:
    """Everything there is for the sets asked for: set → variant → its lines."""
    found: dict[str, dict[str, Any]] = {}
    suffix = "-quick" if quick else ""
    for name in sets:
        starts = {path.name.split(".")[0] for path in results.glob(f"{name}-*.jsonl")}
        sizes = [int(start.split("-")[1]) for start in starts if start.endswith("-quick") == quick]
        size = max((size for size in sizes if rows is None or size <= rows), default=0)
        files = {variant: results / f"{name}-{size}{suffix}.{variant}.jsonl" for variant in VARIANTS}
        lines = {variant: events_of(path) for variant, path in files.items() if path.exists()}
        if lines:
            found[f"{name}, {size:,} rows"] = lines
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", default="sift,text", help="of sift (l2) and text (cosine)")
    parser.add_argument("--peers", help=f"peers or variants: {', '.join(VARIANTS)}")
    parser.add_argument("--rows", type=int, help="the first rows of the set, not all")
    parser.add_argument("--quick", action="store_true", help="200 queries, one round, a third of the knobs")
    parser.add_argument(
        "--again", action="store_true", help="measure what has been measured, and what failed"
    )
    parser.add_argument("--limit", type=float, default=300, help="seconds that a point may take")
    parser.add_argument("--build-limit", type=float, default=2400, help="seconds that a build may take")
    parser.add_argument("--table", action="store_true", help="print the table and draw the picture")
    arguments = parser.parse_args()
    results = results_folder()
    if not arguments.table:
        measure_all(arguments, results)
    found = measured(results, arguments.sets.split(","), arguments.rows, arguments.quick)
    print(tables(found))
    if arguments.table:
        picture = results / "curves.png"
        draw(found, picture)
        print(f"{', '.join(MARKS.values())}: {picture}", file=sys.stderr)


if __name__ == "__main__":
    main()
