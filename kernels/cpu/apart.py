"""Exact distances of the few that a walk has found, and the best of them in order."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import numpy as np

from .bits import hamming_row, jaccard_whole
from .compile import helper
from .memory import address_of, element, pointer

_L2, _IP, _COSINE, _HAMMING, _JACCARD = range(5)
METRICS = {"l2": _L2, "ip": _IP, "cosine": _COSINE, "hamming": _HAMMING, "jaccard": _JACCARD}


@helper
def apart(tag, metric, row, query, dim):
    """The public distance of a stored row, in float64."""
    if metric == _HAMMING:
        return np.float64(hamming_row(row, address_of(query), (dim + 7) // 8))
    if metric == _JACCARD:
        return jaccard_whole(row, address_of(query), (dim + 7) // 8)
    start = pointer(row, tag)
    product = 0.0
    if metric == _L2:
        for j in range(dim):
            difference = np.float64(query[j]) - np.float64(element(start, j))
            product += difference * difference
        return np.sqrt(product)
    if metric == _IP:
        for j in range(dim):
            product += np.float64(query[j]) * np.float64(element(start, j))
        return -product
    norm = 0.0
    own = 0.0
    for j in range(dim):
        x, q = np.float64(element(start, j)), np.float64(query[j])
        product += q * x
        norm += x * x
        own += q * q
    length = np.sqrt(norm) * np.sqrt(own)
    return max(1.0 - product / length, 0.0) if length > 0.0 else 1.0


@helper
def enter(slots, distances, size, slot, distance):
    """Puts an answer in its place: by distance, then by slot. Returns the new size."""
    place = size if size < len(slots) else len(slots) - 1
    if size == len(slots) and (
        distance > distances[place] or (distance == distances[place] and slot > slots[place])
    ):
        return size
    while place > 0 and (
        distances[place - 1] > distance or (distances[place - 1] == distance and slots[place - 1] > slot)
    ):
        distances[place], slots[place] = distances[place - 1], slots[place - 1]
        place -= 1
    distances[place], slots[place] = distance, slot
    return min(size + 1, len(slots))
