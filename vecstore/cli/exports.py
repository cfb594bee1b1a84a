"""Carrying records out: export."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import vecstore
from vecstore.cli import json_lines, numpy_write
from vecstore.cli.formats import FORMATS, format_of
from vecstore.cli.output import Clock, CommandError, add_command, dumps, duration, open_file, plural, say

_EXPORT = """vecstore export photos.vec photos.jsonl
vecstore export photos.vec photos.npz
vecstore export photos.vec photos.npy --ids photos.ids
vecstore export --skip-damaged broken.vec - | gzip > saved.jsonl.gz"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "export", export, "write all records to a file that others can read", _EXPORT
    )
    parser.add_argument("file", metavar="FILE", help="the collection")
    parser.add_argument("target", metavar="TARGET", help=FORMATS.format("output"))
    parser.add_argument("--ids", metavar="IDS", help="for .npy: write the ids here, one a line")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="save what can be read from a damaged file"
    )


def export(options: argparse.Namespace) -> int:
    """Write every record; what is there already is replaced only when asked for, and never by half."""
    suffix = format_of(options, options.target)
    clock = Clock()
    for path in (options.target, options.ids):
        if path not in (None, "-") and os.path.exists(path) and not options.overwrite:
            raise CommandError(f"{path} exists; choose another path, or pass --overwrite")
    with open_file(options.file) as collection:
        notes: list[str] = []
        expected = len(collection)
        records = _records(collection, skip_damaged=options.skip_damaged)
        if options.target == "-":
            written = json_lines.write(records, sys.stdout.buffer)
        else:
            with _replacing(options.target) as out:
                if suffix == ".jsonl":
                    written = json_lines.write(records, out)
                elif suffix == ".npz":
                    written = numpy_write.write_npz(
                        records, out, _settings(collection), os.path.dirname(options.target)
                    )
                else:
                    written, notes = _write_npy(options, records, out, _settings(collection))
    lost = max(0, expected - written) if options.skip_damaged else 0
    seconds = clock.read()
    document = {
        "file": options.file,
        "target": options.target,
        "records": written,
        "lost": lost,
        "notes": notes,
        "seconds": seconds,
    }
    text = (
        dumps(document)
        if options.json
        else f"{plural(written)} written to {options.target} in {duration(seconds)}"
    )
    if not options.json or options.target != "-":
        say(text, sys.stderr if options.target == "-" else sys.stdout)
    for note in notes:
        say(f"vecstore: {note}", sys.stderr)
    if options.skip_damaged:
        say(
            f"vecstore: {plural(lost)} of {expected:,} could not be read and {'is' if lost == 1 else 'are'} lost",
            sys.stderr,
        )
    return 0


def _records(collection: vecstore.Collection, *, skip_damaged: bool) -> Iterator[vecstore.Record]:
    size = max(1, min(1000, (32 << 20) // (collection.dim * 4)))
    return iter(
        collection.scan(batch_size=size, skip_damaged=True)
        if skip_damaged
        else collection.scan(batch_size=size)
    )


def _settings(collection: vecstore.Collection) -> dict[str, Any]:
    return {"dim": collection.dim, "metric": collection.metric, "dtype": collection.dtype}


def _write_npy(
    options: argparse.Namespace, records: Iterator[vecstore.Record], out: IO[bytes], settings: dict[str, Any]
) -> tuple[int, list[str]]:
    if options.ids is None:
        ids = _Dropped()
        written, metadata = numpy_write.write_npy(records, out, settings, ids)
        notes = (
            [] if ids.plain else [".npy holds no ids, so they were left out: --ids IDS writes them beside it"]
        )
    else:
        with _replacing(options.ids) as beside:
            written, metadata = numpy_write.write_npy(records, out, settings, beside)
        notes = []
    if metadata:
        notes.append(
            f".npy holds no metadata: those of {plural(metadata)} were left out; .npz and .jsonl hold them"
        )
    return written, notes


class _Dropped:
    """Takes lines of ids, and only remembers whether they were 0, 1, 2 …"""

    def __init__(self) -> None:
        self.plain = True
        self._next = 0

    def write(self, line: bytes) -> int:
        self.plain = self.plain and line == b"%d\n" % self._next
        self._next += 1
        return len(line)


@contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.part")
    if not os.path.isdir(folder or "."):
        raise CommandError(f"{path} cannot be written: there is no folder {folder}")
    try:
        with open(part, "xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, path)
    finally:
        if os.path.lexists(part):
            os.unlink(part)
