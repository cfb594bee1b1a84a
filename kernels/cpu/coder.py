"""Codes made of vectors, and queries prepared for scoring them: what `reference_codes` describes.

A codec's parameters are five arrays: `shape` (kind, bytes of a code), `scale` (low, step), the mean, the
rotation's `turns` (no rows: none), and a product code's `books`. A product code has as many parts as it has
numbers; part p is the coordinates from p * size // parts on, and its book lies at centroids times that in
`books`, dimension by dimension.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# What kernels take is said by their signatures for Numba, at the end of the file.

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..reference_codes import (
    GROUP,
    LINE,
    PRODUCT4,
    PRODUCT8,
    QUERY_RANGES,
    SCALAR1,
    SCALAR2,
    SCALAR4,
    SCALAR8,
    WEIGHTS,
)
from .codes import score
from .compile import compiled, helper, reads, writes
from .memory import address_of, as_float32, as_uint8, as_uint16, as_uint64, load
from .rotate import centre, rotate

_I32, _F32 = ir.IntType(32), ir.FloatType()
# Added to a number below 2**22 it leaves no room for fractions: the number is rounded, half to even.
_ROUNDING = 12582912.0
_ROUNDING_BITS = 0x4B400000


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    kind = ir.VectorType(scalar.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(_I32, count), [0] * count))


def _whole(bits: int) -> Any:
    stored = ir.VectorType(ir.IntType(bits), GROUP)

    @intrinsic
    def whole(typingctx: Any, source: Any, target: Any, low: Any, factor: Any, least: Any, most: Any) -> Any:
        """Stores round((source - low) * factor), clipped, of 16 numbers; returns the sum of their squares."""

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            floats, ints = ir.VectorType(_F32, GROUP), ir.VectorType(_I32, GROUP)
            value = builder.load(builder.inttoptr(args[0], floats.as_pointer()), align=4)
            low, factor, least, most = (_splat(builder, each, GROUP) for each in args[2:])
            value = builder.fmul(builder.fsub(value, low), factor)
            # Written so that what is no number becomes the most.
            value = builder.select(builder.fcmp_ordered("<", value, most), value, most)
            value = builder.select(builder.fcmp_ordered(">", value, least), value, least)
            value = builder.fadd(value, ir.Constant(floats, [_ROUNDING] * GROUP))
            number = builder.sub(builder.bitcast(value, ints), ir.Constant(ints, [_ROUNDING_BITS] * GROUP))
            where = builder.inttoptr(args[1], stored.as_pointer())
            builder.store(builder.trunc(number, stored), where, align=1)
            reduce = ir.FunctionType(_I32, [ints])
            name = f"llvm.vector.reduce.add.v{GROUP}i32"
            function = cgutils.get_or_insert_function(builder.module, reduce, name)
            return builder.call(function, [builder.mul(number, number)])

        f32 = types.float32
        return types.int32(types.int64, types.int64, f32, f32, f32, f32), emit

    return whole


_whole8, _whole16 = _whole(8), _whole(16)


@helper
def _planes(kind):
    return 1 if kind == SCALAR8 else 2 if kind == SCALAR4 else 4 if kind == SCALAR2 else 8


@helper
def _query_scale(kind):
    """The query's steps in a code's step, and the least and most number."""
    if kind == SCALAR4:
        return np.float32(2 * _W4), np.float32(_LEAST4), np.float32(_MOST4)
    if kind == SCALAR2:
        return np.float32(2 * _W2), np.float32(_LEAST2), np.float32(_MOST2)
    if kind == SCALAR1:
        return np.float32(2 * _W1), np.float32(_LEAST1), np.float32(_MOST1)
    return np.float32(1), np.float32(_LEAST8), np.float32(_MOST8)


_W4, _W2, _W1 = WEIGHTS[SCALAR4], WEIGHTS[SCALAR2], WEIGHTS[SCALAR1]
(_LEAST8, _MOST8), (_LEAST4, _MOST4) = QUERY_RANGES[SCALAR8], QUERY_RANGES[SCALAR4]
(_LEAST2, _MOST2), (_LEAST1, _MOST1) = QUERY_RANGES[SCALAR2], QUERY_RANGES[SCALAR1]


@helper
def _turned(source, mean, turns, work):
    """A vector less the mean, filled up and rotated, at the address `work`."""
    rounds, size = turns.shape
    centre(source, address_of(mean), len(mean), work, size)
    if rounds:
        rotate(work, size, address_of(turns), rounds)


# --- scalar codes ----------------------------------------------------------------------------------------


@helper
def _prepare_scalar(kind, n_bytes, scale, mean, turns, books, query, state):
    steps, least, most = _query_scale(kind)
    count, line = _planes(kind), (n_bytes + LINE - 1) // LINE * LINE
    wide = 2 if kind == SCALAR8 else 1
    work = state + count * line * wide
    _turned(query, mean, turns, work)
    low, factor = scale[0], steps / scale[1]
    squares = types.int64(0)
    for g in range(n_bytes // GROUP):
        for p in range(count):
            source = work + 4 * GROUP * (g * count + p)
            target = state + p * line + wide * GROUP * g
            if wide == 2:
                _whole16(source, target, low, factor, least, most)
            else:
                squares += _whole8(source, target, low, factor, least, most)
    if wide == 2:
        # Here the filling counts.
        for at in range(2 * n_bytes, 2 * line):
            as_uint8(state)[at] = 0
        return types.int64(0)
    return types.int64(np.float64(squares) / (2.0 * np.float64(steps)))


@helper
def _encode_scalar(kind, n_bytes, scale, vector, numbers, code):
    """Numbers is room for a byte for each coordinate."""
    count = _planes(kind)
    bits = 8 // count
    most = np.float32((1 << bits) - 1)
    factor = np.float32(1) / scale[1]
    for i in range(n_bytes // GROUP * count):
        _whole8(vector + 4 * GROUP * i, numbers + GROUP * i, scale[0], factor, np.float32(0), most)
    for g in range(n_bytes // GROUP):
        for half in range(0, GROUP, 8):
            word = types.uint64(0)
            for p in range(count):
                part = load(as_uint64(numbers + GROUP * (g * count + p) + half), 0)
                word |= part << types.uint64(p * bits)
            for i in range(8):
                as_uint8(code)[GROUP * g + half + i] = types.uint8(word >> types.uint64(8 * i))


# --- product codes ---------------------------------------------------------------------------------------


@helper
def _part_distances(vector, books, part, parts, size, centroids, out):
    """The squared distances of one part of a vector to all its centroids, at the address `out`."""
    first, last = part * size // parts, (part + 1) * size // parts
    x, book, total = as_float32(vector), as_float32(books), as_float32(out)
    for c in range(centroids):
        total[c] = 0
    for j in range(first, last):
        value = load(x, j)
        for c in range(centroids):
            difference = value - load(book, j * centroids + c)
            total[c] += difference * difference


@helper
def _nearest(distances, centroids):
    values = as_float32(distances)
    best = 0
    for c in range(1, centroids):
        if values[c] < values[best]:
            best = c
    return best


@helper
def _range_of(distances, centroids):
    values = as_float32(distances)
    least = most = values[0]
    for c in range(1, centroids):
        least, most = min(least, values[c]), max(most, values[c])
    return least, most


@helper
def _parts_of(kind, n_bytes):
    return (2 * n_bytes, 16) if kind == PRODUCT4 else (n_bytes, 256)


@helper
def _prepare_product(kind, n_bytes, scale, mean, turns, books, query, state):
    parts, centroids = _parts_of(kind, n_bytes)
    size = turns.shape[1]
    near = state + 512 * n_bytes
    work = near + 4 * parts * centroids
    _turned(query, mean, turns, work)
    widest, nearest = np.float32(0), 0.0
    doubled = parts // n_bytes
    for b in range(n_bytes):
        reach = np.float32(0)
        for part in range(b * doubled, (b + 1) * doubled):
            distances = near + 4 * part * centroids
            _part_distances(work, address_of(books), part, parts, size, centroids, distances)
            least, most = _range_of(distances, centroids)
            for c in range(centroids):
                as_float32(distances)[c] -= least
            reach += most - least
            nearest += np.float64(least)
        widest = max(widest, reach)
    # Not a number, infinite or nought: then nothing can be told apart.
    factor = np.float32(65535) / widest if np.float32(1e-30) < widest < np.float32(1e37) else np.float32(0)
    table = as_uint16(state)
    for b in range(n_bytes):
        if doubled == 1:
            values = as_float32(near + 1024 * b)
            for c in range(256):
                table[256 * b + c] = _entry(values[c], factor)
        else:
            lower, upper = as_float32(near + 128 * b), as_float32(near + 128 * b + 64)
            for high in range(16):
                for c in range(16):
                    table[256 * b + 16 * high + c] = _entry(lower[c] + upper[high], factor)
    offset = nearest * np.float64(factor)
    return types.int64(offset) if offset < 1e15 else types.int64(10**15)


@helper
def _entry(distance, factor):
    value = distance * factor + np.float32(0.5)
    return types.uint16(value) if value < np.float32(65535) else types.uint16(65535)


@helper
def _encode_product(kind, n_bytes, size, books, vector, distances, code):
    parts, centroids = _parts_of(kind, n_bytes)
    doubled = parts // n_bytes
    for b in range(n_bytes):
        number = 0
        for i in range(doubled):
            _part_distances(vector, books, b * doubled + i, parts, size, centroids, distances)
            number |= _nearest(distances, centroids) << (4 * i)
        as_uint8(code)[b] = types.uint8(number)


# --- all codes -------------------------------------------------------------------------------------------


@helper
def prepare(shape, scale, mean, turns, books, query, state):
    """Prepares one query, of a float32 array, for `score` in `state`, a uint8 array of `state_bytes`.

    Returns the offset: score + offset is the squared distance in the code's units, as near as it is known.
    """
    kind, n_bytes = shape[0], shape[1]
    if kind in (PRODUCT8, PRODUCT4):
        return _prepare_product(
            kind, n_bytes, scale, mean, turns, books, address_of(query), address_of(state)
        )
    return _prepare_scalar(kind, n_bytes, scale, mean, turns, books, address_of(query), address_of(state))


def _prepare_queries(shape, scale, mean, turns, books, queries, states, offsets):
    for i in range(len(queries)):
        offsets[i] = prepare(shape, scale, mean, turns, books, queries[i], states[i])


def _encode(shape, scale, mean, turns, books, vectors, codes):
    kind, n_bytes = shape[0], shape[1]
    size = turns.shape[1]
    work = np.empty(size, np.float32)
    room = np.empty(max(1024, size), np.uint8)
    for i in range(len(vectors)):
        vector = address_of(work)
        _turned(address_of(vectors[i]), mean, turns, vector)
        code = address_of(codes[i])
        if kind in (PRODUCT8, PRODUCT4):
            _encode_product(kind, n_bytes, size, address_of(books), vector, address_of(room), code)
        else:
            _encode_scalar(kind, n_bytes, scale, vector, address_of(room), code)


def _score_all(kind, states, codes, scores):
    for q in range(len(states)):
        for i in range(len(codes)):
            scores[q, i] = score(kind, address_of(codes[i]), address_of(states[q]), codes.shape[1])


_F32S = reads(types.float32)
_PARAMETERS = (reads(types.int64), _F32S, _F32S, reads(types.float32, 2), _F32S)
PARAMETERS = types.Tuple(_PARAMETERS)
"""The type of a codec's parameters as one argument of a kernel."""


@functools.cache
def prepare_queries() -> Any:
    """`(*parameters, queries: float32[n, d], states: uint8[n, state_bytes], offsets: int64[n])`."""
    table, states = reads(types.float32, 2), writes(types.uint8, 2)
    return compiled(_prepare_queries, *_PARAMETERS, table, states, writes(types.int64))


@functools.cache
def encode() -> Any:
    """`(*parameters, vectors: float32[n, d], codes: uint8[n, code_bytes])`."""
    return compiled(_encode, *_PARAMETERS, reads(types.float32, 2), writes(types.uint8, 2))


@functools.cache
def score_all() -> Any:
    """`(kind, states: uint8[q, state_bytes], codes: uint8[n, code_bytes], scores: int32[q, n])`."""
    states = reads(types.uint8, 2)
    return compiled(_score_all, types.int64, states, states, writes(types.int32, 2))
