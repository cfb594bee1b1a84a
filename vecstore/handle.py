"""An open file, as every call of a collection finds it: what was asked for at its opening, and the state to read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vecstore.config import STAGE_BYTES, Settings
from vecstore.device import Device
from vecstore.errors import ClosedError
from vecstore.filtered import Filtered
from vecstore.graph import Graph
from vecstore.planner import Planner
from vecstore.query.fields import Fields
from vecstore.storage.file import File
from vecstore.storage.opened import Opened
from vecstore.storage.session import Session
from vecstore.storage.state import Blocks

if TYPE_CHECKING:
    from typing_extensions import Self


class Handle:
    """What the parts of ``Collection`` have in common."""

    def __init__(
        self,
        file: File,
        *,
        writable: bool,
        threads: int,
        memory: int | None,
        timeout: float | None,
        codec: str | None = None,
        device: Device | None = None,
    ) -> None:
        self._file = file
        self._writable = writable
        self._threads = threads
        self._memory = memory
        self._timeout = timeout
        self._closed = False
        self._fields = Fields()
        self._device = Device("cpu") if device is None else device
        self._graph = Graph(threads, memory, codec, self._device)
        self._planner = Planner(self._graph, Filtered(self._fields, memory), self._device)
        # Where the last snapshot was taken: the next search may do without one.
        self._opened: Opened | None = None
        self._session: Session | None = None
        self._session_thread: int | None = None
        self._broken = False
        # Calls in progress after which the graph is seen to once, not after each of their parts.
        self._link_later = 0
        self._warned_of: set[int] = set()
        with self._view() as blocks:
            self._settings, self._seed = blocks.header.settings, blocks.header.seed

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._file.path

    @property
    def settings(self) -> Settings:
        """dim, metric and dtype, as fixed when the file was created."""
        return self._settings

    @property
    def dim(self) -> int:
        """Numbers in a vector; bits for ``dtype="binary"``."""
        return self._settings.dim

    @property
    def metric(self) -> str:
        """The distance: "cosine", "l2", "ip", "hamming" or "jaccard"."""
        return self._settings.metric

    @property
    def dtype(self) -> str:
        """How numbers are stored."""
        return self._settings.dtype

    def __repr__(self) -> str:
        if self._closed:
            return f"Collection({self.path!r}, closed)"
        with self._view() as blocks:
            count = blocks.header.records
        return f"Collection({self.path!r}, {count} records, dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. A second call does nothing.

        >>> import vecstore
        >>> shut = vecstore.open("shut.vec", dim=2)
        >>> shut.close()
        >>> shut
        Collection('...shut.vec', closed)
        """
        if not self._closed:
            self._closed = True
            self._device.forget()
            self._file.leave()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _view(self) -> contextlib.AbstractContextManager[Blocks]:
        """What this thread reads: its open transaction's state, or the newest commit."""
        self._check_open()
        if self._in_transaction():
            assert self._session is not None
            return contextlib.nullcontext(self._session)
        snapshot = self._file.snapshot()
        self._opened = snapshot.opened
        return snapshot

    def _in_transaction(self) -> bool:
        return self._session is not None and self._session_thread == threading.get_ident()

    def _check_open(self) -> None:
        self._file.check_process()
        if self._closed:
            raise ClosedError(f"the collection {self.path} is closed; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            self._file.refuse_write()

    @property
    def _stage_bytes(self) -> int:
        return STAGE_BYTES if self._memory is None else max(4 << 20, min(STAGE_BYTES, self._memory // 8))

    def _in_slices(
        self, do: Callable[[Session], bool], end: float | None = None, *, once: bool = False
    ) -> None:
        """Do something in commits of bounded size, until it finds nothing left to do or the time is over.

        The writer's lock is held.
        """
        while end is None or time.monotonic() < end:
            session = Session(self._file, self._stage_bytes)
            try:
                if not do(session):
                    return
                session.commit()
            finally:
                session.close()
            if once:
                return
