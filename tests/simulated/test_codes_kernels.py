"""Codes that a card makes: those of the CPU, and codebooks whose sums are the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vecstore.index import books, on_card
from vecstore.index.bits import Bits
from vecstore.index.codec import KINDS, Codec
from vecstore.index.on_card import OnCard
from vecstore.index.steps import OnCpu
from vecstore.kernels import reference_codes as layout
from vecstore.kernels.cuda import coder
from vecstore.kernels.cuda.card import Card

SCALARS = [kind for kind, number in KINDS.items() if number in layout.SCALARS]
PRODUCTS = [kind for kind, number in KINDS.items() if number in layout.PRODUCTS]


def vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng([seed, dim])
    return (random.standard_normal((n, dim)) * 3 + random.standard_normal(dim)).astype(np.float32)


@pytest.fixture
def steps(card: Card, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnCard]:
    monkeypatch.setattr(on_card, "_SCALARS_FROM_BYTES", 0)
    with ThreadPoolExecutor(1) as pool:
        yield OnCard(card, OnCpu(1, pool))


@pytest.mark.parametrize("kind", SCALARS)
@pytest.mark.parametrize("dim", [1, 17, 100, 128])
def test_scalar_codes_are_the_cpu_s_to_the_bit(steps: OnCard, kind: str, dim: int) -> None:
    rows = vectors(9, dim)
    codec = Codec.train(vectors(200, dim, 1), kind, seed=dim)
    np.testing.assert_array_equal(steps.encode(codec, rows), codec.encode(rows))


@pytest.mark.filterwarnings("ignore:.*encountered")
@pytest.mark.parametrize("kind", SCALARS)
def test_numbers_far_out_are_clipped_as_on_the_cpu(steps: OnCard, kind: str) -> None:
    rows = vectors(5, 24)
    codec = Codec.train(rows, kind, seed=3)
    rows[1] *= 100
    rows[2] *= -1e6
    rows[3] = np.finfo(np.float32).max
    rows[4, ::2] = -np.finfo(np.float32).max
    np.testing.assert_array_equal(steps.encode(codec, rows), codec.encode(rows))


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("dim", [3, 33, 128])
def test_product_codes_are_as_near_as_the_cpu_s(steps: OnCard, kind: str, dim: int) -> None:
    """The same, but where two centroids are equally near up to rounding."""
    rows = vectors(11, dim)
    codec = Codec.train(vectors(300, dim, 1), kind, seed=1)
    found, expected = steps.encode(codec, rows), codec.encode(rows)
    mine, other = (books.numbers_of(codec.number, each) for each in (found, expected))
    assert (mine != other).mean() < 0.01
    centred = rows.astype(np.float64) - codec.mean

    def apart(codes: np.ndarray) -> np.ndarray:
        """The distance of each part of each row from its centroid."""
        difference = np.square(centred - books.decode(codec.number, codes, codec.books, dim))
        bounds = layout.bounds(codec.number, codec.code_bytes, dim)
        sums = np.concatenate((np.zeros((len(codes), 1)), np.cumsum(difference, axis=1)), axis=1)
        return sums[:, bounds[1:]] - sums[:, bounds[:-1]]

    np.testing.assert_allclose(apart(found), apart(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_sums_are_the_cpu_s_to_the_bit(steps: OnCard, kind: str) -> None:
    """Of whole numbers, so that all see the same centroid nearest; some of no rows, and parts of no coordinates."""
    for dim in (3, 21):
        random = np.random.default_rng(dim)
        rows = random.integers(0, 40, (50, dim)).astype(np.float32)
        untrained = Codec(
            kind,
            dim,
            layout.code_bytes(KINDS[kind], dim),
            0,
            0.0,
            1.0,
            np.full(dim, 20, np.float32),
            np.zeros(0, np.float32),
        )
        doubles = rows.astype(np.float64) - untrained.mean + random.normal(size=rows.shape)
        book = random.integers(-20, 20, layout.centroids(KINDS[kind]) * dim).astype(np.float32)
        totals, counts = steps._sums(untrained, rows, doubles)(book)
        expected, sizes = untrained._sums(rows, doubles)(book)
        np.testing.assert_array_equal(counts, sizes)
        np.testing.assert_array_equal(totals, expected)


def test_codebooks_are_as_good_as_the_cpu_s(steps: OnCard) -> None:
    sample = vectors(40, 8)
    mine, other = (steps.train(sample, "product4", 2), Codec.train(sample, "product4", 2))
    assert mine.kind == other.kind
    np.testing.assert_allclose(mine.distortion(sample), other.distortion(sample), rtol=0.02)
    assert steps.train(sample, "product4", 2).to_dict() == mine.to_dict()
    assert steps.train(sample, "scalar4", 2).to_dict() == Codec.train(sample, "scalar4", 2).to_dict()


def test_what_no_card_does_the_cpu_does(steps: OnCard, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = (vectors(4, 20) > 0).astype(np.float32)
    np.testing.assert_array_equal(
        steps.encode(Bits("hamming bits", 20), bits), Bits("hamming bits", 20).encode(bits)
    )
    monkeypatch.setattr(coder, "encode_scalar", None)
    rows = vectors(4, 24)
    codec = Codec.train(rows, "scalar4")
    with monkeypatch.context() as patch:
        patch.setattr(coder, "MOST_ROTATED", 16)
        np.testing.assert_array_equal(steps.encode(codec, rows), codec.encode(rows))
    monkeypatch.setattr(on_card, "_SCALARS_FROM_BYTES", rows.nbytes + 1)
    np.testing.assert_array_equal(steps.encode(codec, rows), codec.encode(rows))


def test_codes_are_made_in_pieces(steps: OnCard, card: Card) -> None:
    rows = vectors(40, 16)
    codec = Codec.train(rows, "scalar8")
    card.budget = card.held + 1200
    np.testing.assert_array_equal(steps.encode(codec, rows), codec.encode(rows))
