"""What the formats of export and import share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Batch: TypeAlias = tuple[list[str | int], NDArray[Any], list[dict[str, Any]]]

BATCH_ROWS, BATCH_BYTES = 10_000, 64 << 20
FORMATS = (
    ".npz (vectors, ids, metadata), .jsonl (one record a line; - for standard {0}), .npy (vectors alone)"
)


class Source(NamedTuple):
    """Records to import, and the settings of the collection that they came from, where known."""

    batches: Iterator[Batch]
    settings: dict[str, Any]


def format_of(options: argparse.Namespace, name: str) -> str:
    """The suffix; one that is unknown, or does not go with ``--ids``, is wrong usage."""
    suffix = ".jsonl" if name == "-" else os.path.splitext(name)[1].lower()
    if suffix not in (".npz", ".jsonl", ".npy"):
        options.parser.error(f"{name}: the format must be .npz, .jsonl or .npy, told by the suffix")
    if options.ids is not None and suffix != ".npy":
        options.parser.error("--ids goes with .npy alone: the other formats hold ids")
    return suffix


def fitting(vectors: NDArray[Any], dtype: str, dim: int) -> NDArray[Any]:
    """Packed bits may come as any whole numbers; one bit in a byte of its own is unpacked."""
    if (
        dtype == "binary"
        and vectors.dtype.kind in "iu"
        and vectors.size
        and vectors.min() >= 0
        and vectors.max() <= 255
    ):
        return vectors != 0 if dim == 1 else vectors.astype(np.uint8)
    return vectors
