"""What to do with copies: a script that removes them, for its reader to run, or a folder to move them to."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from .duplicates import Copy, Duplicates, Group
from .errors import ImageError, shown
from .files import as_id, path_of

_HEAD = b"""#!/bin/sh
# Removes copies of pictures. Read it before you run it; take out the lines of what you want to keep.
# A copy is removed only while the picture that is kept is there, and one with the same bytes only if it still has them.

same() {
    if cmp -s -- "$1" "$2"; then near "$1" "$2"; else printf 'left alone: %s\\n' "$2" >&2; fi
}
near() {
    if [ -f "$1" ] && [ -f "$2" ] && ! [ "$1" -ef "$2" ]; then rm -- "$2"; else printf 'left alone: %s\\n' "$2" >&2; fi
}
"""


def removal_script(found: Duplicates) -> bytes:
    r"""A shell script that removes every copy but the kept ones, one line for each. Names are quoted.

    >>> kept, copy = (Copy(f"/photos/{name}.jpg", "near", 0.1, {}) for name in ("it's", "a\nb"))
    >>> found = Duplicates((Group(kept, (copy,)),), pictures=2, radius=0.2, keep="largest", seconds=0.1)
    >>> print(removal_script(found).decode().partition("# group")[2])
     1
    near '/photos/it'\''s.jpg' '/photos/a
    b.jpg'
    <BLANKLINE>
    """
    lines = [_HEAD]
    for number, group in enumerate(found.groups, 1):
        lines.append(b"\n# group %d\n" % number)
        for copy in group.copies:
            command = b"same" if copy.kind == "exact" else b"near"
            lines.append(b"%s %s %s\n" % (command, _quoted(group.kept), _quoted(copy)))
    return b"".join(lines)


def _quoted(copy: Copy) -> bytes:
    return b"'" + os.fsencode(path_of(copy.id)).replace(b"'", b"'\\''") + b"'"


@dataclass(frozen=True)
class Moved:
    """What was moved, from where to where, and what was left alone and why."""

    moved: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


def move_copies(found: Duplicates, folder: str | os.PathLike[str]) -> Moved:
    """Move every copy but the kept ones into a folder, which is made if it is not there. Nothing is overwritten.

    A file that changed since it was indexed stays where it is, as does one whose kept picture changed or is gone. The
    collection keeps its records until ``index_folder(..., prune=True)``.

    >>> found = Duplicates((), pictures=3, radius=0.1, keep="largest", seconds=0.5)
    >>> move_copies(found, "copies")
    Moved(moved=(), left=())
    """
    target = os.path.abspath(folder)
    try:
        os.makedirs(target, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{shown(target)} cannot be made: {error.strerror}") from None
    moved, left = [], []
    for group in found.groups:
        for copy in group.copies:
            source = path_of(copy.id)
            reason = _reason_to_stay(group, copy)
            if reason is None:
                try:
                    place = _free(target, os.path.basename(source))
                    shutil.move(source, place)
                    moved.append((copy.id, as_id(place)))
                    continue
                except OSError as error:
                    reason = error.strerror or str(error)
            left.append((copy.id, reason))
    return Moved(tuple(moved), tuple(left))


def _reason_to_stay(group: Group, copy: Copy) -> str | None:
    for each, what in ((group.kept, "the picture that is kept"), (copy, "it")):
        try:
            status = os.stat(path_of(each.id))
        except OSError:
            return f"{what} is gone"
        if (status.st_size, status.st_mtime_ns) != (each.metadata.get("size"), each.metadata.get("mtime_ns")):
            return f"{what} changed since it was indexed"
    return (
        "it is the file that is kept" if os.path.samefile(path_of(group.kept.id), path_of(copy.id)) else None
    )


def _free(folder: str, name: str) -> str:
    """A path in the folder that is not taken: a number is put before the suffix where it is."""
    stem, suffix = os.path.splitext(name)
    place, number = os.path.join(folder, name), 1
    while os.path.lexists(place):
        number += 1
        place = os.path.join(folder, f"{stem}-{number}{suffix}")
    return place
