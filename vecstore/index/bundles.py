"""Bundles of nodes that lie side by side, for searches that look into the most promising: see ``kernels.cpu.bundles``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.index.bits import Bits
from vecstore.index.codec import Codec, room_for_codes
from vecstore.kernels import dispatch
from vecstore.kernels import reference_codes as layout

Codes: TypeAlias = NDArray[np.uint8]

SIZE, BALE = layout.BUNDLE, layout.BALE
_ROOM = 1.25
# Vectors as queries, and of each the nearest share of bundles, to see how far nodes lie from where they are thought to.
_ASKED, _NEAR, _LOOKED_INTO = 9, 4, 60
_TILT = 0.15
# A bundle is loose whose nodes are spread over so large a part of what all nodes are.
_LOOSE = 0.92


def weight_of(codec: Codec | Bits) -> tuple[int, int] | None:
    """The bits of a number in a code, and what its squares count for in scores; None where codes are no numbers."""
    if isinstance(codec, Bits):
        return (1, 1) if codec.kind == "hamming bits" else None
    if codec.number in layout.PRODUCTS:
        return None
    return layout.BITS[codec.number], layout.WEIGHTS.get(codec.number, 1)


@dataclass(frozen=True)
class Middles:
    """Codes in the middle of what lies side by side, and the mean squared distance from them."""

    codes: Codes
    spreads: NDArray[np.float32]

    @classmethod
    def none(cls, code_bytes: int) -> Middles:
        return cls(np.zeros((0, code_bytes), np.uint8), np.zeros(0, np.float32))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.spreads.nbytes

    def first(self, count: int) -> Middles:
        return Middles(self.codes[:count], self.spreads[:count])

    def roomy(self, count: int) -> Middles:
        """The same with room for so many, and some more where there were any before."""
        if count <= len(self.codes):
            return self
        room = int(_ROOM * count) if len(self.codes) else count
        made = Middles(room_for_codes(room, self.codes.shape[1]), np.zeros(room, np.float32))
        made.codes[: len(self.codes)], made.spreads[: len(self.codes)] = self.codes, self.spreads
        return made


@dataclass(frozen=True)
class Bundles:
    """Those of one snapshot's graph, the bales that 16 bundles each are in, and how far nodes lie from where these say."""

    bundles: Middles
    bales: Middles
    tilt: float
    # Those whose nodes lie side by side by chance: they came one by one, and may be near anything. Their spreads are negative.
    loose: NDArray[np.int32]


class Bundled:
    """The bundles of one graph, made when they are first asked for and kept up with the commits. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bundles = self._bales = Middles.none(0)
        self._tilt, self._loose = _TILT, np.zeros(0, np.int32)
        # Nodes from here on are in no bundle yet, and some of those in the bundles `_stale` have other codes now.
        self._nodes = 0
        self._stale: set[int] = set()

    @property
    def nbytes(self) -> int:
        return self._bundles.nbytes + self._bales.nbytes

    def changed(self, first: int, count: int) -> None:
        """That these nodes have other codes now."""
        with self._lock:
            last = min(first + count, self._nodes)
            self._stale.update(range(first // SIZE, -(-last // SIZE)))

    def of(self, codec: Codec | Bits, codes: Codes) -> Bundles | None:
        """The bundles of these codes; None for codes that are no numbers."""
        weight = weight_of(codec)
        if weight is None:
            return None
        count = -(-len(codes) // SIZE)
        with self._lock:
            if self._nodes < len(codes) or self._stale:
                self._make(codec, codes, weight, count)
            loose = self._loose[: np.searchsorted(self._loose, count)]
            bundles, spreads = self._bundles.first(count), self._bundles.spreads[:count].copy()
            spreads[loose] *= -1.0
            return Bundles(replace(bundles, spreads=spreads), self._bales.first(-(-count // BALE)), self._tilt, loose)

    def _make(self, codec: Codec | Bits, codes: Codes, weight: tuple[int, int], count: int) -> None:
        first = not self._nodes
        if first:
            self._bundles = self._bales = Middles.none(codes.shape[1])
        self._bundles, self._bales = self._bundles.roomy(count), self._bales.roomy(-(-count // BALE))
        anew = sorted(self._stale.union(range(self._nodes // SIZE, count)))
        make, none = dispatch.cpu().bundles.make(), np.zeros(0, np.float32)
        for low, high in _runs(anew):
            make(*weight, codes, none, SIZE, low, high, self._bundles.codes, self._bundles.spreads)
        bundles = self._bundles.first(count)
        for low, high in _runs(sorted({b // BALE for b in anew})):
            make(
                *weight,
                bundles.codes,
                bundles.spreads,
                BALE,
                low,
                high,
                self._bales.codes,
                self._bales.spreads,
            )
        every = Middles.none(codes.shape[1]).roomy(1)
        make(*weight, bundles.codes, bundles.spreads, count, 0, 1, every.codes, every.spreads)
        self._loose = np.flatnonzero(bundles.spreads > _LOOSE * every.spreads[0]).astype(np.int32)
        self._stale.clear()
        self._nodes = max(self._nodes, len(codes))
        if first:
            self._tilt = _measured(codec, codes, bundles.codes, bundles.spreads)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """From where to where ascending numbers follow one another.

    >>> list(_runs([1, 2, 3, 7]))
    [(1, 4), (7, 8)]
    """
    low = 0
    for place, number in enumerate(numbers):
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield numbers[low], number + 1
            low = place + 1


def _measured(codec: Codec | Bits, codes: Codes, middles: Codes, spreads: NDArray[np.float32]) -> float:
    """How far nodes lie from where their bundles' middles and spreads have them, seen from some of their own kind."""
    whole = len(codes) // SIZE
    if whole < _ASKED:
        return _TILT
    random = np.random.default_rng(4)
    asked = codes[np.sort(random.choice(len(codes), _ASKED, replace=False))]
    far = _far(codec, asked, middles[:whole])
    shares = []
    for q in range(_ASKED):
        near = np.argsort(far[q])[: max(1, whole // _NEAR)]
        near = random.choice(near, min(_LOOKED_INTO, near.size), replace=False)
        nodes = (near[:, None] * SIZE + np.arange(SIZE)).ravel()
        found = _far(codec, asked[q : q + 1], codes[nodes]).reshape(-1, SIZE)
        means = np.maximum(far[q, near], 1.0) * np.maximum(spreads[near], 1.0)
        shares.append(np.mean(found.var(axis=1) / (4.0 * means)))
    return float(np.sqrt(np.mean(shares)))


def _far(codec: Codec | Bits, asked: Codes, codes: Codes) -> NDArray[np.float64]:
    """Squared distances of what some codes stand for from what others do, in units of scores."""
    if isinstance(codec, Bits):
        found: NDArray[np.float64] = np.unpackbits(asked[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=np.int64).astype(np.float64)
        return found
    states, offsets = codec.prepare(codec.decode(asked))
    return codec.scores(states, codes).astype(np.float64) + offsets[:, None]
