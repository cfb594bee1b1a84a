"""Bundles of nodes: their middles and spreads, and that they follow what changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vecstore.index.bits import Bits
from vecstore.index.bundles import BALE, SIZE, Bundled, Bundles
from vecstore.index.codec import Codec
from vecstore.kernels import reference_codes as layout

WEIGHTS = {"scalar8": 1, "scalar4": 4, "scalar2": 12, "scalar1": 24}


def clustered(count: int, dim: int = 40, seed: int = 0) -> NDArray[np.float32]:
    """Vectors that lie side by side in clusters of 64."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(-(-count // SIZE), dim))
    return (np.repeat(centres, SIZE, axis=0)[:count] + 0.4 * random.normal(size=(count, dim))).astype(
        np.float32
    )


def expected(numbers: NDArray[np.int64], weight: int) -> tuple[NDArray[np.int64], float]:
    """The middle of some whole numbers, and the mean squared distance from it."""
    middle = np.floor(numbers.mean(axis=0) + 0.5).astype(np.int64)
    return middle, float(weight * ((numbers - middle) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("kind", WEIGHTS)
def test_middles_and_spreads_of_codes(kind: str) -> None:
    vectors = clustered(SIZE * 20 + 17)
    codec = Codec.train(vectors, kind, seed=1)
    codes = codec.encode(vectors)
    found = Bundled().of(codec, codes)
    assert found is not None
    assert len(found.bundles.codes) == 21
    assert len(found.bales.codes) == 2
    for b in (0, 7, 20):
        numbers = layout.unpack(codec.number, codes[b * SIZE : (b + 1) * SIZE])
        middle, spread = expected(numbers, WEIGHTS[kind])
        assert layout.unpack(codec.number, found.bundles.codes[b : b + 1])[0].tolist() == middle.tolist()
        assert abs(found.bundles.spreads[b]) == pytest.approx(spread, rel=1e-5)


def test_middles_of_bits() -> None:
    bits = Bits("hamming bits", 200)
    packed = bits.encode(clustered(SIZE * 12, 200))
    found = Bundled().of(bits, packed)
    assert found is not None
    rows = np.unpackbits(packed[:SIZE], axis=1).astype(np.int64)
    middle, spread = expected(rows, 1)
    assert np.unpackbits(found.bundles.codes[0]).tolist() == middle.tolist()
    assert found.bundles.spreads[0] == pytest.approx(spread)
    assert 0.01 < found.tilt < 1.0


def test_codes_that_are_no_numbers_have_none() -> None:
    vectors = clustered(SIZE * 12)
    assert Bundled().of(Bits("jaccard bits", 40), np.zeros((10, 16), np.uint8)) is None
    codec = Codec.train(vectors, "product8", seed=1)
    assert Bundled().of(codec, codec.encode(vectors)) is None


def same(one: Bundles | None, other: Bundles | None) -> None:
    assert one is not None
    assert other is not None
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (one.bundles.codes, other.bundles.codes),
        (one.bundles.spreads, other.bundles.spreads),
        (one.bales.codes, other.bales.codes),
        (one.bales.spreads, other.bales.spreads),
        (one.loose, other.loose),
    ]
    for mine, its in pairs:
        assert np.array_equal(mine, its)


def test_they_follow_codes_that_come_and_change() -> None:
    vectors = clustered(SIZE * BALE * 3 + 5)
    codec = Codec.train(vectors, "scalar4", seed=1)
    codes = codec.encode(vectors)
    kept = Bundled()
    for count in (SIZE * 20 + 3, SIZE * 20 + 40, SIZE * BALE * 2, len(codes)):
        same(kept.of(codec, codes[:count]), Bundled().of(codec, codes[:count]))
    codes[100:300] = codes[1500:1700]
    kept.changed(100, 200)
    same(kept.of(codec, codes), Bundled().of(codec, codes))
    # One who still has fewer nodes is given those.
    fewer = kept.of(codec, codes[: SIZE * 3])
    assert fewer is not None
    assert len(fewer.bundles.codes) == 3


def test_what_lies_side_by_side_by_chance_is_loose() -> None:
    tight = clustered(SIZE * 30)
    mixed = np.random.default_rng(3).permutation(clustered(SIZE * 30, seed=5))[: SIZE * 4]
    vectors = np.concatenate((tight, mixed))
    codec = Codec.train(vectors, "scalar4", seed=1)
    found = Bundled().of(codec, codec.encode(vectors))
    assert found is not None
    assert set(found.loose.tolist()) <= {30, 31, 32, 33}
    assert found.loose.size >= 3
    assert (found.bundles.spreads[found.loose] < 0).all()
