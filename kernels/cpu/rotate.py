"""A random rotation of a vector in place, by signs and Hadamard transforms: see `reference_codes.turns`.

Nothing here depends on a processor's vectors but its speed: every sum is of two numbers, in a fixed order.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..reference_codes import HALVES
from .compile import compiled, helper, reads, writes
from .memory import address_of, as_float32, load

_I32 = ir.IntType(32)
_WIDTH = 16
_VECTOR = ir.VectorType(ir.FloatType(), _WIDTH)


def _at(builder: Any, address: Any, kind: Any = _VECTOR) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _within(builder: Any, value: Any) -> Any:
    """Hadamard's transform of one vector of 16."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    for stride in (1, 2, 4, 8):
        picks = ir.Constant(ir.VectorType(_I32, _WIDTH), [i ^ stride for i in range(_WIDTH)])
        # The lower partner gets a sum, the upper one a difference, which is its own negated.
        signs = ir.Constant(_VECTOR, [-1.0 if i & stride else 1.0 for i in range(_WIDTH)])
        partner = builder.shuffle_vector(value, undefined, picks)
        value = builder.fadd(partner, builder.fmul(value, signs))
    return value


@intrinsic
def _turn(typingctx: Any, target: Any, factors: Any) -> Any:
    """Multiplies 16 numbers by 16 others."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, factors = (_at(builder, address) for address in args)
        product = builder.fmul(builder.load(target, align=4), builder.load(factors, align=4))
        builder.store(product, target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def _turn_within(typingctx: Any, target: Any, factors: Any) -> Any:
    """Multiplies 16 numbers by 16 others, then transforms them."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, factors = (_at(builder, address) for address in args)
        product = builder.fmul(builder.load(target, align=4), builder.load(factors, align=4))
        builder.store(_within(builder, product), target, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


def _butterfly(width: int) -> Any:
    kind = ir.VectorType(ir.FloatType(), width)

    @intrinsic
    def butterfly(typingctx: Any, first: Any, second: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            first, second = (_at(builder, address, kind) for address in args)
            a, b = builder.load(first, align=4), builder.load(second, align=4)
            builder.store(builder.fadd(a, b), first, align=4)
            builder.store(builder.fsub(a, b), second, align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    return butterfly


_pair16, _pair8 = _butterfly(16), _butterfly(8)


@intrinsic
def _four(typingctx: Any, first: Any, stride: Any) -> Any:
    """Two steps of the transform at once: four vectors, one stride of bytes apart."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places, address = [], args[0]
        for _ in range(4):
            places.append(_at(builder, address))
            address = builder.add(address, args[1])
        a, b, c, d = (builder.load(place, align=4) for place in places)
        a, b, c, d = builder.fadd(a, b), builder.fsub(a, b), builder.fadd(c, d), builder.fsub(c, d)
        results = builder.fadd(a, c), builder.fadd(b, d), builder.fsub(a, c), builder.fsub(b, d)
        for place, value in zip(places, results, strict=True):
            builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@helper
def rotate(vector, size, turns, rounds):
    """Rotates `size` float32 numbers (a multiple of 16) in place; `turns` is the table of `rounds` rows.

    The first two arguments are an address and a count, the third is an address.
    """
    part = 16
    while 2 * part <= size:
        part *= 2
    end = 4 * size
    for r in range(rounds):
        first = 4 * (size - part) if r % 2 == 1 else 0
        last = first + 4 * part
        factors = turns + r * end
        for at in range(0, first, 64):
            _turn(vector + at, factors + at)
        for at in range(first, last, 64):
            _turn_within(vector + at, factors + at)
        for at in range(last, end, 64):
            _turn(vector + at, factors + at)
        stride = 64
        while 2 * stride < 4 * part:
            for block in range(first, last, 4 * stride):
                for at in range(block, block + stride, 64):
                    _four(vector + at, stride)
            stride *= 4
        if stride < 4 * part:
            for at in range(first, first + stride, 64):
                _pair16(vector + at, vector + at + stride)
        if part < size and r == HALVES:
            for at in range(0, end // 2, 32):
                _pair8(vector + at, vector + at + end // 2)


@helper
def centre(source, mean, dim, target, size):
    """target = source - mean, filled up with zeros; all are addresses of float32 numbers."""
    x, m, y = as_float32(source), as_float32(mean), as_float32(target)
    for j in range(dim):
        y[j] = load(x, j) - load(m, j)
    for j in range(dim, size):
        y[j] = 0


def _rotate_rows(vectors, mean, turns, first, last, out):
    rounds, size = turns.shape
    for i in range(first, last):
        target = address_of(out[i])
        centre(address_of(vectors[i]), address_of(mean), len(mean), target, size)
        rotate(target, size, address_of(turns), rounds)


@functools.cache
def rotate_rows() -> Any:
    """`(vectors: float32[n, d], mean: float32[d], turns: float32[rounds, size], first, last, out)`.

    Writes rows first to last of out, float32[n, size]: the vectors less the mean, filled up and rotated.
    """
    table = reads(types.float32, 2)
    i64 = types.int64
    return compiled(_rotate_rows, table, reads(types.float32), table, i64, i64, writes(types.float32, 2))
