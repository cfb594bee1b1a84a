"""The space that the graph lies in: squared Euclidean distance, whatever the collection's metric.

Under ``l2`` a vector stays as it is. Under ``cosine`` it gets length one. Under ``ip`` it gets one more
coordinate, which brings all vectors to one length, the longest's; so the largest product is nearest. A query
gets a nought there, and that same length, which changes no order.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecstore.config import Settings
from vecstore.kernels import reference

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]


def width(settings: Settings) -> int:
    """How many coordinates prepared vectors have.

    >>> width(Settings(128, "l2", "uint8")), width(Settings(128, "ip", "float32"))
    (128, 129)
    """
    return settings.dim + (settings.metric == "ip")


def as_queries(settings: Settings, rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Stored rows as they would be asked for: float32, or packed bits."""
    return reference.widen(rows, settings.dtype, settings.dim)


def longest(settings: Settings, rows: NDArray[np.uint8]) -> float:
    """The length of the longest of some stored rows.

    >>> rows = np.array([[3, 4], [1, 0]], dtype=np.uint8)
    >>> longest(Settings(2, "ip", "uint8"), rows)
    5.0
    """
    return float(np.sqrt(_squares(as_queries(settings, rows)).max(initial=0.0)))


def prepare_rows(settings: Settings, rows: NDArray[np.uint8], norm_limit: float) -> Floats:
    """Stored rows as prepared vectors; ``norm_limit`` is what ``longest`` says of them all.

    >>> rows = np.array([[3, 4], [0, 5]], dtype=np.uint8)
    >>> prepare_rows(Settings(2, "ip", "uint8"), rows, 13.0)
    array([[ 3.,  4., 12.],
           [ 0.,  5., 12.]], dtype=float32)
    """
    wide = as_queries(settings, rows)
    if settings.dtype == "binary":
        bits = np.unpackbits(wide, axis=1, count=settings.dim).astype(np.float32)
        # Between bits of one length, the squared distance is Hamming's; sets of one size lie as Jaccard's do.
        return bits if settings.metric == "hamming" else reference.prepare_query("cosine", bits)
    if settings.metric == "l2":
        return np.ascontiguousarray(wide, dtype=np.float32)
    if settings.metric != "ip":
        return np.ascontiguousarray(reference.prepare_query(settings.metric, wide))
    room = np.maximum(norm_limit * norm_limit - _squares(wide), 0.0)
    return _with_last(wide, np.sqrt(room))


def prepare_queries(settings: Settings, queries: ArrayLike, norm_limit: float) -> Floats:
    """Queries `(n, dim)` as prepared vectors.

    >>> prepare_queries(Settings(2, "ip", "float32"), [[30.0, 40.0]], 5.0)
    array([[3., 4., 0.]], dtype=float32)
    """
    if settings.metric != "ip":
        return np.ascontiguousarray(reference.prepare_query(settings.metric, queries))
    wide = np.asarray(queries, dtype=np.float64)
    norms = np.sqrt(_squares(wide))
    scales = np.divide(norm_limit, norms, out=np.zeros_like(norms), where=norms > 0)
    return _with_last(wide * scales[:, None], np.zeros(len(wide)))


def _squares(vectors: NDArray[Any]) -> Doubles:
    wide = vectors.astype(np.float64, copy=False)
    result: Doubles = np.einsum("ij,ij->i", wide, wide)
    return result


def _with_last(vectors: NDArray[Any], last: Doubles) -> Floats:
    result = np.empty((len(vectors), vectors.shape[1] + 1), dtype=np.float32)
    result[:, :-1] = vectors
    result[:, -1] = np.minimum(last, np.finfo(np.float32).max)
    return result
