"""What commands have in common: how they are declared, and how they say what they found."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

import vecstore

Run = Callable[[argparse.Namespace], int]


class CommandError(Exception):
    """The command cannot do what was asked; its message is the one line that the user sees."""


def add_command(commands: Any, name: str, run: Run, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand with ``--json`` and an example in its help."""
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[:1].upper() + summary[1:] + ".",
        epilog=f"example:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="write one JSON document instead of text")
    parser.set_defaults(run=run, parser=parser)
    return parser


def open_file(path: str, mode: str = "r") -> vecstore.Collection:
    """An existing collection; a missing one is never created."""
    if mode == "a" and not os.path.exists(path):
        mode = "r"
    try:
        return vecstore.open(path, mode=mode)
    except vecstore.CollectionNotFoundError:
        raise CommandError(f"{path} does not exist") from None


def whole(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``low``."""

    def number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        return value

    return number


# -- writing


def emit(options: argparse.Namespace, document: dict[str, Any], lines: Iterable[str]) -> None:
    """The document with ``--json``, the lines otherwise."""
    text = dumps(document) if options.json else "\n".join(lines)
    say(text, sys.stdout)


def say(text: str, stream: TextIO) -> None:
    """Print, also where the stream's encoding lacks a character."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def dumps(document: object) -> str:
    """JSON that every parser reads: NaN and infinity, which it lacks, become null."""
    try:
        return json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(document), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, vecstore.VecstoreError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


# -- the looks of things


def megabytes(count: float) -> str:
    """
    >>> megabytes(58245120)
    '58.2 MB'
    """
    return f"{count / 1e6:,.1f} MB" if count >= 50_000 else f"{count / 1e6:,.3f} MB"


def duration(seconds: float) -> str:
    """
    >>> duration(0.0032), duration(75)
    ('3.20 ms', '75.0 s')
    """
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def plural(count: int, noun: str = "record") -> str:
    """
    >>> plural(1), plural(1200)
    ('1 record', '1,200 records')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def pairs(items: Iterable[tuple[str, str]]) -> list[str]:
    """
    >>> pairs([("dim", "3"), ("metric", "l2")])
    ['dim     3', 'metric  l2']
    """
    rows = list(items)
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{label:<{width}}  {value}".rstrip() for label, value in rows]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> list[str]:
    """Aligned columns, the first ``right`` of them to the right, shortened to the terminal's width."""
    shown = [[printable(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(columns, cells)) for cells in zip(*shown, strict=True)]
    limit = shutil.get_terminal_size((1 << 20, 24)).columns
    # Only the last column but one, the id, gives way to the last, and at most half of the width.
    if len(widths) > 1:
        widths[-2] = min(widths[-2], max(8, limit // 2))
    lines = []
    for row in shown:
        cells = []
        for place, (cell, width) in enumerate(zip(row[:-1], widths, strict=False)):
            text = shorten(cell, width)
            fill = " " * (width - columns(text))
            cells.append(fill + text if place < right else text + fill)
        start = "  ".join(cells) + "  "
        lines.append((start + shorten(row[-1], max(8, limit - columns(start)))).rstrip())
    return lines


def printable(text: str) -> str:
    """The text with what would move the cursor written as an escape.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def columns(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cell(char) for char in text)


def _cell(char: str) -> int:
    return 0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")


def shorten(text: str, width: int) -> str:
    """So much of a text as there is room for; of a path, its end.

    >>> shorten("abcdefgh", 5), shorten("/photos/2024/a.jpg", 11)
    ('abcd…', '…2024/a.jpg')
    """
    if columns(text) <= width:
        return text
    path = os.path.isabs(text)
    kept, used = [], 0
    for char in reversed(text) if path else text:
        used += _cell(char)
        if used > width - 1:
            break
        kept.append(char)
    return "…" + "".join(reversed(kept)) if path else "".join(kept) + "…"


class Clock:
    """Seconds since it was made or last read."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def read(self) -> float:
        now = time.perf_counter()
        passed, self._start = now - self._start, now
        return passed
