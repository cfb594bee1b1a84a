"""Looking after a file: info, verify, compact, backup, recall, warmup."""

from __future__ import annotations

import argparse
import datetime
import os
from typing import Any

import numpy as np

import vecstore
from vecstore.cli.output import Clock, add_command, duration, emit, megabytes, open_file, pairs, plural, whole


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    for name, run, summary, example in (
        ("info", info, "show what a file holds", "vecstore info photos.vec"),
        ("verify", verify, "check every checksum, id and record", "vecstore verify photos.vec"),
        ("compact", compact, "give free space back to the file system", "vecstore compact photos.vec"),
        ("backup", backup, "write a consistent copy, while others write",
         "vecstore backup photos.vec /backups/photos.vec --overwrite"),
        ("recall", recall, "measure the share of true neighbours that a search finds",
         "vecstore recall photos.vec --sample 200 -k 10"),
        ("warmup", warmup, "load kernels and file, so that the next query is fast", "vecstore warmup photos.vec"),
    ):  # fmt: skip
        parser = add_command(commands, name, run, summary, example)
        parser.add_argument("file", metavar="FILE", help="the collection")
        if name == "backup":
            parser.add_argument("target", metavar="TARGET", help="where the copy goes")
            parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
        if name == "recall":
            parser.add_argument(
                "--sample", type=whole(1), default=100, help="how many stored vectors to ask for (100)"
            )
            parser.add_argument("-k", type=whole(1), default=10, help="neighbours of each (10)")


def info(options: argparse.Namespace) -> int:
    """Show the statistics."""
    with open_file(options.file) as collection:
        found = collection.stats() | _made_with(collection)
    emit(options, found, pairs(_rows(found)))
    return 0


def _made_with(collection: vecstore.Collection) -> dict[str, str]:
    """Of a collection of pictures: its model, and the libraries that computed where their versions might matter."""
    try:
        first = next(iter(collection.scan(batch_size=1, vectors=False)), None)
    except vecstore.VecstoreError:  # What is damaged is for verify to tell; the statistics are there.
        return {}
    facts = {} if first is None else first.metadata
    return {key: str(facts[key]) for key in ("model", "libraries") if key in facts and "content" in facts}


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.removesuffix("_bytes").replace("_", " "), _shown(key, value)) for key, value in found.items()
    ]


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if key.endswith("_bytes"):
        return megabytes(value)
    if key.endswith("_seconds"):
        return duration(value)
    if key.endswith("_share"):
        return f"{value:.1%}"
    if key == "created":
        return datetime.datetime.fromtimestamp(value).isoformat(" ", "seconds")
    if key == "indexes":
        shares = {name: index["built"] for name, index in value.items()}
        return ", ".join(name if share == 1 else f"{name} ({share:.0%} built)" for name, share in shares.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown('', item)}" for name, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def verify(options: argparse.Namespace) -> int:
    """Check the file; 1 if something is wrong."""
    clock = Clock()
    with open_file(options.file) as collection:
        report = collection.verify()
    seconds = clock.read()
    document = {
        "file": options.file,
        "ok": report.ok,
        "blocks": report.blocks,
        "records": report.records,
        "problems": list(report.problems),
        "seconds": seconds,
    }
    if report.ok:
        lines = [
            f"{options.file}: sound ({plural(report.records)}, {plural(report.blocks, 'block')}, {duration(seconds)})"
        ]
    else:
        lines = [
            f"{options.file}: {plural(len(report.problems), 'problem')}",
            *(f"  {text}" for text in report.problems),
        ]
        lines.append("Save what can be read with: vecstore export --skip-damaged FILE saved.jsonl")
    emit(options, document, lines)
    return 0 if report.ok else 1


def compact(options: argparse.Namespace) -> int:
    """Make the file small."""
    with open_file(options.file, "a") as collection:
        freed = collection.compact()
        size = os.path.getsize(collection.path)
    document = {"file": options.file, "freed_bytes": freed, "file_bytes": size}
    emit(
        options, document, [f"{options.file}: {megabytes(max(0, freed))} given back, {megabytes(size)} left"]
    )
    return 0


def backup(options: argparse.Namespace) -> int:
    """Copy the file."""
    clock = Clock()
    with open_file(options.file) as collection:
        collection.backup(options.target, overwrite=options.overwrite)
    size, seconds = os.path.getsize(options.target), clock.read()
    document = {"file": options.file, "target": options.target, "file_bytes": size, "seconds": seconds}
    emit(options, document, [f"{options.target}: {megabytes(size)} written in {duration(seconds)}"])
    return 0


def recall(options: argparse.Namespace) -> int:
    """Measure the recall."""
    with open_file(options.file) as collection:
        sample = min(options.sample, len(collection))
        share = collection.recall(sample=options.sample, k=options.k)
    document = {"file": options.file, "k": options.k, "sample": sample, "recall": share}
    emit(
        options,
        document,
        [f"recall@{options.k}  {share:.4f}  (measured on {plural(sample, 'stored vector')})"],
    )
    return 0


def warmup(options: argparse.Namespace) -> int:
    """Search once in each way, so that everything is compiled and the file is in the page cache."""
    clock = Clock()
    with open_file(options.file) as collection:
        times = {"open": clock.read()}
        first = next(iter(collection.scan(batch_size=1)), None)
        times["read a record"] = clock.read()
        if first is not None:
            query = np.asarray(first.vector)
            many = np.stack([query] * 64)
            hits = collection.search(query)
            times["first query"] = clock.read()
            collection.search(query, 10, radius=float(hits[0].distance))
            times["first query by radius"] = clock.read()
            collection.search(many)
            times["first batch of 64"] = clock.read()
            collection.search(many, exact=True)
            times["first exact batch of 64"] = clock.read()
            collection.search(query)
            times["next query"] = clock.read()
            collection.search(many)
            times["next batch of 64"] = clock.read()
        count = len(collection)
    document = {
        "file": options.file,
        "count": count,
        "seconds": {key.replace(" ", "_"): value for key, value in times.items()},
    }
    lines = pairs((key, f"{duration(value):>12}") for key, value in times.items())
    emit(
        options,
        document,
        lines if count else [*lines, "The collection is empty: there is nothing to search yet."],
    )
    return 0
