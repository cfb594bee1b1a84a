"""What a tile of products is turned into distances with: the squared norm of each row, or how many bits it has set."""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import functools
from typing import Any

from numba import cuda, float32, int32

from .card import Card, DeviceArray, Stream, simulated
from .compile import kernel


@functools.cache
def _kernel(bits: bool, rows_a_block: int, lanes: int) -> Any:
    """A block takes some rows, and neighbouring threads take neighbouring elements of one row."""
    sums = int32 if bits else float32

    def norms(rows, out):
        partial = cuda.shared.array((rows_a_block, lanes), sums)
        lane = cuda.threadIdx.x % lanes
        mine = cuda.threadIdx.x // lanes
        row = cuda.blockIdx.x * rows_a_block + mine
        total = sums(0)
        if row < rows.shape[0]:
            for j in range(lane, rows.shape[1], lanes):
                if bits:
                    total += sums(cuda.popc(rows[row, j]))
                else:
                    x = float32(rows[row, j])
                    total += x * x
        partial[mine, lane] = total
        cuda.syncthreads()
        if lane == 0 and row < rows.shape[0]:
            total = sums(0)
            for j in range(lanes):
                total += partial[mine, j]
            out[row] = total

    return kernel(norms)


def norms(card: Card, rows: DeviceArray, out: DeviceArray, stream: Stream) -> None:
    """Fills `out` (float32, or int32 for packed words) with the squared norm, or the count of set bits, of each row."""
    rows_a_block, lanes = (4, 2) if simulated() else (8, 16)
    grid = -(-rows.shape[0] // rows_a_block)
    with card.working():
        _kernel(out.dtype.kind == "i", rows_a_block, lanes)[grid, rows_a_block * lanes, stream](rows, out)
