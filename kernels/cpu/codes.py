"""How far a query is from a coded vector: sums of small integers, the same on every processor.

The layout of codes, and what a score is, stands in `reference_codes`. A prepared query (a "state") has for
each plane of a code's bytes as many numbers as the code has bytes, in the same order, so that whole vectors
of bytes are multiplied: signed bytes, or 16-bit numbers for 8-bit codes. Codes are never read past their end.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..dispatch import cpu_features
from ..reference_codes import BITS, GROUP, LINE, SCALAR1, SCALAR2, SCALAR4, SCALAR8, WEIGHTS, planes

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_UNROLLED = 8


def _vector(element: Any, count: int) -> Any:
    return ir.VectorType(element, count)


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


class _Scorer:
    """Emits the loops over a code's bytes; what differs between processors is how products are summed up."""

    def __init__(self, builder: Any, kind: int) -> None:
        self.builder, self.kind = builder, kind
        features = cpu_features()
        wide = {"avx512f", "avx512bw"} <= features
        self.vnni = wide and "avx512vnni" in features
        self.avx2 = "avx2" in features
        if kind == SCALAR8:
            self.madd = 32 if wide else 16 if self.avx2 else 0
            self.step = self.madd or GROUP
        else:
            self.step = 64 if self.vnni else 32 if self.avx2 else GROUP
        # Whether instructions multiply bytes and add up neighbours: there are fewer 32-bit sums then.
        self.dots = self.step > GROUP or "dotprod" in features
        if kind == SCALAR8:
            self.sums = _vector(_I32, self.step // 2 if self.madd else self.step)
        else:
            self.sums = _vector(_I32, self.step // 4 if self.dots else self.step)

    def call(self, name: str, result: Any, *args: Any) -> Any:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), args)

    def load(self, address: Any, kind: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=1)

    def load_rest(self, address: Any, rest: Any) -> Any:
        """The last bytes of a code, which are fewer than a step but whole groups, and then zeros."""
        builder, kind = self.builder, _vector(_I8, self.step)
        if self.step == 2 * GROUP:
            group = self.load(address, _vector(_I8, GROUP))
            picks = ir.Constant(_vector(_I32, self.step), list(range(self.step)))
            return builder.shuffle_vector(group, _constant(group.type, 0), picks)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), builder.trunc(rest, _I8), _I32(0))
        every = builder.shuffle_vector(one, one, _constant(_vector(_I32, self.step), 0))
        mask = builder.icmp_unsigned("<", ir.Constant(kind, list(range(self.step))), every)
        where = builder.inttoptr(address, kind.as_pointer())
        name = f"llvm.masked.load.v{self.step}i8.p0v{self.step}i8"
        return self.call(name, kind, where, _I32(1), mask, _constant(kind, 0))

    def plane(self, codes: Any, p: int) -> Any:
        """One plane's numbers. No processor shifts bytes, so words are shifted and bytes masked."""
        bits = BITS[self.kind]
        if p:
            words = _vector(_I16, codes.type.count // 2)
            shifted = self.builder.lshr(self.builder.bitcast(codes, words), _constant(words, p * bits))
            codes = self.builder.bitcast(shifted, _vector(_I8, 2 * words.count))
        return self.builder.and_(codes, _constant(codes.type, (1 << bits) - 1))

    def weighted(self, u: Any, w: Any) -> Any:
        """weight * u - w in signed bytes; for bytes with u = 0 what comes out does not matter."""
        builder, weight, total = self.builder, WEIGHTS[self.kind], None
        if self.kind == SCALAR1:
            return builder.sub(_constant(u.type, weight), w)
        words = _vector(_I16, u.type.count // 2)
        for bit in range(weight.bit_length()):
            if weight >> bit & 1:
                # No byte's product needs more than its eight bits.
                moved = builder.shl(builder.bitcast(u, words), _constant(words, bit))
                part = builder.bitcast(moved, u.type)
                total = part if total is None else builder.add(total, part)
        return builder.sub(total, w)

    def dot(self, total: Any, u: Any, t: Any) -> Any:
        """total + sums of u (unsigned bytes, at most 15) times t (signed bytes), by instructions for that."""
        builder, count = self.builder, u.type.count
        if self.step == 64:
            # Until lately LLVM had the bytes named as words; it still knows that form.
            u, t = builder.bitcast(u, total.type), builder.bitcast(t, total.type)
            return self.call("llvm.x86.avx512.vpdpbusd.512", total.type, total, u, t)
        if self.step == 32:
            pairs = _vector(_I16, count // 2)
            products = self.call("llvm.x86.avx2.pmadd.ub.sw", pairs, u, t)
            return builder.add(
                total, self.call("llvm.x86.avx2.pmadd.wd", total.type, products, _constant(pairs, 1))
            )
        return self.call("llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, total, u, t)

    def product(self, u: Any, t: Any) -> Any:
        words = _vector(_I16, u.type.count)
        return self.builder.mul(self.builder.zext(u, words), self.builder.sext(t, words))

    def square(self, total: Any, codes: Any, w: Any) -> Any:
        """total + squares of differences."""
        builder = self.builder
        difference = builder.sub(builder.zext(codes, w.type), w)
        if self.madd:
            name = {16: "llvm.x86.avx2.pmadd.wd", 32: "llvm.x86.avx512.pmaddw.d.512"}[self.madd]
            return builder.add(total, self.call(name, total.type, difference, difference))
        wide = builder.sext(difference, total.type)
        return builder.add(total, builder.mul(wide, wide))

    def add(self, totals: list[Any], codes: Any, state: Any, stride: Any) -> None:
        """Adds one step's products to the totals; `state` is where the first plane has its numbers."""
        builder = self.builder
        if self.kind == SCALAR8:
            w = self.load(state, _vector(_I16, self.step))
            builder.store(self.square(builder.load(totals[0]), codes, w), totals[0])
            return
        # Without instructions that do it all, the planes' products are added first: 8 * 127 or 2 * 15 * 127
        # at most, which is far within 16 bits.
        products = None
        for p in range(planes(self.kind)):
            u, w = self.plane(codes, p), self.load(state, codes.type)
            t = self.weighted(u, w)
            total = totals[p % len(totals)]
            if self.dots:
                builder.store(self.dot(builder.load(total), u, t), total)
            else:
                product = self.product(u, t)
                products = product if products is None else builder.add(products, product)
            state = builder.add(state, stride)
        if products is not None:
            wide = builder.sext(products, self.sums)
            builder.store(builder.add(builder.load(totals[0]), wide), totals[0])

    def score(self, code: Any, state: Any, n_bytes: Any) -> Any:
        builder = self.builder
        # Several sums, so that their additions do not wait for one another.
        totals = [
            cgutils.alloca_once_value(builder, _constant(self.sums, 0))
            for _ in range(min(4, planes(self.kind)))
        ]
        stride = builder.and_(builder.add(n_bytes, _I64(LINE - 1)), _I64(-LINE))
        wide = 2 if self.kind == SCALAR8 else 1
        full = builder.and_(n_bytes, _I64(-self.step))
        with cgutils.for_range_slice(builder, _I64(0), full, _I64(self.step), _I64, inc=True) as (at, _):
            codes = self.load(builder.add(code, at), _vector(_I8, self.step))
            self.add(totals, codes, builder.add(state, builder.mul(at, _I64(wide))), stride)
        if self.step > GROUP:
            rest = builder.sub(n_bytes, full)
            with builder.if_then(builder.icmp_signed(">", rest, _I64(0)), likely=False):
                codes = self.load_rest(builder.add(code, full), rest)
                self.add(totals, codes, builder.add(state, builder.mul(full, _I64(wide))), stride)
        total = builder.load(totals[0])
        for other in totals[1:]:
            total = builder.add(total, builder.load(other))
        return self.call(f"llvm.vector.reduce.add.v{self.sums.count}i32", _I32, total)


def _score_products(builder: Any, code: Any, state: Any, n_bytes: Any) -> Any:
    """A sum of table entries, one for each byte of the code."""
    total = cgutils.alloca_once_value(builder, _I32(0))
    with cgutils.for_range_slice(builder, _I64(0), n_bytes, _I64(_UNROLLED), _I64, inc=True) as (at, _):
        codes = builder.inttoptr(builder.add(code, at), _I8.as_pointer())
        table = builder.inttoptr(builder.add(state, builder.mul(at, _I64(512))), _I16.as_pointer())
        parts = []
        for i in range(_UNROLLED):
            number = builder.load(builder.gep(codes, [_I64(i)]), align=1)
            place = builder.add(builder.zext(number, _I64), _I64(256 * i))
            parts.append(builder.zext(builder.load(builder.gep(table, [place]), align=1), _I32))
        while len(parts) > 1:
            parts = [builder.add(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        builder.store(builder.add(builder.load(total), parts[0]), total)
    return builder.load(total)


@intrinsic
def score(typingctx: Any, kind: Any, code: Any, state: Any, n_bytes: Any) -> Any:
    """`(kind, code address, state address, bytes of a code) -> int32`; the bytes are whole groups.

    It is emitted in place, one loop for each kind: branches that one walk always takes the same way.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, code, state, n_bytes = args
        done = builder.append_basic_block("scored")
        results = []
        for number in (SCALAR4, SCALAR8, SCALAR2, SCALAR1):
            mine, other = builder.append_basic_block("score"), builder.append_basic_block("score.not")
            builder.cbranch(builder.icmp_signed("==", kind, _I64(number)), mine, other)
            builder.position_at_end(mine)
            value = _Scorer(builder, number).score(code, state, n_bytes)
            results.append((value, builder.block))
            builder.branch(done)
            builder.position_at_end(other)
        results.append((_score_products(builder, code, state, n_bytes), builder.block))
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(_I32)
        for value, block in results:
            result.add_incoming(value, block)
        return result

    return types.int32(types.int64, types.int64, types.int64, types.int64), emit
