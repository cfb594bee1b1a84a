"""Distances of packed bits: Hamming's and Jaccard's, the same on every processor.

Where instructions count the bits of whole vectors, Hamming distances are found for eight rows at a time.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..dispatch import cpu_features
from .compile import helper
from .memory import address_of, as_uint8, as_uint64, load, popcount

EIGHT = "avx512vpopcntdq" in cpu_features()
"""Whether there are instructions that count the bits of eight words."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_WORDS = ir.VectorType(_I64, 8)


@helper
def hamming_count(row, query, n_bytes):
    """How many bits differ."""
    row_words, query_words = as_uint64(row), as_uint64(query)
    total = types.uint64(0)
    if n_bytes == 32:
        # So few words are counted sooner than a loop is set up, and walks compare thousands of codes.
        for j in range(4):
            total += popcount(load(row_words, j) ^ load(query_words, j))
        return types.int64(total)
    words = n_bytes // 8
    for j in range(words):
        total += popcount(load(row_words, j) ^ load(query_words, j))
    for j in range(8 * words, n_bytes):
        total += popcount(types.uint64(load(as_uint8(row), j) ^ load(as_uint8(query), j)))
    return types.int64(total)


@helper
def hamming_row(row, query, n_bytes):
    return np.float32(hamming_count(row, query, n_bytes))


@helper
def jaccard_whole(row, query, n_bytes):
    """Jaccard's distance in float64, as a scan's last comparison has it."""
    words = n_bytes // 8
    row_words, query_words = as_uint64(row), as_uint64(query)
    common = types.uint64(0)
    union = types.uint64(0)
    for j in range(words):
        x, q = load(row_words, j), load(query_words, j)
        common += popcount(x & q)
        union += popcount(x | q)
    for j in range(8 * words, n_bytes):
        u, v = load(as_uint8(row), j), load(as_uint8(query), j)
        common += popcount(types.uint64(u & v))
        union += popcount(types.uint64(u | v))
    return 1.0 - np.float64(common) / np.float64(union) if union > 0 else 0.0


@helper
def jaccard_row(row, query, n_bytes):
    # The quotient is rounded once, from integers: the same value on every processor.
    return np.float32(jaccard_whole(row, query, n_bytes))


# --- eight at a time ---------------------------------------------------------------------------------------


def _load(builder: Any, address: Any, kind: Any = _WORDS) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _picked(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(places)), places))


def _counted(builder: Any, row: Any, query: Any) -> Any:
    kind = ir.FunctionType(_WORDS, [_WORDS])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.v8i64")
    return builder.call(function, [builder.xor(row, query)])


def _folded(builder: Any, counts: list[Any]) -> Any:
    """Sums of neighbours, until one vector has a sum for each row."""
    while len(counts) > 1:
        pairs = zip(counts[::2], counts[1::2], strict=True)
        counts = [
            builder.add(
                _picked(builder, a, b, list(range(0, 16, 2))), _picked(builder, a, b, list(range(1, 16, 2)))
            )
            for a, b in pairs
        ]
    return counts[0]


def _short(builder: Any, rows: Any, query: Any, words: int) -> Any:
    """Rows of 1, 2 or 4 words lie several in a vector."""
    part = _load(builder, query, ir.VectorType(_I64, words)) if words > 1 else None
    if part is None:
        one = builder.load(builder.inttoptr(query, _I64.as_pointer()), align=1)
        part = builder.insert_element(ir.Constant(ir.VectorType(_I64, 1), ir.Undefined), one, _I32(0))
    whole = _picked(builder, part, part, [place % words for place in range(8)])
    starts = (builder.add(rows, _I64(64 * step)) for step in range(words))
    return _folded(builder, [_counted(builder, _load(builder, start), whole) for start in starts])


def _long(builder: Any, rows: Any, query: Any, n_bytes: Any) -> Any:
    """Rows of whole vectors."""
    totals = [cgutils.alloca_once_value(builder, ir.Constant(_WORDS, [0] * 8)) for _ in range(8)]
    with cgutils.for_range_slice(builder, _I64(0), n_bytes, _I64(64), _I64, inc=True) as (at, _):
        part = _load(builder, builder.add(query, at))
        for place, total in enumerate(totals):
            start = builder.add(builder.add(rows, builder.mul(n_bytes, _I64(place))), at)
            counts = _counted(builder, _load(builder, start), part)
            builder.store(builder.add(builder.load(total), counts), total)
    return _folded(builder, [builder.load(total) for total in totals])


@intrinsic
def _eight(typingctx: Any, rows: Any, query: Any, n_bytes: Any, out: Any) -> Any:
    """Stores the distances, in float32, of eight rows one behind the other; of 8, 16, 32 bytes or a multiple of 64."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, query, n_bytes, out = args
        done, results = builder.append_basic_block("eight.done"), []
        for words in (4, 2, 1):
            mine, other = builder.append_basic_block("eight"), builder.append_basic_block("eight.not")
            builder.cbranch(builder.icmp_signed("==", n_bytes, _I64(8 * words)), mine, other)
            builder.position_at_end(mine)
            results.append((_short(builder, rows, query, words), builder.block))
            builder.branch(done)
            builder.position_at_end(other)
        results.append((_long(builder, rows, query, n_bytes), builder.block))
        builder.branch(done)
        builder.position_at_end(done)
        sums = builder.phi(_WORDS)
        for value, block in results:
            sums.add_incoming(value, block)
        floats = ir.VectorType(ir.FloatType(), 8)
        values = builder.sitofp(builder.trunc(sums, ir.VectorType(_I32, 8)), floats)
        builder.store(values, builder.inttoptr(out, floats.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@helper
def hamming_rows(first, count, stride, query, n_bytes, out):
    """The distances of rows to a query, as `hamming_row` has them; out is a view with a place for each."""
    done = 0
    if EIGHT and stride == n_bytes and (n_bytes % 64 == 0 or n_bytes == 32 or n_bytes == 16 or n_bytes == 8):
        while done + 8 <= count:
            _eight(first + done * stride, query, n_bytes, address_of(out) + 4 * done)
            done += 8
    for row in range(done, count):
        out[row] = hamming_row(first + row * stride, query, n_bytes)


def hamming(addresses, per_block, stride, dim, query, out):
    n_bytes = (dim + 7) // 8
    for i in range(len(addresses)):
        mine = out[i * per_block : (i + 1) * per_block]
        hamming_rows(types.int64(addresses[i]), per_block, stride, address_of(query), n_bytes, mine)


def jaccard(addresses, per_block, stride, dim, query, out):
    n_bytes = (dim + 7) // 8
    target = address_of(query)
    for i in range(len(addresses)):
        for r in range(per_block):
            row = types.int64(addresses[i]) + r * stride
            out[i * per_block + r] = jaccard_row(row, target, n_bytes)
