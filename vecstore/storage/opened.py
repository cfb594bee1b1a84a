"""One opening of one file: LMDB's environment, our own maps of the same bytes, and the state last read."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
import weakref
from typing import Any

import lmdb

try:
    from lmdb import _envid
except ImportError:  # other releases have other ways
    _envid = None

from vecstore.errors import CorruptionError, NotACollectionError, ReadOnlyError
from vecstore.storage import keys, platform
from vecstore.storage.blocks import PAGE_HEAD_BYTES, check, layout
from vecstore.storage.environment import open_environment, translated
from vecstore.storage.header import read_header
from vecstore.storage.pages import META_BYTES, Meta, PageMap, read_meta
from vecstore.storage.state import Checked, State

Identity = tuple[int, int] | None


def identity(path: str) -> Identity:
    """Which file a path names now; None if none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_alive: weakref.WeakSet[Opened] = weakref.WeakSet()

# How often a writer looks for readers that were killed: their snapshots would keep pages from being reused.
_READER_CHECK_SECONDS = 1.0


class Opened:
    """Stays with the file it was opened on, whatever the path names later."""

    def __init__(self, path: str, *, writable: bool, durable: bool, private: bool) -> None:
        self.path = path
        self.writable = writable
        self.durable = durable
        # Snapshots that are out; ``file`` counts them.
        self.active = 0
        self.tree_checked = False
        # LMDB gave up on its environment after a failed write; it must be opened anew.
        self.panicked = False
        self.environment: Any = None
        self.locked = not private and (writable or can_register(path))
        self._checked = Checked()
        self._state: State | None = None
        self._maps: tuple[platform.Mapping, platform.Mapping] | None = None
        self._commits: tuple[memoryview, int, int] | None = None
        self._readers_checked = time.monotonic()
        self.fd = platform.open_shared(path)
        _alive.add(self)
        try:
            status = os.fstat(self.fd)
            self.identity: Identity = (status.st_dev, status.st_ino)
            self._refuse_unsound(status.st_size)
            while True:
                lock_file = identity(path + "-lock")
                self.environment = self._environment()
                self.lock_file = identity(path + "-lock") if self.locked else None
                if lock_file in (None, self.lock_file) or not self.locked:
                    break
                self.environment.close()  # the lock file was exchanged meanwhile: take the new one
            self._refuse_truncated(status.st_size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()
        if self.fd >= 0:
            os.close(self.fd)
        self.environment, self.fd = None, -1
        self._state = self._maps = self._commits = None

    def _refuse_unsound(self, size: int) -> None:
        """Check what LMDB will begin with, before LMDB sees it."""
        if size == 0:
            raise NotACollectionError(
                f"{self.path} is empty (0 bytes); delete it to create a collection there"
            )
        self.newest_meta()

    def newest_meta(self) -> Meta:
        """The newer meta page. LMDB writes them in turn, so their transactions are always neighbours."""
        for _ in range(100):  # another process may commit between the two reads
            failure: CorruptionError
            try:
                data = [read_at(self.fd, 0, META_BYTES)]
                first = read_meta(data[0], 0, newest=False)
                data.append(read_at(self.fd, first.page_bytes, META_BYTES))
                second = read_meta(data[1], 1, newest=False)
                place = int(second.transaction > first.transaction)
                newer = read_meta(data[place], place)
            except NotACollectionError as error:
                failure = NotACollectionError(f"{self.path}: {error}")
                continue
            except CorruptionError as error:
                failure = CorruptionError(f"{self.path}: {error}")
                continue
            apart = abs(first.transaction - second.transaction)
            if first.page_bytes == second.page_bytes and (apart == 1 or newer.transaction == 0):
                return newer
            failure = CorruptionError(
                f"{self.path}: its two meta pages contradict each other; restore a backup"
            )
        raise failure

    def newest_is(self, number: int) -> bool:
        """Whether nothing was committed since this commit: asks no system call."""
        commits = self._commits
        if commits is None:
            return False
        words, first, second = commits
        return max(words[first], words[second]) == number

    def glance(self) -> State | None:
        """The state last read, where it still is the newest under the path, without a transaction that keeps it so.

        A writer leaves the pages of the newest state alone. So what was read of it is right if ``newest_is`` still
        holds when all was read, and else it is to be read again, from a snapshot; an error that was met may be
        none then. This costs a look at the path, and a snapshot several times that.
        """
        state = self._state
        # Where a mapped file cannot be replaced, only snapshots tell who reads.
        if state is None or self.panicked or platform.WINDOWS or not self.newest_is(state.meta.transaction):
            return None
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return state if (status.st_dev, status.st_ino) == self.identity else None

    def _environment(self) -> Any:
        with translated(self.path, "opening it"):
            try:
                environment = self._try_environment()
            except (lmdb.Error, OSError) as error:
                if not any(word in str(error) for word in ("Permission", "Read-only", "read-only")):
                    raise
                if self.writable:
                    raise ReadOnlyError(
                        f'{self.path} cannot be written to; open it with mode="r" to read'
                    ) from error
                self.locked = False
                environment = self._try_environment()
        if self.locked:
            environment.reader_check()
        return environment

    def _try_environment(self) -> Any:
        return open_environment(self.path, writable=self.writable, locked=self.locked, durable=self.durable)

    def _refuse_truncated(self, size: int) -> None:
        """A sound file may end before its last page, when that page was never needed; then nothing points there."""
        newest = self.newest_meta()
        if size >= (newest.last_page + 1) * newest.page_bytes:
            return
        transaction, state = self.begin()
        try:
            state.pages.check_writable()
        finally:
            transaction.abort()

    def clear_dead_readers(self) -> None:
        now = time.monotonic()
        if self.locked and now - self._readers_checked > _READER_CHECK_SECONDS:
            self._readers_checked = now
            self.environment.reader_check()

    def begin(self) -> tuple[Any, State]:
        """A read transaction, and the state that it keeps from being overwritten."""
        for _ in range(1000):
            transaction = self._transaction()
            try:
                state = self._state_of(transaction.id())
            except BaseException:
                transaction.abort()
                raise
            if state is not None:
                return transaction, state
            transaction.abort()
        raise CorruptionError(
            f"{self.path}: its meta pages don't name the state that LMDB does; restore a backup"
        )

    def _transaction(self) -> Any:
        try:
            return self.environment.begin()
        except (lmdb.Error, OSError):
            pass  # tried again below, where each failure has its remedy
        with translated(self.path, "reading"):
            try:
                return self.environment.begin()
            except lmdb.MapResizedError:
                self.environment.set_mapsize(0)
            except lmdb.ReadersFullError:
                self.environment.reader_check()
            except lmdb.PanicError:
                self.panicked = True
                raise
            return self.environment.begin()

    def begin_at(self, number: int) -> Any:
        """A read transaction, if this is the newest commit; None if it is not."""
        transaction = self._transaction()
        if transaction.id() == number:
            return transaction
        transaction.abort()
        return None

    def state_of(self, number: int) -> State:
        """The state of a commit that a read transaction is on, and that one other followed at most."""
        state = self._state_of(number)
        if state is None:
            raise CorruptionError(
                f"{self.path}: no meta page names commit {number} any more; restore a backup"
            )
        return state

    def _state_of(self, transaction: int) -> State | None:
        """The state that this transaction left; None if two commits have raced past and it must be asked anew."""
        if self._state is not None and self._state.meta.transaction == transaction:
            return self._state
        page_bytes = read_meta(read_at(self.fd, 0, META_BYTES), 0, newest=False).page_bytes
        place = (transaction & 1) * page_bytes
        data = read_at(self.fd, place, META_BYTES)
        if data != read_at(self.fd, place, META_BYTES):
            return None
        meta = read_meta(data, transaction & 1)
        if meta.transaction != transaction:
            return None
        size = min(os.fstat(self.fd).st_size, (meta.last_page + 1) * meta.page_bytes)
        mapping, scanned = self._mappings(size)
        pages = PageMap(mapping.bytes[:size], meta)
        place_of_header = pages.find(keys.order(keys.HEADER, 0))
        if place_of_header is None:
            raise NotACollectionError(f"{self.path} is an LMDB file, and not a vecstore collection")
        page, length = place_of_header
        pages.check_span(page, (length + PAGE_HEAD_BYTES) // meta.page_bytes)
        start = page * meta.page_bytes + PAGE_HEAD_BYTES
        block = mapping.bytes[start : start + length]
        check(block, keys.HEADER, 0, transaction)
        header = read_header(block, size // meta.page_bytes)
        sizes = layout(header.settings, meta.page_bytes, header.aligned)
        self._state = State(header, sizes, meta, pages, mapping, scanned, self._checked, self._state)
        metas = memoryview(mapping.bytes[: 2 * page_bytes]).cast("Q")  # type: ignore[arg-type]
        self._commits = metas, META_BYTES // 8 - 1, (page_bytes + META_BYTES) // 8 - 1
        return self._state

    def _mappings(self, size: int) -> tuple[platform.Mapping, platform.Mapping]:
        """The file mapped twice: for single reads, without reading ahead, and for scans, with it."""
        if self._maps is None or self._maps[0].length < size:
            length = os.fstat(self.fd).st_size
            self._maps = (
                platform.Mapping(self.fd, length, sequential=False),
                platform.Mapping(self.fd, length, sequential=True),
            )
        return self._maps


def forget_in_child() -> None:
    """A forked child must neither use nor keep its parent's files: a lock goes with its last descriptor.

    LMDB's environments must not be closed either, not even by the interpreter's end: that would take
    the parent's readers out of the lock file. So they are kept for good, and py-lmdb, which allows a
    file one environment a process, is told that this is another process.
    """
    for opened in list(_alive):
        if opened.environment is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened.environment))
        if opened.fd >= 0:
            with contextlib.suppress(OSError):
                os.close(opened.fd)
        opened.fd = -1
    process, known = os.getpid(), getattr(_envid, "env_keys", None)
    if known is not None:
        _envid.env_keys = lambda *arguments: tuple((process, key) for key in known(*arguments))


def can_register(path: str) -> bool:
    """Whether there is a lock file to register a reader in: mode "r" makes none where a writer left none."""
    return os.path.exists(path + "-lock") and os.access(path + "-lock", os.W_OK)


def read_at(fd: int, place: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, place)
    os.lseek(fd, place, os.SEEK_SET)
    return os.read(fd, length)
