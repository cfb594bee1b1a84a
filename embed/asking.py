"""Asking a collection of pictures."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import vecstore

from .decode import decode
from .errors import ModelError, shown
from .model import Model
from .registry import load


def search(
    path: str | os.PathLike[str],
    *,
    image: Any = None,
    text: str | None = None,
    k: int = 10,
    model: str | Model | None = None,
    where: Any = None,
    radius: float | None = None,
    mirror: bool = True,
) -> vecstore.Hits:
    """The pictures most like one (a path, bytes, a Pillow image or an array), or like a text.

    The model is the one that the collection was made with; another one is an error. A picture is also asked for
    as its mirror image, unless ``mirror`` is false.

    >>> import tempfile, os
    >>> from PIL import Image
    >>> from vecstore import embed
    >>> folder = tempfile.mkdtemp()
    >>> for name in ("red", "blue"):
    ...     Image.new("RGB", (40, 30), name).save(os.path.join(folder, name + ".png"))
    >>> report = embed.index_folder(folder, os.path.join(folder, "two.vec"))
    >>> hits = embed.search(os.path.join(folder, "two.vec"), image=Image.new("RGB", (9, 9), "red"), k=1)
    >>> os.path.basename(hits.ids[0])
    'red.png'
    """
    if (image is None) == (text is None):
        raise ModelError("search needs image=… or text=…: one of the two")
    with vecstore.open(path, mode="r") as pictures:
        asked = agreed_model(pictures, model)
        if text is not None:
            queries = asked.texts([text])
        else:
            rgb = decode(image, enough=asked.enough).rgb
            queries = asked.images([rgb, rgb[:, ::-1]] if mirror else [rgb])
        # No k and a radius: everything within it.
        batch = pictures.search(queries, k, where=where, radius=radius)
    nearest: dict[Any, vecstore.Hit] = {}
    for hit in sorted((hit for hits in batch for hit in hits), key=lambda hit: hit.distance):
        nearest.setdefault(hit.id, hit)
    return vecstore.Hits(list(nearest.values())[:k])


def agreed_model(pictures: vecstore.Collection, model: str | Model | None) -> Model:
    """The model that a collection was made with; an error that names both where another one is asked for.

    >>> with vecstore.open("no-pictures.vec", dim=1024) as pictures:
    ...     agreed_model(pictures, "classic").name
    'classic'
    """
    first = next(iter(pictures.scan(where={"model": {"$exists": True}}, batch_size=1, vectors=False)), None)
    stored = None if first is None else str(first.metadata["model"])
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
    return asked
