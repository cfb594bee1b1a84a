"""Reading memory by address: typed pointers, unaligned loads, prefetch and bit counts, as LLVM has them.

Addresses are int64 inside kernels, since Numba turns a sum of int64 and uint64 into a float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..dispatch import cpu_target
from .compile import helper

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32 = ir.FloatType()

HALF = types.CPointer(types.uint16)
"""How a pointer to float16 is written, which Numba does not have on CPUs."""


def element_tag(dtype: str) -> NDArray[Any]:
    """An empty array whose type tells a kernel what it reads."""
    return np.empty(0, np.uint16 if dtype == "float16" else np.dtype(dtype))


def _cast(element: Any) -> Any:
    @intrinsic
    def cast(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), emit

    return cast


as_float32 = _cast(types.float32)
as_int32 = _cast(types.int32)
as_uint8 = _cast(types.uint8)
as_uint16 = _cast(types.uint16)
as_uint32 = _cast(types.uint32)
as_uint64 = _cast(types.uint64)


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """The pointer to an address, to elements of the type of an array."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), emit


@intrinsic
def address_of(typingctx: Any, array: Any) -> Any:
    """The address of an array's first element."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.ptrtoint(struct.data, _I64)

    return types.int64(array), emit


@intrinsic
def load(typingctx: Any, source: Any, index: Any) -> Any:
    """`source[index]` at any alignment."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]), align=1)

    return source.dtype(source, types.int64), emit


@intrinsic
def store(typingctx: Any, target: Any, value: Any) -> Any:
    """Puts a value where a pointer leads, at any alignment."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], args[0], align=1)
        return context.get_dummy_value()

    return types.void(target, target.dtype), emit


@intrinsic
def load_flag(typingctx: Any, source: Any, index: Any) -> Any:
    """A byte that another thread may set: what it wrote before is seen by what comes after."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "acquire", 1)

    return types.uint8(types.CPointer(types.uint8), types.int64), emit


@intrinsic
def set_flag(typingctx: Any, target: Any, index: Any) -> Any:
    """Sets such a byte to 1."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        builder.store_atomic(byte(1), builder.gep(args[0], [args[1]]), "release", 1)
        return context.get_dummy_value()

    return types.void(types.CPointer(types.uint8), types.int64), emit


@intrinsic
def element(typingctx: Any, source: Any, index: Any) -> Any:
    """`source[index]` as float32, at any alignment."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(builder.gep(args[0], [args[1]]), align=1)
        return to_float(builder, value, signature.args[0])

    return types.float32(source, types.int64), emit


def to_float(builder: Any, value: Any, source: Any) -> Any:
    """IR that turns a loaded element, or a vector of them, into float32."""
    wide = _like(value.type, _F32)
    if source == HALF:
        return _half_to_float(builder, value, wide)
    if source.dtype == types.float32:
        return value
    return builder.sitofp(value, wide) if source.dtype.signed else builder.uitofp(value, wide)


def _like(shape: Any, scalar: Any) -> Any:
    return ir.VectorType(scalar, shape.count) if isinstance(shape, ir.VectorType) else scalar


def _constant(kind: Any, value: Any) -> Any:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _half_to_float(builder: Any, value: Any, wide: Any) -> Any:
    if cpu_target().native_half:
        return builder.fpext(builder.bitcast(value, _like(value.type, ir.HalfType())), wide)
    # Elsewhere LLVM would call a library function for each element. Moving the bits to where float32 keeps
    # them and scaling by the difference of the exponents' biases is exact, for subnormal numbers too.
    ints = _like(value.type, _I32)
    bits = builder.zext(value, ints)
    sign = builder.shl(builder.and_(bits, _constant(ints, 0x8000)), _constant(ints, 16))
    magnitude = builder.and_(bits, _constant(ints, 0x7FFF))
    moved = builder.bitcast(builder.shl(magnitude, _constant(ints, 13)), wide)
    scaled = builder.bitcast(builder.fmul(moved, _constant(wide, 2.0**112)), ints)
    special = builder.icmp_unsigned(">=", magnitude, _constant(ints, 0x7C00))
    scaled = builder.select(special, builder.or_(scaled, _constant(ints, 0x7F800000)), scaled)
    return builder.bitcast(builder.or_(scaled, sign), wide)


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Asks for the cache line of an address; any address is allowed."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        constants = [ir.Constant(_I32, value) for value in (0, 3, 1)]
        builder.call(function, [builder.inttoptr(args[0], byte), *constants])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def copy(typingctx: Any, target: Any, source: Any, count: Any) -> Any:
    """Copies bytes from one address to another; the two stretches don't overlap."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        pointers = [builder.inttoptr(address, byte) for address in args[:2]]
        cgutils.raw_memcpy(builder, *pointers, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def popcount(typingctx: Any, word: Any) -> Any:
    """The number of set bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), emit


@intrinsic
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """The index of the lowest set bit of a word that is not zero."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), emit


@intrinsic
def _float_bits(typingctx: Any, value: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.int32(types.float32), emit


@intrinsic
def _bits_float(typingctx: Any, bits: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _F32)

    return types.float32(types.int32), emit


@helper
def next_below(value: Any) -> Any:
    """The largest float32 below a value; NaN, which nothing is within, for minus infinity."""
    bits = _float_bits(value)
    if value == 0:
        return -_bits_float(np.int32(1))
    return _bits_float(bits - np.int32(1) if value > 0 else bits + np.int32(1))
