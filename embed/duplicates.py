"""Copies within a collection of pictures: the same file, the same picture, or its mirror image."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .alike import Alike
from .asking import opened
from .confirming import Confirming
from .errors import ModelError
from .files import path_of
from .marks import Marks
from .stars import Like, Stars

KEEP = ("largest", "oldest")

# Recompressed, resized and lightly changed copies differ in fewer bits of one hash or the other.
_BITS = 12
# Of how far apart two pictures of the collection are that have nothing in common. Looked at, of the pairs of 20,000 small
# photographs that are nearer, one in some tens was no copy; a quarter farther it was every second one.
_SHARE = 0.2
_SAMPLE = 512


@dataclass(frozen=True)
class Copy:
    """One picture of a group: how it is the same as the one that is kept, and how far its vector is from it.

    ``kind`` is "kept", "exact" (the same bytes), "near" or "mirrored"; a mirrored one's distance is that of its mirror image.
    """

    id: str
    kind: str
    distance: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """A picture to keep, and those that are copies of it."""

    kept: Copy
    copies: tuple[Copy, ...]


@dataclass(frozen=True)
class Duplicates:
    """What ``dedupe`` found, largest groups first.

    >>> Duplicates((), pictures=3, radius=0.1, keep="largest", seconds=0.5).spare_bytes
    0
    """

    groups: tuple[Group, ...]
    pictures: int
    radius: float
    keep: str
    seconds: float

    @property
    def spare(self) -> list[Copy]:
        """Every copy but the kept ones."""
        return [copy for group in self.groups for copy in group.copies]

    @property
    def spare_bytes(self) -> int:
        """How many bytes the files of those have."""
        return sum(int(copy.metadata.get("size", 0)) for copy in self.spare)


def dedupe(
    path: str | os.PathLike[str] | vecstore.Collection,
    *,
    keep: str = "largest",
    radius: float | None = None,
    bits: int = _BITS,
) -> Duplicates:
    """Groups of copies in a collection that ``index_folder`` made. Nothing is deleted: see ``embed.removal_script``.

    Copies have the same bytes, or hashes that differ in at most ``bits`` bits and vectors within ``radius``, as they are
    or mirrored. Without a radius it is a fifth of the distance between two pictures of the collection that have nothing
    in common. ``keep`` says which of a group is kept: the "largest" (most pixels, then most bytes) or the "oldest".
    Every other one is a copy of that one, not of a copy of it.

    Plain pictures share a hash by the thousand and are no copies. So a picture is compared with the first 64 that have its
    hash (mirrored copies: the hash of its mirror image) and 8 of each of 128 near ones; where at least a quarter of those are
    copies, with all. Fewer copies than that, hidden behind so many others with their hashes, may be missed.

    >>> import tempfile, os
    >>> from PIL import Image
    >>> from vecstore import embed
    >>> folder = tempfile.mkdtemp()
    >>> for name, size in (("large", 64), ("small", 32)):
    ...     Image.radial_gradient("L").resize((size, size)).save(os.path.join(folder, name + ".png"))
    >>> _ = embed.index_folder(folder, os.path.join(folder, "all.vec"))
    >>> [group] = embed.dedupe(os.path.join(folder, "all.vec"), radius=0.1).groups
    >>> os.path.basename(group.kept.id), group.copies[0].kind
    ('large.png', 'near')
    """
    if keep not in KEEP:
        raise ModelError(f"keep must be one of {', '.join(map(repr, KEEP))}, not {keep!r}")
    if radius is not None and not radius >= 0:
        raise ModelError(f"radius must be a number from 0 on, not {radius:g}")
    if not 0 <= bits <= 32:
        raise ModelError(f"bits must be from 0 to 32, of 64 that hashes have, not {bits}")
    start = time.perf_counter()
    with opened(path) as pictures, Marks(pictures) as marks:
        within = _usual(Confirming(pictures, marks, 0), len(marks)) if radius is None else radius
        best_first = _order(marks, keep)
        first_of = _by_content(marks, best_first)
        unique = best_first[first_of[best_first] == best_first]
        with Alike(marks, unique, bits) as alike:
            stars = Stars(alike, Confirming(pictures, marks, within), unique)
            groups = _groups(pictures, marks, best_first, first_of, stars)
    groups.sort(key=lambda group: (-len(group.copies), group.kept.id))
    return Duplicates(tuple(groups), len(marks), within, keep, time.perf_counter() - start)


def _usual(confirming: Confirming, count: int) -> float:
    """A share of the distance between two pictures by chance."""
    if count < 2:
        return 0.0
    random = np.random.default_rng(0)
    rows = confirming.vectors(random.choice(count, min(count, _SAMPLE), replace=False))
    apart = 1 - np.einsum("ij,ij->i", rows, np.roll(rows, 1, axis=0))
    return _SHARE * float(np.median(apart))


def _order(marks: Marks, keep: str) -> NDArray[np.int64]:
    """Places, the one to keep first."""
    largest = (-marks.pixels, -marks.bytes)
    # lexsort takes the last key first.
    keys = (marks.time, *largest[::-1]) if keep == "largest" else (*largest[::-1], marks.time)
    return np.lexsort(keys)


def _by_content(marks: Marks, best_first: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each place, the best one that has the same bytes."""
    content = marks.content[best_first]
    _, first, inverse = np.unique(content, axis=0, return_index=True, return_inverse=True)
    first_of = np.empty(len(marks), np.int64)
    first_of[best_first] = best_first[first[inverse.reshape(-1)]]
    return first_of


def _groups(
    pictures: vecstore.Collection,
    marks: Marks,
    best_first: NDArray[np.int64],
    first_of: NDArray[np.int64],
    stars: Iterable[tuple[int, list[Like]]],
) -> list[Group]:
    """Stars with the pictures that have the same bytes, which were not looked at for themselves."""
    same: dict[int, list[int]] = defaultdict(list)
    for place in best_first[first_of[best_first] != best_first].tolist():
        same[int(first_of[place])].append(place)
    groups = []
    for place, copies in stars:
        members = [(place, "kept", 0.0), *((copy, "exact", 0.0) for copy in same[place])]
        for other, relation, distance in copies:
            members += [(other, relation, distance), *((copy, relation, distance) for copy in same[other])]
        if len(members) == 1:
            continue
        group = _group(pictures, [(marks.id(member), kind, distance) for member, kind, distance in members])
        if group is not None:
            groups.append(group)
    return groups


def _group(pictures: vecstore.Collection, members: list[tuple[str, str, float]]) -> Group | None:
    """The group with its records; names of one file, as links are, count once, and the file's own comes first."""
    records = pictures.get([id_ for id_, _, _ in members])
    files: dict[tuple[int, int], str] = {}
    copies = []
    for (id_, kind, distance), record in zip(members, records, strict=True):
        if record is not None and _is_first_name(id_, files):
            copies.append(Copy(id_, kind, distance, record.metadata))
    if len(copies) < 2 or copies[0].kind != "kept":
        return None
    return Group(copies[0], tuple(copies[1:]))


def _is_first_name(id_: str, files: dict[tuple[int, int], str]) -> bool:
    try:
        status = os.stat(path_of(id_))
    except OSError:
        return True
    return files.setdefault((status.st_dev, status.st_ino), id_) == id_
