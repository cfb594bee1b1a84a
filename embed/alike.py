"""Which pictures may be copies of one: those behind it in a row whose hashes differ in few bits."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import vecstore

from .marks import Marks

Numbers = NDArray[np.int64]
Hashed = NDArray[np.uint64]

_NEAR_HASHES = 128
# Thousands of plain pictures share a hash and are no copies: at first a picture is compared with so many of those that have its
# hash, and with so many of each that is near. Where many of them are copies, all are looked at.
_OF_ONE_HASH = 64
_OF_NEAR_HASHES = 8
_ALL = 1 << 62
_AS_THEY_ARE = ("perceptual", "difference")
_SYMMETRIC = 4
# A picture's mirror image near another, and a picture near another's mirror image: rounding makes that two questions.
_TURNED = (("mirrored_", ""), ("", "mirrored_"))
# What one hash takes for a copy, the other must not take for another picture. Of copies that were cut by a tenth 2 in 72 are lost
# by it, of none that were altered otherwise; and of different drawings of one kind of thing 38 in 61 are.
_MORE_BITS = 4


def differing(one: Hashed, other: Hashed) -> Numbers:
    """How many bits differ, pair by pair.

    >>> differing(np.array([12, 0], np.uint64), np.array([10, 255], np.uint64)).tolist()
    [2, 8]
    """
    return np.asarray(np.unpackbits(_packed(one ^ other), axis=1).sum(axis=1), np.int64)


def _packed(hashed: Hashed) -> NDArray[np.uint8]:
    return hashed.astype(">u8").view(np.uint8).reshape(-1, 8)


class Found(NamedTuple):
    """Which of those asked for, and which place of the row was found for it."""

    asked: Numbers
    places: Numbers


class _Kind:
    """Some of a row of pictures under one kind of hash: the distinct hashes in a collection on disk, and who has each."""

    def __init__(self, folder: str, name: str, hashed: Hashed, places: Numbers, stack: ExitStack) -> None:
        hashes, number = np.unique(hashed[places], return_inverse=True)
        self._count = len(hashed)
        # Sorted by hash, and by place within it: where those behind a place begin is found by halving.
        self._keys = np.sort(number.reshape(-1).astype(np.int64) * self._count + places)
        path = os.path.join(folder, f"{name}.vec")
        opened = vecstore.open(path, dim=64, metric="hamming", dtype="binary", durability="none")
        self._hashes = stack.enter_context(opened)
        if len(hashes):
            self._hashes.add(np.arange(len(hashes)), _packed(hashes))

    def first(self, hashed: Hashed, behind: Numbers, bits: int) -> tuple[Found, NDArray[np.bool_]]:
        """Some of those behind the places that are near; and for which hashes there may be more."""
        if not len(hashed) or not len(self._keys):
            return Found(np.zeros(0, np.int64), np.zeros(0, np.int64)), np.zeros(len(hashed), np.bool_)
        batch = self._hashes.search(_packed(hashed), k=_NEAR_HASHES, radius=bits)
        asked, column = np.nonzero(batch.ids >= 0)
        number, apart = batch.ids[asked, column], batch.distances[asked, column]
        most = np.where(apart == 0, _OF_ONE_HASH, _OF_NEAR_HASHES)
        found, cut_short = self._spread(asked, number, behind[asked], most)
        more = np.bincount(asked, minlength=len(hashed)) >= _NEAR_HASHES
        more[asked[cut_short]] = True
        return found, more

    def every(self, hashed: Hashed, behind: int, bits: int) -> Numbers:
        """All of those behind a place that are near, nearest first."""
        number = np.asarray(self._hashes.search(_packed(hashed)[0], radius=bits).ids, np.int64)
        asked = np.zeros(len(number), np.int64)
        return self._spread(asked, number, np.full(len(number), behind), np.full(len(number), _ALL))[0].places

    def _spread(
        self, asked: Numbers, number: Numbers, behind: Numbers, most: Numbers
    ) -> tuple[Found, NDArray[np.bool_]]:
        starts = np.searchsorted(self._keys, number * self._count + behind, side="right")
        ends = np.searchsorted(self._keys, (number + 1) * self._count)
        counts = np.minimum(ends - starts, most)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        keys = self._keys[np.repeat(starts, counts) + np.arange(counts.sum()) - before]
        return Found(np.repeat(asked, counts), keys % self._count), ends - starts > counts


@dataclass(frozen=True)
class Candidates:
    """For one place of the row: those behind it that may be copies, and that may be mirror images; whether there are more."""

    near: Numbers
    mirrored: Numbers
    more: bool
    more_mirrored: bool


class Alike:
    """A row of pictures, best first, asked for those behind a place that look like it. A context manager, for its files.

    As they are, one of two hashes must be as near as is asked for and the other nearly so, since vectors confirm what this
    finds. A mirrored pair has to be decoded for that, so both must be.
    """

    def __init__(self, marks: Marks, row: Numbers, bits: int) -> None:
        self._bits = bits
        self._hashed = {name: hashed[row] for name, hashed in marks.hashes.items()}
        of = self._hashed
        # Of a plain or symmetric picture the mirror image is the picture: what is like it is found as it is.
        apart = (differing(of[f"mirrored_{name}"], of[name]) for name in _AS_THEY_ARE)
        self._lopsided = np.maximum(*apart) > _SYMMETRIC

    def __enter__(self) -> Alike:
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vecstore-hashes-"))
        everyone = np.arange(len(self._lopsided))
        kinds = dict.fromkeys(_AS_THEY_ARE, everyone) | {"mirrored_perceptual": np.flatnonzero(self._lopsided)}
        self._kinds = {
            name: _Kind(folder, name, self._hashed[name], places, self._stack) for name, places in kinds.items()
        }
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def of(self, places: Numbers) -> list[Candidates]:
        """The candidates of each place."""
        if not len(places):
            return []
        found, more = [], np.zeros(len(places), np.bool_)
        for name in _AS_THEY_ARE:
            some, longer = self._kinds[name].first(self._hashed[name][places], places, self._bits)
            found.append(some)
            more |= longer
        both = Found(*(np.concatenate(sides) for sides in zip(*found, strict=True)))
        agreed = self._agreed(places[both.asked], both.places)
        near = _sorted(Found(both.asked[agreed], both.places[agreed]), len(places))
        turned, more_turned = self._turned(places)
        mirrored = _sorted(turned, len(places))
        return [
            Candidates(*sides)
            for sides in zip(near, mirrored, more.tolist(), more_turned.tolist(), strict=True)
        ]

    def every(self, place: int) -> Numbers:
        """All those behind a place that may be copies as they are, nearest first."""
        found = [self._kinds[name].every(self._hashed[name][[place]], place, self._bits) for name in _AS_THEY_ARE]
        places = _once(np.concatenate(found))
        return places[self._agreed(np.full(len(places), place), places)]

    def every_mirrored(self, place: int) -> Numbers:
        """All those behind a place that may be its mirror images, nearest first."""
        found = []
        for mine, theirs in _TURNED:
            if mine and not self._lopsided[place]:
                continue
            others = self._kinds[f"{theirs}perceptual"].every(
                self._hashed[f"{mine}perceptual"][[place]], place, self._bits
            )
            found.append(others[self._mirrors(mine, theirs, np.full(len(others), place), others)])
        return _once(np.concatenate(found))

    def _turned(self, places: Numbers) -> tuple[Found, NDArray[np.bool_]]:
        """Some that are near a place's mirror image, or whose mirror image is near it; and for which there may be more."""
        kept, more = [], np.zeros(len(places), np.bool_)
        for mine, theirs in _TURNED:
            # The kind of mirrored hashes holds what is lopsided alone; so the pictures that ask by theirs must be, too.
            asking = np.flatnonzero(self._lopsided[places]) if mine else np.arange(len(places))
            hashed = self._hashed[f"{mine}perceptual"][places[asking]]
            some, longer = self._kinds[f"{theirs}perceptual"].first(hashed, places[asking], self._bits)
            asked = asking[some.asked]
            good = self._mirrors(mine, theirs, places[asked], some.places)
            kept.append(Found(asked[good], some.places[good]))
            more[asking[longer]] = True
        return Found(*(np.concatenate(sides) for sides in zip(*kept, strict=True))), more

    def _mirrors(self, mine: str, theirs: str, one: Numbers, other: Numbers) -> NDArray[np.bool_]:
        """Of pairs that one hash found, one of them mirrored: whether the other hash is as near."""
        apart = differing(self._hashed[f"{mine}difference"][one], self._hashed[f"{theirs}difference"][other])
        return apart <= self._bits

    def _agreed(self, one: Numbers, other: Numbers) -> NDArray[np.bool_]:
        """Of pairs that one hash found: whether no hash speaks against them."""
        apart = [differing(self._hashed[name][one], self._hashed[name][other]) for name in _AS_THEY_ARE]
        return np.maximum(*apart) <= self._bits + _MORE_BITS


def _once(places: Numbers) -> Numbers:
    """Each place once, where it stood first."""
    return places[np.sort(np.unique(places, return_index=True)[1])]


def _sorted(found: Found, count: int) -> list[Numbers]:
    """The places found for each that was asked for, each place once."""
    both = np.unique(np.stack(found, axis=1), axis=0)
    return np.split(both[:, 1], np.searchsorted(both[:, 0], np.arange(1, count)))
