"""The register tile of the batch scan, written as LLVM IR: a few rows times a few vectors of queries.

Numba's vectoriser will not keep a tile of sums in registers, and everything depends on that: each vector of
queries that is loaded serves all rows, and each row element all queries.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..dispatch import cpu_target
from .memory import to_float

DEPTH = 8
"""Dimensions that lie together for one row; a tile of rows is laid out `[dim / DEPTH][tile rows][DEPTH]`.

So all rows of a step are at constant distances from one pointer, which spares integer registers.
"""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()


class _Tile:
    """Emits the IR for one shape of tile."""

    def __init__(self, builder: Any) -> None:
        target = cpu_target()
        self.builder = builder
        self.rows, self.vectors, self.width = target.tile_rows, target.tile_vectors, target.vector_floats
        self.vector = ir.VectorType(_F32, self.width)
        self.cells = [(r, v) for r in range(self.rows) for v in range(self.vectors)]
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        # Not llvm.fma: where the processor has none, that would call a library function for every number.
        name = f"llvm.fmuladd.v{self.width}f32"
        self.fmuladd = cgutils.get_or_insert_function(builder.module, kind, name)

    def at(self, base: Any, offset: int) -> Any:
        return self.builder.gep(base, [ir.Constant(_I64, offset)])

    def load_vector(self, base: Any, offset: int) -> Any:
        where = self.builder.bitcast(self.at(base, offset), self.vector.as_pointer())
        return self.builder.load(where, align=4)

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, undefined, zeros)

    def step(self, rows: Any, panel: Any, sums: list[Any]) -> list[Any]:
        """One block of DEPTH dimensions."""
        sums = list(sums)
        for depth in range(DEPTH):
            first = depth * self.vectors
            queries = [self.load_vector(panel, (first + v) * self.width) for v in range(self.vectors)]
            for r in range(self.rows):
                x = self.splat(self.builder.load(self.at(rows, r * DEPTH + depth), align=4))
                for v in range(self.vectors):
                    cell = r * self.vectors + v
                    sums[cell] = self.builder.call(self.fmuladd, [x, queries[v], sums[cell]])
        return sums

    def sums(self, rows: Any, panel: Any, steps: Any) -> list[Any]:
        """The products of all rows with all queries, over `steps` blocks of dimensions (at least one)."""
        builder = self.builder
        entry = builder.block
        loop, done = builder.append_basic_block("tile"), builder.append_basic_block("tile.done")
        builder.branch(loop)
        builder.position_at_end(loop)
        count, row_at, panel_at = builder.phi(_I64), builder.phi(rows.type), builder.phi(panel.type)
        phis = [builder.phi(self.vector) for _ in self.cells]
        sums = self.step(row_at, panel_at, phis)
        following = builder.add(count, ir.Constant(_I64, 1))
        zero = ir.Constant(self.vector, [0.0] * self.width)
        changes = [
            (count, ir.Constant(_I64, 0), following),
            (row_at, rows, self.at(row_at, self.rows * DEPTH)),
            (panel_at, panel, self.at(panel_at, self.vectors * self.width * DEPTH)),
            *((phi, zero, total) for phi, total in zip(phis, sums, strict=True)),
        ]
        for phi, before, after in changes:
            phi.add_incoming(before, entry)
            phi.add_incoming(after, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
        builder.position_at_end(done)
        return sums

    def finish(self, sums: list[Any], base: Any, scale: Any, limits: Any, out: Any) -> Any:
        """Stores base[row] + scale[row] * sum; a bit is set for each row with a value within a limit."""
        builder = self.builder
        bounds = [self.load_vector(limits, v * self.width) for v in range(self.vectors)]
        hits = ir.Constant(_I64, 0)
        for r in range(self.rows):
            start = self.splat(builder.load(self.at(base, r), align=4))
            factor = self.splat(builder.load(self.at(scale, r), align=4))
            below = None
            for v in range(self.vectors):
                cell = r * self.vectors + v
                value = builder.call(self.fmuladd, [factor, sums[cell], start])
                where = builder.bitcast(self.at(out, cell * self.width), self.vector.as_pointer())
                builder.store(value, where, align=4)
                hit = builder.fcmp_ordered("<=", value, bounds[v])
                below = hit if below is None else builder.or_(below, hit)
            packed = ir.IntType(self.width)
            some = builder.icmp_unsigned("!=", builder.bitcast(below, packed), ir.Constant(packed, 0))
            hits = builder.or_(hits, builder.shl(builder.zext(some, _I64), ir.Constant(_I64, r)))
        return hits


@intrinsic
def score_tile(
    typingctx: Any, rows: Any, panel: Any, steps: Any, base: Any, scale: Any, limits: Any, out: Any
) -> Any:
    """Multiplies a tile of rows by a panel of queries; stores `base[row] + scale[row] * product`.

    Returns a bit for each row that has a value <= its query's limit. All pointers are to float32: rows
    `[steps][tile rows][DEPTH]`, panel `[steps * DEPTH][lanes]`, out `[tile rows][lanes]`.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, panel, steps, base, scale, limits, out = args
        tile = _Tile(builder)
        return tile.finish(tile.sums(rows, panel, steps), base, scale, limits, out)

    pointer = types.CPointer(types.float32)
    return types.int64(pointer, pointer, types.int64, pointer, pointer, pointer, pointer), emit


@intrinsic
def widen_block(typingctx: Any, source: Any, index: Any, target: Any) -> Any:
    """Turns DEPTH elements of a row, from `source[index]` on, into float32 at `target`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_data_type(signature.args[0].dtype)
        stored, wide = ir.VectorType(element, DEPTH), ir.VectorType(_F32, DEPTH)
        where = builder.bitcast(builder.gep(args[0], [args[1]]), stored.as_pointer())
        value = to_float(builder, builder.load(where, align=1), signature.args[0])
        builder.store(value, builder.bitcast(args[2], wide.as_pointer()), align=4)
        return context.get_dummy_value()

    pointer = types.CPointer(types.float32)
    return types.void(source, types.int64, pointer), emit
