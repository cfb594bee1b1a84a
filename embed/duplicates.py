"""Copies within a collection of pictures: the same file, the same picture, or its mirror image."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .asking import agreed_model, opened
from .decode import decode
from .errors import ImageError, ModelError
from .files import path_of
from .marks import Marks
from .model import Model
from .pairs import differing, pairs

KEEP = ("largest", "oldest")

# Recompressed, resized and lightly changed copies differ in fewer bits of one hash or the other.
_BITS = 12
# Where a mirrored copy's file cannot be read again, its hashes alone must say so.
_SURE_BITS = 4
# Of how far apart two pictures of the collection are that have nothing in common. Looked at, of the pairs of 20,000 small
# photographs that are nearer, one in some tens was no copy; a quarter farther it was every second one.
_SHARE = 0.2
_SAMPLE = 512
_BATCH = 4096


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
    if not 0 <= bits <= 32:
        raise ModelError(f"bits must be from 0 to 32, of 64 that hashes have, not {bits}")
    start = time.perf_counter()
    with opened(path) as pictures, Marks(pictures) as marks:
        within = _usual(pictures, marks) if radius is None else radius
        best_first = _order(marks, keep)
        first_of = _by_content(marks, best_first)
        unique = best_first[first_of[best_first] == best_first]
        links = _links(pictures, marks, unique, within, bits)
        groups = _groups(pictures, marks, best_first, first_of, _Near(pictures, marks, links, within))
    groups.sort(key=lambda group: (-len(group.copies), group.kept.id))
    return Duplicates(tuple(groups), len(marks), within, keep, time.perf_counter() - start)


def _usual(pictures: vecstore.Collection, marks: Marks) -> float:
    """A share of the distance between two pictures by chance."""
    if len(marks) < 2:
        return 0.0
    random = np.random.default_rng(0)
    places = random.choice(len(marks), min(len(marks), _SAMPLE), replace=False)
    rows = _vectors(pictures, [marks.id(place) for place in places.tolist()])
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


# For each place its copies and how far they are, or None for those that may be mirror images.
Links = dict[int, dict[int, float | None]]


def _links(
    pictures: vecstore.Collection, marks: Marks, unique: NDArray[np.int64], radius: float, bits: int
) -> Links:
    """Pairs that hashes name and vectors confirm; mirrored ones are confirmed when a group needs them."""
    links: Links = defaultdict(dict)
    for part in pairs(marks, unique, bits):
        for start in range(0, len(part.one), _BATCH):
            ones, others = (side[start : start + _BATCH].tolist() for side in (part.one, part.other))
            fresh = [(one, other) for one, other in zip(ones, others, strict=True) if other not in links[one]]
            if part.mirrored:
                for one, other in fresh:
                    links[one][other] = links[other][one] = None
            if part.mirrored or not fresh:
                continue
            row = {place: number for number, place in enumerate({place for pair in fresh for place in pair})}
            vectors = _vectors(pictures, [marks.id(place) for place in row])
            sides = [vectors[[row[pair[side]] for pair in fresh]] for side in (0, 1)]
            apart = np.maximum(0, 1 - np.einsum("ij,ij->i", *sides))
            for place in np.flatnonzero(apart <= radius).tolist():
                one, other = fresh[place]
                links[one][other] = links[other][one] = float(apart[place])
    return links


class _Near:
    """The copies of one picture. Mirror images' vectors were never stored: the picture is read and mirrored for them."""

    def __init__(self, pictures: vecstore.Collection, marks: Marks, links: Links, radius: float) -> None:
        self._pictures, self._marks, self._links, self._radius = pictures, marks, links, radius

    def of(self, place: int, taken: set[int]) -> list[tuple[int, str, float]]:
        """Those that are not taken, nearest first, mirrored ones last."""
        links = {
            other: distance for other, distance in self._links.get(place, {}).items() if other not in taken
        }
        near = sorted((distance, other) for other, distance in links.items() if distance is not None)
        turned = self._mirrored(place, [other for other, distance in links.items() if distance is None])
        return [(other, "near", distance) for distance, other in near] + turned

    def _mirrored(self, place: int, others: list[int]) -> list[tuple[int, str, float]]:
        if not others:
            return []
        vectors = _vectors(self._pictures, [self._marks.id(other) for other in others])
        mirrored = self._turned(place)
        found = []
        for other, vector in zip(others, vectors, strict=True):
            distance = (
                self._by_hash(place, other) if mirrored is None else max(0.0, 1 - float(mirrored @ vector))
            )
            if distance <= self._radius:
                found.append((other, "mirrored", distance))
        return sorted(found, key=lambda item: item[2])

    def _turned(self, place: int) -> NDArray[np.float32] | None:
        if self._model is None:
            return None
        try:
            rgb = decode(path_of(self._marks.id(place)), enough=self._model.enough).rgb
        except ImageError:
            return None
        mirrored: NDArray[np.float32] = self._model.images([rgb[:, ::-1]])[0]
        return mirrored

    def _by_hash(self, one: int, other: int) -> float:
        return self._radius if _bits_turned(self._marks, one, other) <= _SURE_BITS else np.inf

    @cached_property
    def _model(self) -> Model | None:
        try:
            return agreed_model(self._pictures, None)
        except ModelError:  # Its package or its weights are not here; what is stored can still be compared.
            return None


def _bits_turned(marks: Marks, one: int, other: int) -> int:
    """How many bits the mirror image of one differs from another in, by the hash that says more."""
    kinds = ("perceptual", "difference")
    return max(
        int(differing(marks.hashes[f"mirrored_{kind}"][[one]], marks.hashes[kind][[other]])[0])
        for kind in kinds
    )


def _vectors(pictures: vecstore.Collection, ids: list[str]) -> NDArray[np.float32]:
    """Unit vectors; a record that went meanwhile is far from everything."""
    records = pictures.get(ids)
    rows: NDArray[np.float32] = np.stack(
        [
            np.zeros(pictures.dim, np.float32) if record is None else np.asarray(record.vector, np.float32)
            for record in records
        ]
    )
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(length > 0, length, np.float32(1))
    return rows


def _groups(
    pictures: vecstore.Collection,
    marks: Marks,
    best_first: NDArray[np.int64],
    first_of: NDArray[np.int64],
    copies: _Near,
) -> list[Group]:
    """Stars: the best picture that is in no group yet takes all of its copies that are in none."""
    same: dict[int, list[int]] = defaultdict(list)
    for place in best_first[first_of[best_first] != best_first].tolist():
        same[int(first_of[place])].append(place)
    taken: set[int] = set()
    groups = []
    for place in best_first.tolist():
        if place in taken or first_of[place] != place:
            continue
        members = [(place, "kept", 0.0), *((copy, "exact", 0.0) for copy in same[place])]
        for other, relation, distance in copies.of(place, taken):
            members += [(other, relation, distance), *((copy, relation, distance) for copy in same[other])]
        if len(members) == 1:
            continue
        taken.update(member for member, _, _ in members)
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
