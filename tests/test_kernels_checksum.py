"""Checksums: what they are, on every backend, and that no flipped bit escapes them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from vecstore.kernels import dispatch, reference


class Compiled:
    """The compiled kernels behind the signatures of the reference."""

    def checksum(self, data: np.ndarray) -> int:
        weights = reference.checksum_weights(len(data) // 4)
        return int(dispatch.cpu().checksum.checksum()(data.ctypes.data, len(data) // 4, weights))

    def block_checksum(self, block: np.ndarray) -> int:
        weights = reference.checksum_weights(len(block) // 4)
        return int(dispatch.cpu().checksum.block_checksum()(block.ctypes.data, len(block), weights))


@pytest.fixture(params=[reference, Compiled()], ids=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def random_block(length: int) -> np.ndarray:
    return np.random.default_rng(10).integers(0, 256, length, dtype=np.uint8)


def test_the_checksum_is_the_weighted_sum_of_words(backend: Any) -> None:
    data = random_block(4 * 21 + 1)
    for start in (0, 1):
        part = data[start : start + 84]
        part.flags.writeable = False
        words = [int.from_bytes(part[i : i + 4].tobytes(), "little") for i in range(0, 84, 4)]
        weights = [int(w) for w in reference.checksum_weights(21)]
        total = sum(w * x for w, x in zip(weights, words, strict=True))
        assert backend.checksum(part) == total % 2**64


def test_the_weights_never_change() -> None:
    """They are part of the file format."""
    assert [hex(int(w)) for w in reference.checksum_weights(3)] == [
        "0x910a2dec89025cc1",
        "0x975835de1c9756cf",
        "0x1d0b14e4db018fed",
    ]
    assert (reference.checksum_weights(5000) % 2 == 1).all()
    np.testing.assert_array_equal(reference.checksum_weights(3), reference.checksum_weights(5000)[:3])


@pytest.mark.parametrize("length", [48, 52, 4080])
def test_a_block_leaves_out_its_own_field(backend: Any, length: int) -> None:
    block = random_block(length)
    expected = reference.checksum(np.concatenate([block[:40], block[48:]]))
    assert backend.block_checksum(block) == expected
    block[40:48] ^= 0xFF
    assert backend.block_checksum(block) == expected


def test_every_flipped_bit_changes_the_checksum(backend: Any) -> None:
    block = random_block(400)
    expected = backend.block_checksum(block)
    for at in [*range(40), *range(48, 400)]:
        for bit in range(8):
            block[at] ^= 1 << bit
            assert backend.block_checksum(block) != expected
            block[at] ^= 1 << bit


def test_the_first_bad_block_is_found() -> None:
    blocks = np.stack([random_block(4080)] * 5)
    blocks[:, 40:48] = np.frombuffer(reference.block_checksum(blocks[0]).to_bytes(8, sys.byteorder), np.uint8)
    addresses = (blocks.ctypes.data + 4080 * np.arange(5)).astype(np.uint64)
    find = dispatch.cpu().checksum.first_bad_block()
    weights = reference.checksum_weights(4080 // 4 - 2)
    assert find(addresses, 4080, weights) == -1
    blocks[4, 4079] ^= 1
    blocks[3, 40] ^= 1
    assert find(addresses, 4080, weights) == 3
    assert find(addresses[:3], 4080, weights) == -1


@pytest.mark.parametrize("call", [reference.checksum, reference.block_checksum])
def test_a_checksum_takes_whole_words(call: Any) -> None:
    with pytest.raises(ValueError, match="4-byte words"):
        call(np.zeros(57, np.uint8))
