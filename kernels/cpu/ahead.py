"""Reading from the disk ahead of need: pages of a mapped file that are asked for together come together.

A prefetch instruction reads no page in. Without these calls a kernel that touches pages which are not in memory waits
for one after the other.
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import mmap
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import helper
from .memory import as_uint64, load
from .pool import node_of

_WILL_NEED = 3  # MADV_WILLNEED on Linux, macOS and the BSDs
_CALL = sys.platform != "win32"

# Rows of so many nodes are on their way at a time, the one that is expanded among them: one as long as each
# node leads to nearer ones, since those that wait are seldom gone on from then. Measured on 400,000 SIFT
# descriptors: 15 waits a search where there were 45, for one page that was not needed.
HASTY, STEADY = 1, 4
# Places in the table of blocks that were asked for.
ASKED = 256


@intrinsic
def will_need(typingctx: Any, address: Any, length: Any) -> Any:
    """Has the system read these bytes of a mapped file in the background; nothing where it takes no such advice."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _CALL:
            word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.IntType(32), [byte, word, ir.IntType(32)])
            function = cgutils.get_or_insert_function(builder.module, kind, "madvise")
            start = builder.and_(args[0], ir.Constant(word, -mmap.PAGESIZE))
            size = builder.sub(builder.add(args[0], args[1]), start)
            builder.call(function, [builder.inttoptr(start, byte), size, ir.Constant(ir.IntType(32), _WILL_NEED)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@helper
def ask_ahead(frame, pool, at, size, bound, asked, left):
    """Has the blocks of the next nodes read, this one's first. `asked` remembers those of this walk."""
    while left > 0 and at < size and pool[at] <= bound:
        if not pool[at] & 1:
            left -= 1
            block = node_of(pool[at]) // frame.graph_rows
            if asked[block & (ASKED - 1)] != block:
                asked[block & (ASKED - 1)] = block
                will_need(types.int64(load(as_uint64(frame.graph_addresses), block)), frame.graph_length)
        at += 1
