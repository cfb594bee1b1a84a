"""How a collection is opened, or created."""

from __future__ import annotations

import os
import threading

from vecstore import inputs
from vecstore.collection import Collection
from vecstore.config import (
    DEFAULT_DTYPE,
    DEFAULT_METRIC,
    LOCK_TIMEOUT,
    Settings,
    check_settings,
    parse_memory,
)
from vecstore.device import DEVICES, Device
from vecstore.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InvalidArgumentError,
    NotACollectionError,
    SettingsMismatchError,
)
from vecstore.index.codec import KINDS
from vecstore.query import exact
from vecstore.storage import replace
from vecstore.storage.file import File


def open(
    path: str | os.PathLike[str],
    *,
    dim: int | None = None,
    metric: str | None = None,
    dtype: str | None = None,
    mode: str = "a",
    memory: str | int | None = None,
    durability: str = "full",
    device: str = "auto",
    threads: int | None = None,
    timeout: float | None = LOCK_TIMEOUT,
    codec: str | None = None,
) -> Collection:
    """Open a collection, or create one.

    A new collection needs ``dim``; ``metric`` is "cosine" and ``dtype`` "float32" unless told. An existing
    one brings its settings, and an argument that contradicts them raises. ``mode`` is "a" to read and write,
    "x" to create only, "r" to read only. ``timeout`` is how many seconds a write waits for another writer;
    None waits for ever. ``device`` is "auto" to use a graphics card where there is one and it pays, "cpu" to use none, "cuda"
    to raise where there is none. ``codec`` names the kind of code of graphs that are built from now on ("scalar8",
    "scalar4", "scalar2", "scalar1", "product8", "product4"); without it a sample of the vectors decides.

    >>> import vecstore
    >>> with vecstore.open("shoes.vec", dim=2, metric="l2") as shoes:
    ...     len(shoes)
    0
    """
    if mode not in ("a", "x", "r"):
        raise InvalidArgumentError(f'mode must be "a", "x" or "r", not {mode!r}')
    if durability not in ("full", "none"):
        raise InvalidArgumentError(f'durability must be "full" or "none", not {durability!r}')
    if device not in DEVICES:
        raise InvalidArgumentError(f'device must be "auto", "cpu" or "cuda", not {device!r}')
    budget = parse_memory(memory)
    workers = exact.available_threads() if threads is None else inputs.check_k(threads, "threads")
    if timeout is not None and not (
        isinstance(timeout, (int, float)) and 0 <= timeout <= threading.TIMEOUT_MAX
    ):
        raise InvalidArgumentError(f"timeout must be a number of seconds from 0, or None, not {timeout!r}")
    if codec is not None and codec not in KINDS:
        raise InvalidArgumentError(f"codec must be one of {', '.join(KINDS)}, or None, not {codec!r}")
    chosen = Device(device, budget)
    if device == "cuda":
        chosen.card()  # raises where there is none, before anything is created
    name = inputs.check_path(path)
    if os.path.isdir(name):
        raise NotACollectionError(f"{name} is a folder, and a collection is one file: name a file in it")
    if mode == "r" or (os.path.exists(name) and mode == "a"):
        settings = None
    else:
        settings = _create(name, dim, metric, dtype, mode)
    file = File.share(name, writable=mode != "r", durable=durability == "full")
    collection = Collection(
        file,
        writable=mode != "r",
        threads=workers,
        memory=budget,
        timeout=timeout,
        codec=codec,
        device=chosen,
    )
    try:
        if settings is None or mode == "a":
            _check_agreement(name, collection.settings, dim, metric, dtype)
    except BaseException:
        collection.close()
        raise
    return collection


def _create(name: str, dim: int | None, metric: str | None, dtype: str | None, mode: str) -> Settings:
    if mode == "x" and os.path.lexists(name):
        raise CollectionExistsError(f'{name} exists; open it with mode="a", or choose another path')
    if dim is None:
        raise CollectionNotFoundError(f"{name} does not exist; pass dim=… to create it")
    if dtype is None:
        dtype = "binary" if metric in ("hamming", "jaccard") else DEFAULT_DTYPE
    if metric is None:
        metric = "hamming" if dtype == "binary" else DEFAULT_METRIC
    settings = check_settings(dim, metric, dtype)
    try:
        replace.create(name, settings)
    except CollectionExistsError:
        if mode == "x":
            raise
    return settings


def _check_agreement(
    name: str, found: Settings, dim: int | None, metric: str | None, dtype: str | None
) -> None:
    for argument, asked, has in (
        ("dim", dim, found.dim),
        ("metric", metric, found.metric),
        ("dtype", dtype, found.dtype),
    ):
        if asked is not None and asked != has:
            raise SettingsMismatchError(
                f"{name} has {argument}={has!r}, and {argument}={asked!r} was asked for: leave the argument out, "
                "or create another file"
            )
