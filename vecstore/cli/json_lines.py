"""JSON lines: {"id": …, "vector": […], "metadata": {…}}, one record a line, never all in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vecstore import Record
from vecstore.cli import ids
from vecstore.cli.formats import BATCH_BYTES, BATCH_ROWS, Batch, Source
from vecstore.cli.output import CommandError

_FIELDS = {"id", "vector", "metadata"}


def write(records: Iterable[Record], out: IO[bytes]) -> int:
    """Numbers are written so that reading them gives the same bits; packed bits are written as bytes."""
    written = 0
    for record in records:
        assert record.vector is not None
        document = {"id": record.id, "vector": record.vector.tolist(), "metadata": record.metadata}
        out.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        written += 1
    return written


@contextmanager
def read(name: str) -> Iterator[Source]:
    """The records of a file, or of standard input for ``-``."""
    if name == "-":
        stream = getattr(sys.stdin, "buffer", None)
        lines: Iterable[bytes] = stream if stream is not None else (line.encode() for line in sys.stdin)
        yield Source(_batches(lines, "standard input"), {})
        return
    with open(name, "rb") as source:
        yield Source(_batches(source, name), {})


def _batches(lines: Iterable[bytes], name: str) -> Iterator[Batch]:
    keys: list[str | int] = []
    vectors: list[NDArray[Any]] = []
    metadata: list[dict[str, Any]] = []
    width: int | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}, line {number:,}"
        key, vector, item = _record(line, place)
        width = len(vector) if width is None else width
        if len(vector) != width:
            raise CommandError(
                f"{place}: the vector has {len(vector):,} numbers, and those before it have {width:,}"
            )
        keys.append(key)
        vectors.append(vector)
        metadata.append(item)
        if len(keys) == BATCH_ROWS or len(keys) * width * 8 >= BATCH_BYTES:
            yield keys, np.stack(vectors), metadata
            keys, vectors, metadata = [], [], []
    if keys:
        yield keys, np.stack(vectors), metadata


def _record(line: bytes, place: str) -> tuple[str | int, NDArray[Any], dict[str, Any]]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{place}: not JSON ({error})") from None
    if not isinstance(document, dict) or not {"id", "vector"} <= document.keys():
        raise CommandError(f'{place}: a record must be {{"id": …, "vector": […], "metadata": {{…}}}}')
    if not document.keys() <= _FIELDS:
        unknown = ", ".join(sorted(document.keys() - _FIELDS))
        raise CommandError(
            f"{place}: unknown field {unknown[:60]}: what belongs to a record stands under metadata"
        )
    key = ids.checked(document["id"], place)
    try:
        vector = np.array(document["vector"])
    except (ValueError, OverflowError):
        vector = np.zeros(0, dtype=object)
    if vector.ndim != 1 or vector.dtype.kind not in "fiub" or not vector.size:
        raise CommandError(f"{place}: a vector must be a list of numbers")
    metadata = document.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise CommandError(f"{place}: metadata must be an object")
    return key, vector, metadata or {}
