"""Which pictures may be copies of each other: pairs whose hashes differ in few bits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import vecstore

from .marks import Marks

_BATCH = 2048
# Thousands of plain pictures share a hash: all pairs of them would be millions. A picture is compared with so many
# of those that have its hash, and with so many that have a near one.
_OF_ONE_HASH = 64
_OF_NEAR_HASHES = 8
_NEAR_HASHES = 128
_SYMMETRIC = 4


class Pairs(NamedTuple):
    """Places of pictures that may be copies, and whether one is to be mirrored first."""

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    mirrored: bool


def pairs(marks: Marks, chosen: NDArray[np.int64], bits: int) -> Iterator[Pairs]:
    """Pairs among the chosen places, in parts, each pair perhaps twice; those as they are come before mirrored ones.

    As they are, one of two hashes is enough, since vectors confirm what this finds. A mirrored pair has to
    be decoded for that, so it needs both.
    """
    for name in ("perceptual", "difference"):
        hashed = marks.hashes[name][chosen]
        for one, other in _alike(hashed, hashed, bits):
            keep = one < other
            yield Pairs(chosen[one[keep]], chosen[other[keep]], False)
    hashed, mirrored = marks.hashes["perceptual"][chosen], marks.hashes["mirrored_perceptual"][chosen]
    second, turned = marks.hashes["difference"][chosen], marks.hashes["mirrored_difference"][chosen]
    # Of a plain or symmetric picture the mirror image is the picture: what is like it has been named above.
    lopsided = np.maximum(differing(mirrored, hashed), differing(turned, second)) > _SYMMETRIC
    for one, other in _alike(mirrored, hashed, bits):
        keep = lopsided[one] & (one != other) & (differing(turned[one], second[other]) <= bits)
        yield Pairs(chosen[one[keep]], chosen[other[keep]], True)


def differing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many bits differ, pair by pair.

    >>> differing(np.array([12, 0], np.uint64), np.array([10, 255], np.uint64)).tolist()
    [2, 8]
    """
    return np.asarray(np.unpackbits(_packed(one ^ other), axis=1).sum(axis=1), np.int64)


def _packed(hashed: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return hashed.astype(">u8").view(np.uint8).reshape(-1, 8)


def _alike(
    asked: NDArray[np.uint64], stored: NDArray[np.uint64], bits: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places in ``asked`` and ``stored`` whose hashes differ in at most so many bits, by a scan of the distinct ones."""
    asked_hashes, asked_at = _by_hash(asked)
    hashes, at = _by_hash(stored)
    if not len(hashes):
        return
    with tempfile.TemporaryDirectory(prefix="vecstore-hashes-") as folder:
        path = os.path.join(folder, "hashes.vec")
        with vecstore.open(path, dim=64, metric="hamming", dtype="binary", durability="none") as collection:
            collection.add(np.arange(len(hashes)), _packed(hashes))
            for start in range(0, len(asked_hashes), _BATCH):
                part = asked_hashes[start : start + _BATCH]
                found = collection.search(_packed(part), k=_NEAR_HASHES, radius=bits)
                ids = found.ids
                row, column = np.nonzero(ids >= 0)
                same = hashes[ids[row, column]] == part[row]
                yield _spread(asked_at, row[same] + start, at, ids[row, column][same], _OF_ONE_HASH)
                yield _spread(asked_at, row[~same] + start, at, ids[row, column][~same], _OF_NEAR_HASHES)


class _Places(NamedTuple):
    """Places in the order of their hashes, and where each hash begins and ends."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


def _by_hash(hashed: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], _Places]:
    order = np.argsort(hashed, kind="stable")
    hashes, starts = np.unique(hashed[order], return_index=True)
    return hashes, _Places(order, starts, np.append(starts[1:], len(hashed)))


def _spread(
    asked: _Places, ones: NDArray[np.int64], stored: _Places, others: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of hashes to pairs of pictures: every picture of the one hash with the first few of the other."""
    found_one, found_other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for one, other in zip(ones.tolist(), others.tolist(), strict=True):
        mine = asked.order[asked.starts[one] : asked.ends[one]]
        theirs = stored.order[stored.starts[other] : min(stored.ends[other], stored.starts[other] + most)]
        found_one.append(np.repeat(mine, len(theirs)))
        found_other.append(np.tile(theirs, len(mine)))
    return np.concatenate(found_one), np.concatenate(found_other)
