"""Indexes of fields, for filters: fields."""

from __future__ import annotations

import argparse
from typing import Any

from vecstore.cli.output import add_command, emit, megabytes, open_file, printable, table

_EXAMPLE = """vecstore fields photos.vec
vecstore fields photos.vec --create year --create exif.iso
vecstore fields photos.vec --drop year"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "fields", fields, "list, create or drop the indexes of fields that filters name", _EXAMPLE
    )
    parser.add_argument("file", metavar="FILE", help="the collection")
    parser.add_argument(
        "--create",
        action="append",
        default=[],
        metavar="FIELD",
        help="keep this field in the file, so that a process need not read every record for its first filter on it; "
        "may be given again",
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="FIELD",
        help="drop the index of this field, and never make one by itself; may be given again",
    )


def fields(options: argparse.Namespace) -> int:
    """Drop, create, and tell what there is."""
    if both := set(options.create) & set(options.drop):
        options.parser.error(f"--create and --drop cannot both name {min(both)}")
    with open_file(options.file, "a" if options.create or options.drop else "r") as collection:
        dropped = [field for field in options.drop if collection.drop_index(field)]
        for field in options.create:
            collection.create_index(field)
        found = collection.indexes()
    document = {"file": options.file, "created": options.create, "dropped": dropped, "indexes": found}
    emit(options, document, _lines(options, dropped, found))
    return 0


def _lines(options: argparse.Namespace, dropped: list[str], found: dict[str, dict[str, Any]]) -> list[str]:
    lines = [f"dropped: {printable(field)}" for field in dropped]
    lines += [f"there was no index of {printable(field)}" for field in options.drop if field not in dropped]
    if not found:
        return [
            *lines,
            "no field has an index: --create FIELD makes one, and large collections make them by themselves",
        ]
    rows = [
        (
            megabytes(index["bytes"]),
            f"{index['built']:.0%}",
            "itself" if index["by_itself"] else "asked for",
            name,
        )
        for name, index in found.items()
    ]
    return [*lines, *table(("size", "built", "made by", "field"), rows, right=2)]
