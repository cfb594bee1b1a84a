"""Pictures to look at: as a page, or in the terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import vecstore
from vecstore.cli import terminal
from vecstore.cli.output import megabytes, plural, say
from vecstore.cli.pictures import HIDDEN

# These are told in words of their own.
_TOLD = ("width", "height", "size", "path", "folder", "time", "camera", "gps")


def small(id_: str, metadata: dict[str, Any]) -> bytes | None:
    """A thumbnail of a stored picture: the one that was stored with it, or of its file, where that can be read."""
    from vecstore.embed import ImageError
    from vecstore.embed.files import path_of
    from vecstore.embed.thumbnails import stored, thumbnail

    kept = stored(metadata)
    if kept is not None:
        return kept
    try:
        return thumbnail(path_of(id_))
    except ImageError:
        return None


def card(id_: str, metadata: dict[str, Any], distance: float | None = None, label: str = "") -> Any:
    """A record on a page."""
    from vecstore.embed.files import path_of
    from vecstore.embed.page import Card

    path = path_of(id_)
    link = Path(path).as_uri() if os.path.isabs(path) else None
    within = str(metadata.get("path") or id_)
    folder, _, name = within.rpartition("/")
    told = tuple(facts(metadata))
    pixels = [value for fact, value in told if fact == "pixels"]
    more = " · ".join(part for part in (folder, *pixels) if part)
    return Card(name or id_, link, distance, small(id_, metadata), (*told, ("path", id_)), label, more)


def facts(metadata: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """A record's metadata as pairs of words, what machines need left out."""
    if "width" in metadata and "height" in metadata:
        yield "pixels", f"{metadata['width']:,} × {metadata['height']:,}"
    if isinstance(metadata.get("size"), int):
        size = metadata["size"]
        yield "size", megabytes(size) if size >= 1_000_000 else f"{size / 1e3:,.0f} KB"
    for name in ("folder", "time", "camera"):
        if metadata.get(name):
            yield name, str(metadata[name]).replace("T", " ") if name == "time" else str(metadata[name])
    gps = metadata.get("gps")
    if isinstance(gps, dict):
        yield "place", ", ".join(str(value) for value in gps.values())
    for name in sorted(set(metadata) - set(_TOLD) - set(HIDDEN)):
        value = metadata[name]
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def asked_card(thing: str, source: Any = None) -> Any:
    """What was asked for, on a page; of a web address, with what was fetched from there."""
    from vecstore.embed import ImageError
    from vecstore.embed.fetch import is_address
    from vecstore.embed.page import Card
    from vecstore.embed.thumbnails import thumbnail

    try:
        picture = thumbnail(thing if source is None else source)
    except ImageError:
        picture = None
    if is_address(thing):
        return Card(thing, thing, picture=picture)
    return Card(os.path.basename(thing), Path(os.path.abspath(thing)).as_uri(), picture=picture)


def write_hits(path: str, file: str, asked: Sequence[Any], words: str, hits: vecstore.Hits) -> None:
    """The answers to one question as one HTML page."""
    from vecstore.embed.page import Section

    cards = [card(str(hit.id), hit.metadata, hit.distance) for hit in hits]
    when = time.strftime("%Y-%m-%d %H:%M")
    note = f"{plural(len(cards), 'picture')} from {os.path.basename(file)}, nearest first · {when}"
    write(path, words, [Section(cards)], asked, note)


def write(path: str, title: str, sections: Sequence[Any], asked: Sequence[Any] = (), note: str = "") -> None:
    """A page into a file."""
    from vecstore.embed.page import page

    text = page(title, sections, asked=asked, note=note)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def show(options: argparse.Namespace, hits: vecstore.Hits) -> None:
    """Thumbnails of answers, in the terminal."""
    way = terminal.way_of(options.show, os.environ)
    drawn = [
        (small(str(hit.id), hit.metadata), f"{rank} {hit.distance:.3f} {os.path.basename(str(hit.id))}")
        for rank, hit in enumerate(hits, 1)
    ]
    for line in terminal.pictures(drawn, way):
        say(line, sys.stdout)


def print_names(names: Iterable[str], *, paths: bool, null: bool) -> None:
    """Ids or paths alone, as bytes: what a file is called may be no text."""
    from vecstore.embed.files import path_of

    end = b"\0" if null else b"\n"
    told = b"".join((os.fsencode(path_of(name)) if paths else name.encode()) + end for name in names)
    with contextlib.suppress(AttributeError):  # a stream that stands in for stdout may have no bytes below
        sys.stdout.flush()
        sys.stdout.buffer.write(told)
        return
    sys.stdout.write(told.decode("utf-8", "backslashreplace"))
