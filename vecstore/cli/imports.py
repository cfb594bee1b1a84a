"""Carrying records in: import."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

import vecstore
from vecstore.cli import json_lines, numpy_read
from vecstore.cli.formats import FORMATS, Batch, Source, fitting, format_of
from vecstore.cli.output import Clock, CommandError, add_command, dumps, duration, plural, say, whole
from vecstore.config import DTYPES, METRICS

_IMPORT = """vecstore import photos.jsonl photos.vec --metric cosine
vecstore import photos.npy photos.vec --ids photos.ids --upsert
zcat saved.jsonl.gz | vecstore import - photos.vec"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "import", import_, "add records from a file, creating the collection if need be", _IMPORT
    )
    parser.add_argument("source", metavar="SOURCE", help=FORMATS.format("input"))
    parser.add_argument("file", metavar="FILE", help="the collection")
    parser.add_argument("--ids", metavar="IDS", help="for .npy: ids, one a line; 0, 1, 2 … unless given")
    parser.add_argument("--upsert", action="store_true", help="replace records whose ids are there")
    parser.add_argument(
        "--metric", choices=METRICS, help="of a new collection (cosine, or hamming for binary)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of a new collection (float32)")
    parser.add_argument(
        "--dim", type=whole(1), help="of a new collection; from the data unless given (bits for binary)"
    )


def import_(options: argparse.Namespace) -> int:
    """Add the records of the source, each batch of them atomic."""
    suffix = format_of(options, options.source)
    if suffix == ".jsonl":
        opened = json_lines.read(options.source)
    elif suffix == ".npz":
        opened = numpy_read.read_npz(options.source)
    else:
        opened = numpy_read.read_npy(options.source, options.ids)
    clock = Clock()
    with opened as source:
        batches = iter(source.batches)
        first = next(batches, None)
        created = not os.path.exists(options.file)
        with _opened(options, source, first, created=created) as collection:
            feed = _Feed(collection, first, batches)
            try:
                if options.upsert:
                    for batch in feed:
                        collection.upsert(*batch)
                else:
                    collection.extend(feed, progress=not options.json)
            except (CommandError, vecstore.VecstoreError) as error:
                kept = f"; {plural(feed.written)} before that {'is' if feed.written == 1 else 'are'} in {options.file}"
                start = (
                    ""
                    if isinstance(error, CommandError)
                    else f"records {feed.written:,}…{feed.taken - 1:,} of {options.source}: "
                )
                raise CommandError(
                    f"{start}{error}{kept if feed.written else '; nothing was written'}"
                ) from None
            count = len(collection)
    seconds = clock.read()
    document = {
        "source": options.source,
        "file": options.file,
        "created": created,
        "records": feed.written,
        "count": count,
        "seconds": seconds,
    }
    rate = f"{feed.written / max(seconds, 1e-9):,.0f} a second"
    say(
        dumps(document)
        if options.json
        else f"{plural(feed.written)} {'put' if options.upsert else 'added'} into {options.file} "
        f"in {duration(seconds)} ({rate}); it holds {plural(count)}",
        sys.stdout,
    )
    return 0


class _Feed:
    """Batches in the form that the collection takes, and how far they are."""

    def __init__(self, collection: vecstore.Collection, first: Batch | None, rest: Iterator[Batch]) -> None:
        self._collection, self._first, self._rest = collection, first, rest
        self.taken = self.written = 0

    def __iter__(self) -> Iterator[Batch]:
        batch = self._first
        while batch is not None:
            self.taken += len(batch[0])
            yield batch[0], fitting(batch[1], self._collection.dtype, self._collection.dim), batch[2]
            self.written = self.taken
            batch = next(self._rest, None)


def _opened(
    options: argparse.Namespace, source: Source, first: Batch | None, *, created: bool
) -> vecstore.Collection:
    asked = {"dim": options.dim, "metric": options.metric, "dtype": options.dtype}
    if not created:
        return vecstore.open(options.file, **asked)
    wanted = {**source.settings, **{key: value for key, value in asked.items() if value is not None}}
    if "dim" not in wanted:
        if first is None:
            raise CommandError(
                f"{options.source} holds no records, so {options.file} needs --dim to be created"
            )
        binary = wanted.get("dtype") == "binary" or wanted.get("metric") in ("hamming", "jaccard")
        packed = binary and first[1].dtype != np.bool_
        wanted["dim"] = first[1].shape[1] * (8 if packed else 1)
    if first is not None:
        _try(wanted, first)
    return vecstore.open(options.file, **wanted)


def _try(settings: dict[str, Any], first: Batch) -> None:
    """Let the library judge the first records, so that a refusal leaves no empty file with wrong settings."""
    with (
        tempfile.TemporaryDirectory(prefix="vecstore-import-") as folder,
        vecstore.open(os.path.join(folder, "trial.vec"), durability="none", **settings) as trial,
    ):
        trial.add(first[0], fitting(first[1], trial.dtype, trial.dim), first[2])
