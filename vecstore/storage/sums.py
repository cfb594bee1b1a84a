"""A sum for each page of each block of vectors, so that one row can be checked without reading its whole block.

Row b of this table is about block b of the vectors, as it was written last; all zeros where that was done by a
release that wrote no sums. The table's own blocks have checksums and generations like all others, so what
agrees with a sum is the right page of the right block: neither damaged, nor stale, nor misplaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import Bytes, Layout, new_block, payload, set_count
from vecstore.storage.state import Blocks, State

Sums = NDArray[np.uint32]

_BATCH_BYTES = 32 << 20


class NewSums:
    """The sums of what a session writes, kept until its commit."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows: dict[int, Sums] = {}

    def note(self, blocks: Mapping[int, Bytes]) -> None:
        """These blocks, by their orders, are sealed and being written."""
        numbers = [order & keys.MAX_NUMBER for order in blocks if order >> 32 == keys.VECTORS]
        mine = [blocks[keys.order(keys.VECTORS, number)] for number in numbers]
        if mine:
            self.add(numbers, dispatch.page_sums(mine, self._layout.page_bytes))

    def add(self, numbers: Iterable[int], sums: Sums) -> None:
        """What was found of these blocks when they were written."""
        self._rows.update(zip(numbers, sums, strict=True))

    def tables(self, base: Blocks, freed: Iterable[int]) -> tuple[dict[int, Bytes], list[int]]:
        """(changed blocks of the table, by their numbers; those that have no row any more)."""
        layout = self._layout
        rows = dict(self._rows)
        for order in freed:
            if order >> 32 == keys.VECTORS:
                rows[order & keys.MAX_NUMBER] = np.zeros(layout.data_pages, dtype=np.uint32)
        present = base.present(keys.SUMS)
        changed: dict[int, Bytes] = {}
        tables: dict[int, Sums] = {}
        for block, row in rows.items():
            number = block // layout.sum_rows
            table = tables.get(number)
            if table is None:
                if number < present.size and present[number]:
                    changed[number] = base.block(keys.SUMS, number).copy()
                else:
                    changed[number] = new_block(keys.SUMS, number, layout.length(keys.SUMS))
                tables[number] = table = _table(changed[number], layout)
            table[block % layout.sum_rows] = row
        empty = []
        for number, table in tables.items():
            used = np.flatnonzero(table.any(axis=1))
            if not used.size:
                del changed[number]
                if number < present.size and present[number]:
                    empty.append(number)
            else:
                set_count(changed[number], int(used[-1]) + 1)
        return changed, empty


def _table(block: Bytes, layout: Layout) -> Sums:
    table: Sums = payload(block)[: 4 * layout.data_pages * layout.sum_rows].view("<u4").reshape(layout.sum_rows, -1)
    return table


def wrong_sums(state: State) -> Iterable[tuple[int, str]]:
    """(block of vectors, problem) wherever the table does not say what the pages do."""
    layout, sums = state.layout, state.sums()
    present, told = state.present(keys.VECTORS), sums.any(axis=1)
    for number in np.flatnonzero(told & ~present).tolist():
        yield number, "is missing, and has sums of its pages"
    step = max(1, _BATCH_BYTES // layout.length(keys.VECTORS))
    numbers = np.flatnonzero(told & present)
    for start in range(0, numbers.size, step):
        part = numbers[start : start + step]
        found = dispatch.page_sums(
            [state.block(keys.VECTORS, number) for number in part.tolist()], layout.page_bytes
        )
        for number in part[(found != sums[part]).any(axis=1)].tolist():
            yield number, "is not what the sums of its pages say"
