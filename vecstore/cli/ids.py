"""Ids as text, so that ``7`` and ``"7"`` stay two different ids."""

from __future__ import annotations

import json
import re

from vecstore.cli.output import CommandError

_WHOLE = re.compile(r"-?[1-9][0-9]*|0")


def to_line(id_: str | int) -> str:
    """One line for an id; a text that would be read as something else stands in JSON's quotes.

    >>> to_line(7), to_line("7"), to_line("img-1")
    ('7', '"7"', 'img-1')
    """
    if isinstance(id_, int):
        return str(id_)
    plain = id_.isprintable() and id_ == id_.strip() and not id_.startswith('"') and not _is_whole(id_)
    return id_ if plain else json.dumps(id_)


def from_line(line: str) -> str | int:
    """What ``to_line`` wrote.

    >>> from_line("7"), from_line('"7"'), from_line("007")
    (7, '7', '007')
    """
    if _is_whole(line):
        return int(line)
    if line.startswith('"'):
        try:
            value = json.loads(line)
        except ValueError:
            return line
        if isinstance(value, str):
            return value
    return line


def checked(value: object, place: str) -> str | int:
    """An id that came as JSON."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise CommandError(f"{place}: an id must be a text or a whole number, not {json.dumps(value)[:60]}")


def _is_whole(text: str) -> bool:
    return _WHOLE.fullmatch(text) is not None and -(1 << 63) <= int(text[:20]) < 1 << 63 and len(text) <= 20
