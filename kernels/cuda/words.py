"""Four bytes at a time: instructions that NVIDIA's cards have and Numba has no name for.

The simulator has none of them, and does the same in Python.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from typing import Any

from .card import simulated
from .compile import device


def signed_bytes(word: int) -> list[int]:
    return [((int(word) >> shift & 0xFF) ^ 0x80) - 0x80 for shift in (0, 8, 16, 24)]


def unsigned_bytes(word: int) -> list[int]:
    return [int(word) >> shift & 0xFF for shift in (0, 8, 16, 24)]


def signed_halves(word: int) -> list[int]:
    return [((int(word) >> shift & 0xFFFF) ^ 0x8000) - 0x8000 for shift in (0, 16)]


def _products(left: list[int], right: list[int], total: int) -> int:
    return int(total) + sum(a * b for a, b in zip(left, right, strict=True))


if simulated():

    def dot_signed(a: int, b: int, total: int) -> int:
        """total + the products of four signed bytes with four others."""
        return _products(signed_bytes(a), signed_bytes(b), total)

    def dot_unsigned(a: int, b: int, total: int) -> int:
        """The same of unsigned bytes."""
        return _products(unsigned_bytes(a), unsigned_bytes(b), total)

    def dot_low(a: int, b: int, total: int) -> int:
        """total + the products of two signed halves with the two lower, unsigned bytes of b."""
        return _products(signed_halves(a), unsigned_bytes(b)[:2], total)

    def dot_high(a: int, b: int, total: int) -> int:
        """The same with the two upper bytes."""
        return _products(signed_halves(a), unsigned_bytes(b)[2:], total)

    def ones(word: int) -> int:
        """How many bits of a word are set."""
        return (int(word) & 0xFFFFFFFF).bit_count()

    def load_four(words: Any, at: int) -> tuple[int, int, int, int]:
        """Four words from `at`, a multiple of four, in one piece of 16 bytes."""
        a, b, c, d = words[at : at + 4].tolist()
        return a, b, c, d

else:
    from llvmlite import ir
    from numba import cuda, types
    from numba.cuda.extending import intrinsic

    _I32, _I64 = ir.IntType(32), ir.IntType(64)

    def _dot(instruction: str) -> Any:
        @intrinsic
        def dot(typingctx, a, b, total):
            def emit(context, builder, signature, args):
                kind = ir.FunctionType(_I32, [_I32] * 3)
                code = ir.InlineAsm(kind, f"{instruction} $0, $1, $2, $3;", "=r,r,r,r")
                return builder.call(code, args)

            return types.int32(types.int32, types.int32, types.int32), emit

        return dot

    dot_signed, dot_unsigned = _dot("dp4a.s32.s32"), _dot("dp4a.u32.u32")
    dot_low, dot_high = _dot("dp2a.lo.s32.u32"), _dot("dp2a.hi.s32.u32")

    @device
    def ones(word):
        return cuda.popc(word)

    @intrinsic
    def load_four(typingctx, words, at):
        four = types.UniTuple(types.int32, 4)

        def emit(context, builder, signature, args):
            start = context.make_array(signature.args[0])(context, builder, args[0]).data
            address = builder.ptrtoint(builder.gep(start, [args[1]]), _I64)
            kind = ir.FunctionType(ir.LiteralStructType([_I32] * 4), [_I64])
            # What is read is not written as long as the kernel runs.
            text = "ld.global.nc.v4.u32 {$0, $1, $2, $3}, [$4];"
            loaded = builder.call(ir.InlineAsm(kind, text, "=r,=r,=r,=r,l"), [address])
            parts = [builder.extract_value(loaded, place) for place in range(4)]
            return context.make_tuple(builder, four, parts)

        return four(words, types.int64), emit
