"""Which codes a collection gets: measured on a sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.index.codec import Codec

Floats: TypeAlias = NDArray[np.float32]

_NEIGHBOURS = 10
_QUERIES_AT_ONCE = 64
# Vectors this long have room for codes of a bit or two a coordinate: shorter ones lose too much.
_LONG = 512
_Rule: TypeAlias = tuple[str, int, float]
# (kind, how many of the best by code are compared exactly, the share of the true ones to be among them).
# From the shortest code on. A sample's neighbours lie farther apart than the collection's, so hold more.
_SHORT: tuple[_Rule, ...] = (("scalar1", 30, 0.97), ("scalar2", 30, 0.97))
_USUAL: _Rule = ("scalar4", 20, 0.95)


def choose(sample: Floats, queries: Floats, seed: int = 0) -> str:
    """The kind with the shortest codes that tell near vectors from far ones.

    The queries are like the sample, but not of it.

    >>> vectors = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    >>> choose(vectors[:500], vectors[500:])
    'scalar4'
    """
    long = sample.shape[1] >= _LONG
    for kind, best, enough in (*(_SHORT if long else ()), _USUAL):
        if shares(Codec.train(sample, kind, seed), sample, queries, [best])[0] >= enough:
            return kind
    # Codes of 8 bits hold fewer coordinates, and long vectors don't need them.
    return _USUAL[0] if long else "scalar8"


def shares(codec: Codec, sample: Floats, queries: Floats, best: Sequence[int]) -> list[float]:
    """Of the true 10 neighbours in the sample, the share among the best r by code; for each r of `best`."""
    codes = codec.encode(sample)
    wanted = min(_NEIGHBOURS, len(sample))
    found = np.zeros(len(best))
    # Squares of very large numbers, and of very small ones, are none.
    scale = float(np.abs(sample).max(initial=0.0)) or 1.0
    mean = codec.mean / scale
    centred = sample / scale - mean
    norms = np.einsum("ij,ij->i", centred, centred)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        asked = queries[start : start + _QUERIES_AT_ONCE]
        from_mean = asked / scale - mean
        products = from_mean @ centred.T
        apart = norms - 2 * products + np.einsum("ij,ij->i", from_mean, from_mean)[:, None]
        # As far as the last neighbour is near enough: there may be many at one distance.
        limits = np.partition(apart, wanted - 1, axis=1)[:, wanted - 1]
        slack = 1e-6 * (norms.max() + np.abs(limits))
        scores = codec.scores(codec.prepare(asked)[0], codes)
        for near, limit, score in zip(apart, limits + slack, scores, strict=True):
            order = _smallest(score, max(best))
            within = np.cumsum(near[order] <= limit)
            found += [min(within[min(r, len(order)) - 1], wanted) for r in best]
    return [float(share) for share in found / (wanted * max(1, len(queries)))]


def _smallest(scores: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    if count >= len(scores):
        return np.argsort(scores, kind="stable")
    chosen = np.argpartition(scores, count - 1)[:count]
    return chosen[np.argsort(scores[chosen], kind="stable")]
