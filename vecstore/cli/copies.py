"""Copies among pictures: dedupe."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from vecstore.cli import gallery
from vecstore.cli.output import (
    CommandError,
    add_command,
    duration,
    emit,
    megabytes,
    open_file,
    plural,
    printable,
    whole,
)
from vecstore.cli.pictures import HIDDEN

_EXAMPLE = """vecstore dedupe photos.vec --html copies.html
vecstore dedupe photos.vec --keep oldest --script remove.sh
vecstore dedupe photos.vec --move-to copies/
vecstore dedupe photos.vec --paths -0 | xargs -0 ls -l"""

# Of a group of thousands, so many are written and drawn; --json and --paths have all.
_SHOWN = 24

_KINDS = {"kept": "keep", "exact": "same bytes", "near": "alike", "mirrored": "mirrored"}


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "dedupe", dedupe, "find pictures that are there twice, and delete nothing", _EXAMPLE
    )
    parser.add_argument("file", metavar="FILE", help="the collection, made by vecstore index")
    parser.add_argument(
        "--keep", choices=("largest", "oldest"), default="largest", help="which of a group is kept (largest)"
    )
    parser.add_argument(
        "--radius",
        type=float,
        metavar="DISTANCE",
        help="how far copies may be apart (a fifth of what is usual)",
    )
    parser.add_argument(
        "--bits", type=whole(0), default=12, help="how many of 64 bits of a hash may differ (12); 20 finds turned ones"
    )
    parser.add_argument("--html", metavar="PAGE", help="write the groups side by side as one page")
    parser.add_argument(
        "--limit",
        type=whole(1),
        default=200,
        help="how many groups the page shows (200), those with most copies first",
    )
    parser.add_argument(
        "--script", metavar="FILE", help="write a shell script that removes all but the kept ones"
    )
    parser.add_argument("--move-to", metavar="FOLDER", help="move all but the kept ones there, now")
    parser.add_argument("--paths", action="store_true", help="the copies' paths alone, without the kept ones")
    parser.add_argument("--null", action="store_true", help="or -0: with --paths, end each with NUL")


def dedupe(options: argparse.Namespace) -> int:
    """Find copies, and write what was asked for."""
    from vecstore import embed

    if options.paths and options.json:
        options.parser.error("--json and --paths cannot go together")
    if options.null and not options.paths:
        options.parser.error("--null (-0) goes with --paths")
    with open_file(options.file) as collection:
        found = embed.dedupe(collection, keep=options.keep, radius=options.radius, bits=options.bits)
    if options.html is not None:
        _write_page(options, found)
    if options.script is not None:
        _write_script(options.script, embed.removal_script(found))
    moved = None if options.move_to is None else embed.move_copies(found, options.move_to)
    if options.paths:
        gallery.print_names([copy.id for copy in found.spare], paths=True, null=options.null)
        return 0
    document = {
        "file": options.file,
        "pictures": found.pictures,
        "keep": found.keep,
        "radius": found.radius,
        "copies": len(found.spare),
        "copies_bytes": found.spare_bytes,
        "groups": [[_told(copy) for copy in (group.kept, *group.copies)] for group in found.groups],
        "moved": [] if moved is None else [{"from": source, "to": target} for source, target in moved.moved],
        "left": [] if moved is None else [{"path": path, "reason": reason} for path, reason in moved.left],
        "seconds": found.seconds,
    }
    emit(options, document, _lines(options, found, moved))
    return 0


def _told(copy: Any) -> dict[str, Any]:
    facts = {name: value for name, value in copy.metadata.items() if name not in HIDDEN}
    return {"path": copy.id, "kind": copy.kind, "distance": copy.distance, "metadata": facts}


def _lines(options: argparse.Namespace, found: Any, moved: Any) -> list[str]:
    lines = []
    for number, group in enumerate(found.groups, 1):
        lines.append(f"group {number}")
        for copy in (group.kept, *group.copies[: _SHOWN - 1]):
            size = f"{copy.metadata['width']}×{copy.metadata['height']}"
            lines.append(f"  {_KINDS[copy.kind]:<10}  {size:>11}  {copy.distance:.3f}  {printable(copy.id)}")
        if len(group.copies) >= _SHOWN:
            lines.append(f"  … and {len(group.copies) + 1 - _SHOWN:,} more")
    lines.append(_summary(found))
    if options.html is not None:
        lines.append(f"groups side by side: {options.html}")
    if options.script is not None:
        wanted = f"to remove the copies, read and run: sh {options.script}"
        lines.append(wanted if found.groups else f"{options.script} removes nothing")
    if moved is not None:
        lines.append(
            f"{plural(len(moved.moved), 'file')} moved to {options.move_to}; vecstore index --prune forgets them"
        )
        lines += [f"left alone: {printable(path)}: {reason}" for path, reason in moved.left]
    return lines


def _summary(found: Any) -> str:
    if not found.groups:
        return f"no copies among {plural(found.pictures, 'picture')} ({duration(found.seconds)})"
    return (
        f"{'1 copy' if len(found.spare) == 1 else f'{len(found.spare):,} copies'} in "
        f"{plural(len(found.groups), 'group')}, {megabytes(found.spare_bytes)}, among "
        f"{plural(found.pictures, 'picture')} ({duration(found.seconds)})"
    )


def _write_page(options: argparse.Namespace, found: Any) -> None:
    from vecstore.embed.page import Section

    sections = []
    for number, group in enumerate(found.groups[: options.limit], 1):
        copies = (group.kept, *group.copies[: _SHOWN - 1])
        cards = [
            gallery.card(
                copy.id, copy.metadata, None if copy is group.kept else copy.distance, _KINDS[copy.kind]
            )
            for copy in copies
        ]
        shown = f", {_SHOWN} of them shown" if len(group.copies) >= _SHOWN else ""
        heading = f"Group {number} · {len(group.copies) + 1:,} pictures{shown}"
        sections.append(Section(cards, heading, beside_first=True))
    note = _summary(found)
    if len(found.groups) > options.limit:
        note += f"; the first {options.limit} groups are shown"
    gallery.write(options.html, f"Copies in {os.path.basename(options.file)}", sections, note=note)


def _write_script(path: str, script: bytes) -> None:
    """A script never replaces another file: it removes things, and what is there may be no script."""
    try:
        with open(path, "xb") as file:
            file.write(script)
    except FileExistsError:
        with open(path, "rb") as file:
            ours = file.read(len(_MARK)) == _MARK
        if not ours:
            raise CommandError(
                f"{path} exists and is no script of vecstore dedupe: name another file"
            ) from None
        with open(path, "wb") as file:
            file.write(script)
    if sys.platform != "win32":
        os.chmod(path, 0o755)


_MARK = b"#!/bin/sh\n# Removes copies of pictures."
