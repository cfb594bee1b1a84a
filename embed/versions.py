"""Models of other versions of their libraries: whether they still make the vectors that a collection holds.

Versions are no part of a fingerprint, since nearly always they change vectors by no more than rounding. They are kept beside each
vector; where they are others than those at hand, some stored pictures are made vectors of again, and these decide.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import vecstore

from .decode import read_file
from .errors import ImageError, ModelError, shown
from .files import path_of
from .model import Model

# Of how far apart two stored pictures are. Measured with resnet18 and convnext_tiny: bfloat16 in place of float32 moves a vector by
# a thousandth of it at most, pictures cut without smoothing by a fiftieth.
_ROUNDING = 0.01
_CHECKED = 3
_LOOKED_AT = 64
_agreed: set[tuple[str, str, str, str]] = set()


def libraries(*names: str) -> str:
    """Installed packages with the part of their versions that what they compute may move with.

    >>> libraries("no-such-package")
    ''
    """
    found = []
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(f"{name} {'.'.join(version.split('+')[0].split('.')[:2])}")
    return ", ".join(found)


def check(pictures: vecstore.Collection, model: Model, stored: str) -> None:
    """An error that names both where a model's libraries, of other versions than those stored, give other vectors.

    Where none of the first files is as it was, nothing can be compared: a warning says so.

    >>> from vecstore import embed
    >>> with vecstore.open("of-now.vec", dim=1024) as pictures:
    ...     check(pictures, embed.load("classic"), "")
    """
    known = (pictures.path, model.fingerprint, model.libraries, stored)
    if not stored or stored == model.libraries or known in _agreed:
        return
    before, now = f"'{shown(stored)}'", f"'{shown(model.libraries)}'"
    first = list(itertools.islice(pictures.scan(batch_size=_LOOKED_AT), _LOOKED_AT))
    vectors = [np.asarray(record.vector, np.float32) for record in first]
    usual = float(np.median([_apart(*two) for two in itertools.pairwise(vectors)])) if len(first) > 1 else 0.0
    moved = [
        _apart(model.images([data])[0], vector)
        for vector, data in itertools.islice(_unchanged(first, vectors, stored), _CHECKED)
    ]
    if moved and max(moved) > _ROUNDING * usual > 0:
        raise ModelError(
            f"{shown(pictures.path)} was made by {model.name!r} with {before}, and with {now} it makes other vectors of the "
            f"same pictures ({max(moved) / usual:.1%} of the distance between two pictures apart): install those versions, "
            "or index the pictures into another file"
        )
    if not moved or not usual:
        warnings.warn(
            f"{shown(pictures.path)} was made by {model.name!r} with {before}, and this is {now}: no picture is there that "
            "would tell whether their vectors are the same",
            RuntimeWarning,
            stacklevel=4,
        )
    _agreed.add(known)


Vector = NDArray[np.float32]


def _unchanged(
    records: list[vecstore.Record], vectors: list[Vector], libraries: str
) -> Iterator[tuple[Vector, bytes]]:
    """The stored vectors of files that are as they were, and what those hold."""
    for record, vector in zip(records, vectors, strict=True):
        facts, path = record.metadata, path_of(str(record.id))
        try:
            # A file is read only where its size says that it may be the same.
            if facts.get("libraries") != libraries or os.stat(path).st_size != facts.get("size"):
                continue
            data = read_file(path)
        except (OSError, ImageError):
            continue
        if hashlib.sha256(data).hexdigest() == facts.get("content"):
            yield vector, data


def _apart(one: Vector, other: Vector) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return 1 - float(one @ other) / lengths if lengths else 1.0
