"""How far a query is from a code, 16 bytes of the code at a time: the numbers that `cpu/codes` has, to the last bit.

A code's words are multiplied four bytes at a time. What a query is prepared for that from is the CPU's: `begin` turns
its bytes w into what products with a code's numbers u take, so that

    4 bits:         sum(u * (4 * u - w))  = 4 * sum(u * u) + sum(u * -w)
    2 bits:         sum(u * (12 * u - w)) = 12 * sum(u * u - u) + sum(u * (12 - w))
    1 bit:          sum(u * (24 * u - w)) = sum(u * (24 - w))
    8 bits:         sum((u - w)**2)       = sum(u * u) - 2 * sum(u * w) + sum(w * w)

where every second factor is a signed byte, or for 8 bits a half word.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from numba import float32, int32, int64

from ..reference_codes import (
    SCALAR1,
    SCALAR2,
    SCALAR4,
    SCALAR8,
    WEIGHTS,
    plane_bytes,
    table_bytes,
)
from .compile import device
from .words import dot_high, dot_low, dot_signed, dot_unsigned, ones

HAMMING, JACCARD = 6, 7
"""Packed bits, as `cpu/steps` knows them."""
PIECE = 16
_ONES = 0x01010101
_STEPS = float(1 << 24)
_W4, _W2, _W1 = WEIGHTS[SCALAR4], WEIGHTS[SCALAR2], WEIGHTS[SCALAR1]
_TABLE = 256


def state_bytes(kind: int, n_bytes: int) -> int:
    """What of a prepared query scores are computed from."""
    return n_bytes if kind in (HAMMING, JACCARD) else table_bytes(kind, n_bytes)


def line_words(n_bytes: int) -> int:
    """The words from one plane of a prepared query to the next."""
    return plane_bytes(n_bytes) // 4


def sums(kind: int) -> int:
    """How many numbers a score is made of."""
    return 2 if kind == JACCARD else 1


@device
def begin(kind, word):
    """A word of a prepared query as `piece` takes it."""
    if kind == SCALAR4:
        return _less(0, word)
    if kind == SCALAR2:
        return _less(_W2, word)
    if kind == SCALAR1:
        return _less(_W1, word)
    return int32(word)


@device
def _less(weight, word):
    """weight - each byte of a word."""
    made = int64(0)
    for shift in range(0, 32, 8):
        byte = (weight - (int64(word) >> shift)) & 0xFF
        made |= byte << shift
    # A word with its highest bit set is a negative number.
    return int32(made - ((made & 0x80000000) << 1))


@device
def squares(kind, states, place):
    """What 8-bit codes have of a piece of the query itself, whose eight words begin at a place; nothing for others."""
    total = int64(0)
    if kind == SCALAR8:
        for word in range(place, place + 8):
            for shift in range(0, 32, 16):
                half = (int64(states[word]) >> shift) & 0xFFFF
                half -= (half & 0x8000) << 1
                total += half * half
    return total


@device
def piece(kind, words, states, state, table, at, line):
    """The part of a score that four words of a code have, at the word `at`; for Jaccard 2**32 * either + both.

    The prepared query begins at `states[state]`.
    """
    place = state + (2 * at if kind == SCALAR8 else at)
    step = 2 if kind == SCALAR8 else 1
    total = _word(kind, words[0], states, place, table, at, line)
    total += _word(kind, words[1], states, place + step, table, at + 1, line)
    total += _word(kind, words[2], states, place + 2 * step, table, at + 2, line)
    return total + _word(kind, words[3], states, place + 3 * step, table, at + 3, line)


@device
def _word(kind, word, states, place, table, at, line):
    if kind == SCALAR4:
        return _nibbles(word, states, place, line)
    if kind == SCALAR8:
        crossed = dot_high(states[place + 1], word, dot_low(states[place], word, 0))
        return int64(dot_unsigned(word, word, 0)) - 2 * int64(crossed)
    if kind == SCALAR2:
        return _pairs(word, states, place, line)
    if kind == SCALAR1:
        return _single(word, states, place, line)
    if kind == HAMMING:
        return int64(ones(word ^ states[place]))
    if kind == JACCARD:
        return (int64(ones(word | states[place])) << 32) + int64(ones(word & states[place]))
    return _looked_up(word, table, at)


@device
def _nibbles(word, states, place, line):
    low, high = int32(word & 0x0F0F0F0F), int32((word >> 4) & 0x0F0F0F0F)
    squared = dot_signed(high, high, dot_signed(low, low, 0))
    return int64(dot_signed(high, states[place + line], dot_signed(low, states[place], 0))) + _W4 * int64(
        squared
    )


@device
def _pairs(word, states, place, line):
    total, squared, plain = int32(0), int32(0), int32(0)
    for plane in range(4):
        u = int32((word >> (2 * plane)) & 0x03030303)
        total = dot_signed(u, states[place + plane * line], total)
        squared = dot_signed(u, u, squared)
        plain = dot_signed(u, _ONES, plain)
    return int64(total) + _W2 * (int64(squared) - int64(plain))


@device
def _single(word, states, place, line):
    total = int32(0)
    for plane in range(8):
        total = dot_signed(int32((word >> plane) & _ONES), states[place + plane * line], total)
    return int64(total)


@device
def _looked_up(word, table, at):
    """The entries of the query's table for four bytes of a code."""
    total = int64(0)
    for place in range(4):
        byte = (int64(word) >> (8 * place)) & 0xFF
        total += int64(table[_TABLE * (4 * at + place) + byte])
    return total


@device
def of_bits(both, either):
    """Jaccard's score. The quotient is rounded once, from integers, as on the CPU."""
    if either == 0:
        return int64(0)
    return int64(int32(float32(1.0 - float(both) / float(either)) * float32(_STEPS)))
