"""Writes many new blocks of vectors in a thread, while the caller goes on with ids and records.

Copying, summing and LMDB's writing all leave Python alone, so two cores share a bulk load. What is written
is staged: it is nobody's until the session's own commit. A write transaction of LMDB belongs to one thread,
so this one begins and commits its own, and the caller begins none before ``finish``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import lmdb
import numpy as np
from numpy.typing import NDArray

from vecstore.errors import StorageError
from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD, HEAD_BYTES, MAGIC, Bytes, Layout, seal
from vecstore.storage.environment import translated
from vecstore.storage.file import File, Snapshot
from vecstore.storage.header import Header, write_header

# Blocks are made about this many bytes at a time: what one core copies stays near it for the sums.
_FILL_BYTES = 4 << 20


@dataclass(frozen=True)
class Written:
    """A run of blocks that one commit put into the file, and the sums of their pages."""

    first: int
    generation: int
    sums: NDArray[np.uint32]


class Behind:
    """One such write: whole blocks, numbered from ``first``, that the published state does not have."""

    def __init__(
        self,
        file: File,
        snapshot: Snapshot,
        header: Header,
        layout: Layout,
        first: int,
        rows: Bytes,
        batch_bytes: int,
    ) -> None:
        self.done: list[Written] = []
        self._file, self._snapshot, self._header, self._layout = file, snapshot, header, layout
        self._first = first
        self._rows = rows.reshape(-1, layout.rows * layout.row_bytes)
        length = layout.length(keys.VECTORS)
        self._batch = max(1, batch_bytes // length)
        self._step = min(self._batch, max(1, _FILL_BYTES // length))
        self._failure: BaseException | None = None
        self._stopped = False
        dispatch.expect_many_checksums()
        self._thread = threading.Thread(target=self._run, name="vecstore-behind", daemon=True)
        self._thread.start()

    def finish(self) -> tuple[int, Bytes] | None:
        """Wait for it; gives the first block and the rows that LMDB's map had no room for, if there are any."""
        self._thread.join()
        if isinstance(self._failure, lmdb.MapFullError):
            written = sum(len(part.sums) for part in self.done)
            return self._first + written, self._rows[written:].reshape(-1, self._layout.row_bytes)
        if self._failure is not None:
            raise self._failure
        return None

    def stop(self) -> None:
        """Write no more than was begun."""
        self._stopped = True
        self._thread.join()

    def _run(self) -> None:
        try:
            with translated(self._file.path, "writing"), ThreadPoolExecutor(1) as filler:
                self._write(filler)
        except BaseException as error:
            self._failure = error

    def _write(self, filler: ThreadPoolExecutor) -> None:
        total, parts = len(self._rows), list(self._parts())
        length = self._layout.length(keys.VECTORS)
        # One is filled while the other is written.
        room = [np.empty((self._step, length), dtype=np.uint8) for _ in range(2)]
        sums = np.empty((total, self._layout.data_pages), dtype=np.uint32)
        waiting = filler.submit(self._fill, parts[0], room[0], sums)
        transaction = None
        try:
            for place, (start, end, generation) in enumerate(parts):
                blocks = waiting.result()
                if place + 1 < len(parts):
                    waiting = filler.submit(self._fill, parts[place + 1], room[(place + 1) % 2], sums)
                if transaction is None:
                    transaction = self._file.begin_write(self._snapshot)
                    begun = start
                    if transaction.id() != generation:
                        raise StorageError(0, "somebody else wrote to the file under the writer's lock")
                numbers = range(self._first + start, self._first + end)
                items = zip((keys.key(keys.VECTORS, number) for number in numbers), blocks, strict=True)
                with transaction.cursor() as cursor:
                    cursor.putmulti((key, block.data) for key, block in items)
                if end == total or parts[place + 1][2] != generation:
                    block = write_header(self._header, self._layout.page_bytes)
                    seal(block, generation)
                    transaction.put(keys.key(keys.HEADER, 0), block.data)
                    ending, transaction = transaction, None
                    ending.commit()
                    self.done.append(Written(self._first + begun, generation, sums[begun:end]))
                    if self._stopped:
                        return
        finally:
            if transaction is not None:
                with contextlib.suppress(lmdb.Error):
                    transaction.abort()

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """(first, end, generation): nobody else commits meanwhile, so it is known what each will be."""
        generation = self._snapshot.state.meta.transaction
        for start in range(0, len(self._rows), self._batch):
            generation += 1
            stop = min(start + self._batch, len(self._rows))
            for first in range(start, stop, self._step):
                yield first, min(first + self._step, stop), generation

    def _fill(self, part: tuple[int, int, int], room: Bytes, sums: NDArray[np.uint32]) -> Bytes:
        start, end, generation = part
        layout, blocks = self._layout, room[: end - start]
        heads = blocks[:, :HEAD_BYTES].view(HEAD)[:, 0]
        heads["magic"], heads["kind"], heads["generation"] = MAGIC, keys.VECTORS, generation
        heads["length"], heads["count"], heads["extra"] = blocks.shape[1], layout.rows, 0
        heads["number"] = np.arange(self._first + start, self._first + end)
        dispatch.fill_blocks(
            self._rows[start:end], layout.row_start, layout.page_bytes, blocks, sums[start:end]
        )
        return blocks
