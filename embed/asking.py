"""Asking a collection of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import vecstore

from .errors import ModelError, shown
from .mixing import Mixture, weighted
from .model import Model
from .registry import load
from .versions import check

_DEFAULT_K = 10


def search(
    path: str | os.PathLike[str] | vecstore.Collection,
    *,
    image: Any = None,
    text: Any = None,
    id: Any = None,
    k: int | None = None,
    model: str | Model | None = None,
    where: Any = None,
    radius: float | None = None,
    mirror: bool = True,
) -> vecstore.Hits:
    """The pictures most like one, like a text, like a record, or like several of these at once.

    ``image`` is a path, a web address, bytes, a Pillow image or an array; ``text`` is for models that know texts; ``id``
    is a record of the collection. Each may be a list, and each thing in it a pair with its weight: ``("b.jpg", 0.5)``
    counts half, ``("c.jpg", -1)`` leads away. Records that are asked for are no answers. Web addresses are fetched from
    public hosts alone, up to 32 MB and 20 seconds.

    ``k`` is 10, or with a ``radius`` everything within it. The model is the one that the collection was made with;
    another one is an error. Pictures are also asked for as their mirror images, unless ``mirror`` is false.

    >>> import tempfile, os
    >>> from PIL import Image
    >>> from vecstore import embed
    >>> folder = tempfile.mkdtemp()
    >>> for name in ("red", "blue", "purple"):
    ...     Image.new("RGB", (40, 30), name).save(os.path.join(folder, name + ".png"))
    >>> report = embed.index_folder(folder, os.path.join(folder, "three.vec"))
    >>> hits = embed.search(os.path.join(folder, "three.vec"), image=Image.new("RGB", (9, 9), "red"), k=1)
    >>> os.path.basename(hits.ids[0])
    'red.png'
    >>> purple, red = (os.path.join(folder, name + ".png") for name in ("purple", "red"))
    >>> hits = embed.search(os.path.join(folder, "three.vec"), id=[purple, (red, -1)], k=1)
    >>> os.path.basename(hits.ids[0])
    'blue.png'
    """
    asked = Mixture(weighted(image, "image"), weighted(text, "text"), weighted(id, "id"))
    if not asked:
        raise ModelError("search needs image=…, text=… or id=…")
    if k is None and radius is None:
        k = _DEFAULT_K
    left_out = {id_ for id_, _ in asked.ids}
    with opened(path) as pictures:
        made = agreed_model(pictures, model) if asked.needs_model else None
        queries = asked.queries(pictures, made, mirror=mirror)
        # With a radius and no k, everything within it.
        batch = pictures.search(queries, None if k is None else k + len(left_out), where=where, radius=radius)
    nearest: dict[Any, vecstore.Hit] = {}
    for hit in sorted((hit for hits in batch for hit in hits), key=lambda hit: hit.distance):
        if hit.id not in left_out:
            nearest.setdefault(hit.id, hit)
    return vecstore.Hits(list(nearest.values())[:k])


@contextmanager
def opened(path: str | os.PathLike[str] | vecstore.Collection) -> Iterator[vecstore.Collection]:
    if isinstance(path, vecstore.Collection):
        yield path
        return
    with vecstore.open(path, mode="r") as pictures:
        yield pictures


def agreed_model(pictures: vecstore.Collection, model: str | Model | None) -> Model:
    """The model that a collection was made with; an error that names both where another one is asked for.

    >>> with vecstore.open("no-pictures.vec", dim=1024) as pictures:
    ...     agreed_model(pictures, "classic").name
    'classic'
    """
    stored, libraries = _made_with(pictures)
    if model is None:
        model = "classic" if stored is None else stored.split(" ")[0]
    asked = load(model) if isinstance(model, str) else model
    if stored is not None and asked.fingerprint != stored:
        raise ModelError(
            f"{shown(pictures.path)} was made with the model '{shown(stored)}', and '{shown(asked.fingerprint)}' was "
            "asked for: their vectors cannot be compared; index the pictures into another file"
        )
    if np.dtype(np.float32).name != pictures.dtype or pictures.dim != asked.dim:
        raise ModelError(
            f"{shown(pictures.path)} holds {pictures.dtype} vectors of {pictures.dim} numbers, and the model "
            f"{asked.name!r} makes float32 ones of {asked.dim}"
        )
    check(pictures, asked, libraries)
    return asked


def made_with(pictures: vecstore.Collection) -> str | None:
    """The fingerprint of the model that made a collection; its first word is the model's name.

    >>> with vecstore.open("made-with.vec", dim=2) as pictures:
    ...     pictures.add("a.jpg", [1, 0], {"model": "faces 2"})
    ...     made_with(pictures)
    1
    'faces 2'
    """
    return _made_with(pictures)[0]


def _made_with(pictures: vecstore.Collection) -> tuple[str | None, str]:
    """The fingerprint, and the libraries that computed, where they matter."""
    first = next(iter(pictures.scan(where={"model": {"$exists": True}}, batch_size=1, vectors=False)), None)
    if first is None:
        return None, ""
    return str(first.metadata["model"]), str(first.metadata.get("libraries", ""))
