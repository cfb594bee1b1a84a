"""Short codes in place of vectors: what a walk over the graph compares with a query.

A codec is trained on a sample. Vectors and queries are those of ``vecstore.index.space``, and scores are
squared distances between a query and what a code stands for, in units of the codec's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecstore.config import MAX_DIM
from vecstore.index.books import Doubles, Sums, decode, sums_by, train_books
from vecstore.kernels import reference_codes as layout

Codes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
Numbers: TypeAlias = NDArray[np.int64]

KINDS = {
    "scalar8": layout.SCALAR8,
    "scalar4": layout.SCALAR4,
    "scalar2": layout.SCALAR2,
    "scalar1": layout.SCALAR1,
    "product8": layout.PRODUCT8,
    "product4": layout.PRODUCT4,
}
# How far the outermost steps lie from the mean, in standard deviations of a rotated coordinate. Measured:
# narrower clips more, wider makes the steps coarser.
_REACH = {layout.SCALAR8: 4.0, layout.SCALAR4: 2.5, layout.SCALAR2: 1.5, layout.SCALAR1: 0.8}
# A step never vanishes, so that its inverse is a number: data without any spread get this one.
_LEAST_STEP = 1e-30
_PORTION = 1 << 22
_LINE = 64


@dataclass(frozen=True, eq=False)
class Codec:
    """How one collection's vectors are coded.

    >>> vectors = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float32)
    >>> codec = Codec.train(vectors, "scalar4", seed=1)
    >>> codes = codec.encode(vectors)
    >>> codes.shape
    (500, 16)
    >>> states, offsets = codec.prepare(vectors[:3])
    >>> codec.scores(states, codes).argmin(axis=1)
    array([0, 1, 2])
    """

    kind: str
    width: int
    """Coordinates of a vector."""
    code_bytes: int
    seed: int
    low: float
    step: float
    mean: Floats
    books: Floats

    # -- making one

    @classmethod
    def train(
        cls,
        sample: Floats,
        kind: str = "scalar4",
        seed: int = 0,
        sums_of: Callable[[Codec, Floats, Doubles], Sums] | None = None,
    ) -> Codec:
        """A codec for vectors like those of the sample, float32 `(m, width)`.

        The same sample and seed make the same codec. ``sums_of`` may add up a product code's rows elsewhere than here.
        Raises ValueError for a kind that is none, for an empty sample, and where vectors are too long for the kind.
        """
        if kind not in KINDS:
            raise ValueError(f"a codec's kind is one of {', '.join(KINDS)}, not {kind!r}")
        if sample.ndim != 2 or not sample.size:
            raise ValueError(f"a codec is trained on a table of vectors, not on one of shape {sample.shape}")
        number, width = KINDS[kind], sample.shape[1]
        mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        mean[~np.isfinite(mean)] = 0
        none = np.zeros(0, dtype=np.float32)
        untrained = cls(kind, width, layout.code_bytes(number, width), seed, 0.0, 1.0, mean, none)
        untrained._check(trained=False)
        if number in layout.PRODUCTS:
            size = untrained.code_bytes
            of = functools.partial(sums_of or Codec._sums, untrained)
            books = train_books(number, size, sample, mean, seed, of)
            return replace(untrained, books=books)
        low, step = _steps(number, untrained._rotated(sample))
        return replace(untrained, low=low, step=step)

    @classmethod
    def from_dict(cls, content: object) -> Codec:
        """What ``to_dict`` gave. Anything that is not a whole codec is a ValueError."""
        if not isinstance(content, dict):
            raise ValueError("a codec is a map")
        numbers = [content.get(name) for name in ("width", "code_bytes", "seed")]
        if any(type(each) is not int for each in numbers) or not isinstance(content.get("kind"), str):
            raise ValueError("a codec's sizes are whole numbers, and its kind is a text")
        reals = [content.get(name) for name in ("low", "step")]
        if any(type(each) is not float for each in reals):
            raise ValueError("a codec's steps are numbers")
        arrays = [_floats(content.get(name)) for name in ("mean", "books")]
        codec = cls(content["kind"], *numbers, *reals, *arrays)  # type: ignore[arg-type]
        codec._check()
        return codec

    def to_dict(self) -> dict[str, Any]:
        """The codec as plain values and bytes."""
        return {
            "kind": self.kind,
            "width": self.width,
            "code_bytes": self.code_bytes,
            "seed": self.seed,
            "low": self.low,
            "step": self.step,
            "mean": self.mean.astype("<f4").tobytes(),
            "books": self.books.astype("<f4").tobytes(),
        }

    def _check(self, trained: bool = True) -> None:
        """Raise ValueError unless kernels can work with this: they check nothing."""
        if self.kind not in KINDS:
            raise ValueError(f"a codec of unknown kind {self.kind!r}")
        if not 1 <= self.width <= MAX_DIM + 1 or not 0 <= self.seed < 1 << 64:
            raise ValueError("a codec's width or seed is out of range")
        if self.mean.shape != (self.width,) or not np.isfinite(self.mean).all():
            raise ValueError("a codec's mean does not fit its width")
        if not (np.isfinite(self.low) and abs(self.low) < 3e38 and _LEAST_STEP <= self.step < 3e38):
            raise ValueError("a codec's steps are out of range")
        if self.code_bytes != layout.code_bytes(self.number, self.width):
            raise ValueError("a codec's codes don't fit its width")
        if self.number in layout.PRODUCTS:
            books = layout.centroids(self.number) * self.width
        elif self._size <= layout.MOST_COORDINATES[self.number]:
            books = 0
        else:
            raise ValueError(f"{self.kind} codes do not hold {self._size} coordinates")
        if trained and (self.books.shape != (books,) or not np.isfinite(self.books).all()):
            raise ValueError("a codec's books do not fit its width")

    # -- what it is

    @property
    def number(self) -> int:
        """The kind as kernels know it."""
        return KINDS[self.kind]

    @property
    def _size(self) -> int:
        """Coordinates of a rotated vector; for product codes nothing is rotated."""
        if self.number in layout.PRODUCTS:
            return self.width
        return layout.coordinates(self.number, self.code_bytes)

    @property
    def state_bytes(self) -> int:
        """The bytes of a prepared query, with the room that preparing takes."""
        return layout.state_bytes(self.number, self.code_bytes, self._size)

    @functools.cached_property
    def parameters(self) -> tuple[Numbers, Floats, Floats, Floats, Floats]:
        """The codec as kernels take it: see ``vecstore.kernels.cpu.coder``."""
        shape = np.array([self.number, self.code_bytes], dtype=np.int64)
        scale = np.array([self.low, self.step], dtype=np.float32)
        if self.number in layout.PRODUCTS:
            turns = np.zeros((0, self.width), dtype=np.float32)
        else:
            turns = layout.turns(self._size, self.seed)
        return shape, scale, self.mean, turns, self.books

    # -- what it does

    def encode(self, vectors: Floats) -> Codes:
        """Codes `(n, code_bytes)` of vectors `(n, width)`; threads may encode parts side by side."""
        table = self._checked(vectors)
        codes = np.empty((len(table), self.code_bytes), dtype=np.uint8)
        _kernels().encode()(*self.parameters, table, codes)
        return codes

    def prepare(self, queries: Floats) -> tuple[Codes, Numbers]:
        """Queries ready for scoring `(n, state_bytes)`, and the offset of each one's scores.

        A score and its query's offset make a squared distance, in units of the codec's own.
        """
        table = self._checked(queries)
        states = np.empty((len(table), self.state_bytes), dtype=np.uint8)
        offsets = np.empty(len(table), dtype=np.int64)
        _kernels().prepare_queries()(*self.parameters, table, states, offsets)
        return states, offsets

    def scores(self, states: Codes, codes: Codes) -> NDArray[np.int32]:
        """The scores `(queries, codes)` of prepared queries."""
        if states.shape[1:] != (self.state_bytes,) or codes.shape[1:] != (self.code_bytes,):
            raise ValueError("states or codes of another codec")
        result = np.empty((len(states), len(codes)), dtype=np.int32)
        states, codes = np.ascontiguousarray(states), np.ascontiguousarray(codes)
        _kernels().score_all()(self.number, states, codes, result)
        return result

    def decode(self, codes: Codes) -> Floats:
        """The vectors that codes stand for, `(n, width)`: near those that were encoded.

        What lies beyond float32's numbers is its largest.
        """
        most = np.finfo(np.float32).max
        result = np.empty((len(codes), self.width), dtype=np.float32)
        for part in _portions(len(codes), self._size):
            if self.number in layout.PRODUCTS:
                result[part] = decode(self.number, codes[part], self.books, self.width) + self.mean
                continue
            numbers = layout.unpack(self.number, codes[part])
            rotated = (np.float32(self.low) + numbers * np.float32(self.step)).astype(np.float32)
            turned = layout.rotate_back(rotated, self.parameters[3])[:, : self.width].astype(np.float64)
            result[part] = np.clip(turned + self.mean, -most, most)
        return result

    def distortion(self, vectors: Floats) -> float:
        """The mean squared error of codes, as a share of the vectors' variance about the codec's mean.

        It grows when vectors come that are unlike those that the codec was trained on.
        """
        table = self._checked(vectors)
        error, spread = 0.0, 0.0
        for part in _portions(len(table), self.width):
            given = table[part].astype(np.float64)
            error += _squares(self.decode(self.encode(table[part])) - given)
            spread += _squares(given - self.mean)
        return error / spread if spread > 0 else 0.0

    def _checked(self, vectors: Floats) -> Floats:
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(f"vectors have {self.width} coordinates here, not the shape {vectors.shape}")
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def _sums(self, chosen: Floats, rows: Doubles) -> Sums:
        bounds = layout.bounds(self.number, self.code_bytes, self.width)
        return sums_by(self._encoded_by, self.number, bounds, chosen, rows)

    def _encoded_by(self, vectors: Floats, books: Floats) -> Codes:
        return replace(self, books=books).encode(vectors)

    def _rotated(self, vectors: Floats) -> Floats:
        table = self._checked(vectors)
        result = np.empty((len(table), self._size), dtype=np.float32)
        _, _, mean, turns, _ = self.parameters
        _rotation().rotate_rows()(table, mean, turns, 0, len(table), result)
        return result


def room_for_codes(count: int, code_bytes: int) -> Codes:
    """A table that begins with a cache line: codes that lie across two take twice as long to come from memory.

    >>> room_for_codes(5, 64).ctypes.data % 64
    0
    """
    plain = np.empty(count * code_bytes + _LINE, dtype=np.uint8)
    start = -plain.ctypes.data % _LINE
    return plain[start : start + count * code_bytes].reshape(count, code_bytes)


def _kernels() -> Any:
    from vecstore.kernels.cpu import coder

    return coder


def _rotation() -> Any:
    from vecstore.kernels.cpu import rotate

    return rotate


def _portions(count: int, width: int) -> list[slice]:
    rows = max(1, _PORTION // width)
    return [slice(start, start + rows) for start in range(0, count, rows)]


def _squares(table: NDArray[np.float64]) -> float:
    return float(np.square(table).sum())


def _floats(content: object) -> Floats:
    if not isinstance(content, bytes) or len(content) % 4:
        raise ValueError("a codec's tables are bytes, four a number")
    return np.frombuffer(content, dtype="<f4").astype(np.float32)


def _steps(number: int, rotated: Floats) -> tuple[float, float]:
    """The low end and the step for rotated vectors."""
    spread = float(np.sqrt(np.square(rotated, dtype=np.float64).mean()))
    most = float(np.finfo(np.float32).max) / 16
    spread = spread if spread < most else most
    steps = (1 << layout.BITS[number]) - 1
    step = max(2 * _REACH[number] * spread / steps, _LEAST_STEP)
    return -step * steps / 2, step
