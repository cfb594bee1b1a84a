"""The open file: shared by all collections of this process that are open on it, and by all threads."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

import lmdb

from vecstore.errors import (
    ClosedError,
    CollectionNotFoundError,
    CorruptionError,
    ForkError,
    LockedError,
    NotACollectionError,
    ReadOnlyError,
    SettingsMismatchError,
    StorageError,
)
from vecstore.storage import keys, platform
from vecstore.storage.blocks import PAGE_HEAD_BYTES, check, layout
from vecstore.storage.environment import open_environment, translated
from vecstore.storage.header import read_header
from vecstore.storage.pages import META_BYTES, Meta, PageMap, read_meta
from vecstore.storage.state import Checked, State

_open_files: dict[tuple[int, int], File] = {}
_registry = threading.RLock()


def identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


class Snapshot:
    """One steady state: owns LMDB's read transaction, which keeps the state's pages from being reused."""

    def __init__(self, file: File, transaction: Any, state: State) -> None:
        self.state = state
        self._file = file
        self._transaction = transaction
        self.begun = time.monotonic()

    def __enter__(self) -> State:
        return self.state

    def __exit__(self, failure: object, *_: object) -> None:
        if not self.close() and failure is None:
            raise LockedError(
                f"{self._file.path} was written to while it was read without a lock file beside it; call again"
            )

    def close(self) -> bool:
        """Give the state's pages free; False if they may have been reused before this."""
        transaction, self._transaction = self._transaction, None
        return transaction is None or self._file.release(transaction, self.state)

    @property
    def open(self) -> bool:
        return self._transaction is not None

    def __del__(self) -> None:
        self.close()


class File:
    """An LMDB environment, our own map of the same file, and the state last read."""

    def __init__(self, path: str, *, writable: bool, durable: bool, private: bool = False) -> None:
        self.path = path
        self.writable = writable
        self.durable = durable
        # A private file has a name that nobody else knows: no lock file, no place among the shared ones.
        self.private = private
        self.handles = 1 if private else 0
        self.lock = threading.RLock()
        self.write_lock = threading.RLock()
        self.checked = Checked()
        self.tree_checked = False
        self._pid = os.getpid()
        self._active = 0
        self._snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        self._fd = self._lock_fd = -1
        self._locked, self._lock_refused = True, False
        self._gone: str | None = None
        # LMDB gave up on its environment after a failed write; it must be opened anew.
        self._panicked = False
        self._in_session = False
        self._left: list[tuple[Any, int]] = []
        self._environment: Any = None
        self._state: State | None = None
        self._maps: tuple[platform.Mapping, platform.Mapping] | None = None
        self._uuid: bytes | None = None
        self._open()

    # -- opening and closing

    @classmethod
    def share(cls, path: str, *, writable: bool, durable: bool) -> File:
        """The file at this path, opened once a process however many collections use it."""
        path = os.path.abspath(path)
        with _registry:
            try:
                known = _open_files.get(identity(path))
            except FileNotFoundError:
                raise CollectionNotFoundError(
                    f"{path} does not exist; open it with dim=… to create it"
                ) from None
            if known is not None and known._pid == os.getpid():
                known._join(writable=writable, durable=durable)
            else:
                with translated(path, "opening it"):
                    known = cls(path, writable=writable, durable=durable)
                _open_files[known._identity] = known
            known.handles += 1
            return known

    def _join(self, *, writable: bool, durable: bool) -> None:
        if self.writable and durable != self.durable:
            have, want = ("full", "none") if self.durable else ("none", "full")
            if writable:
                raise SettingsMismatchError(
                    f'{self.path} is open in this process with durability="{have}", and "{want}" was asked for; '
                    "close it first"
                )
        if writable and not self.writable:
            with self.lock:
                self.writable, self.durable = True, durable
                self._reopen()

    def leave(self) -> None:
        """One collection fewer uses the file; the last one closes it."""
        with _registry, self.lock:
            self.handles -= 1
            if self.handles > 0:
                return
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        """Close once no collection and no snapshot is left; until then, opening the path joins this file."""
        if self.handles > 0 or self._active > 0 or self._pid != os.getpid():
            return
        if _open_files.get(self._identity) is self:
            del _open_files[self._identity]
        self._close()

    def _open(self) -> None:
        self._fd = platform.open_shared(self.path)
        try:
            status = os.fstat(self._fd)
            self._identity = status.st_dev, status.st_ino
            newest = self._newest_meta(status.st_size)
            self._locked = self._wants_lock()
            self._environment = self._environment_for(newest)
            if status.st_size < (newest.last_page + 1) * newest.page_bytes:
                self._refuse_if_truncated()
        except BaseException:
            self._close()
            raise

    def _newest_meta(self, size: int) -> Meta:
        """What LMDB will begin with, checked before LMDB sees it."""
        if size == 0:
            raise NotACollectionError(
                f"{self.path} is empty (0 bytes); delete it to create a collection there"
            )
        metas: list[Meta] = []
        failure: Exception | None = None
        page_bytes = 4096
        for page in (0, 1):
            try:
                metas.append(read_meta(_read_at(self._fd, page * page_bytes, META_BYTES), page))
                page_bytes = metas[-1].page_bytes
            except NotACollectionError as error:
                failure = NotACollectionError(f"{self.path}: {error}")
                break
            except CorruptionError as error:
                failure = error
                break
        if failure is not None:
            raise failure
        if metas[0].page_bytes != metas[1].page_bytes:
            raise CorruptionError(f"{self.path}: the two meta pages contradict each other; restore a backup")
        return max(metas, key=lambda meta: meta.transaction)

    def _wants_lock(self) -> bool:
        """A reader registers in the lock file that a writer left; mode "r" makes none where none is."""
        if self.private:
            return False
        if self.writable:
            return True
        lock_path = self.path + "-lock"
        return not self._lock_refused and os.path.exists(lock_path) and os.access(lock_path, os.W_OK)

    def _environment_for(self, meta: Meta) -> Any:
        with translated(self.path, "opening it"):
            try:
                environment = open_environment(
                    self.path, writable=self.writable, locked=self._locked, durable=self.durable
                )
            except lmdb.ReadonlyError as error:
                raise _not_writable(self.path) from error
            except lmdb.Error as error:
                if "Permission" in str(error) or "Read-only" in str(error):
                    if self.writable:
                        raise _not_writable(self.path) from error
                    self._locked, self._lock_refused = False, True
                    environment = open_environment(self.path, writable=False, locked=False)
                else:
                    raise
        if self._locked:
            environment.reader_check()
        return environment

    def _refuse_if_truncated(self) -> None:
        """A sound file may end before its last page, when that page was never needed; then nothing points there."""
        with self.snapshot() as state:
            state.pages.check_writable()

    def _close(self) -> None:
        for environment, fd in [*self._left, (self._environment, self._fd)]:
            if environment is not None:
                environment.close()
            if fd >= 0:
                os.close(fd)
        self._left = []
        self._environment, self._fd = None, -1
        self._state = self._maps = None

    def _reopen(self) -> None:
        """Begin again: the file was replaced by a compacted copy, or LMDB wants it after a failure.

        Both locks are held, the registry's taken first.

        An environment must not be closed while another one in this process uses the same lock file:
        closing drops the process's locks on it. So where a snapshot is still out, the old environment
        stays open until none is.
        """
        _open_files.pop(self._identity, None)
        if self._active == 0:
            self._close()
        else:
            self._left.append((self._environment, self._fd))
            self._environment, self._fd, self._state, self._maps = None, -1, None, None
        self.checked, self.tree_checked, self._panicked = Checked(), False, False
        self._open()
        _open_files[self._identity] = self

    # -- reading

    def snapshot(self) -> Snapshot:
        """The newest committed state, of whichever process."""
        self.check_process()
        for _ in range(1000):
            with self.lock:
                self._check_open()
                if self._active > 0 or not self._wants_reopening():
                    snapshot = self._try_snapshot()
                    if snapshot is not None:
                        return snapshot
            with _registry, self.lock:
                if self._is_outdated():
                    self._reopen()
        raise CorruptionError(
            f"{self.path}: its meta pages don't name the state that LMDB does; restore a backup"
        )

    def _is_outdated(self) -> bool:
        """Whether the environment must be opened anew before the next read."""
        self._check_open()
        return self._replaced() or (self._active == 0 and self._wants_reopening())

    def _wants_reopening(self) -> bool:
        """What waits for the moment when no snapshot of this process is out."""
        return bool(self._left) or self._panicked or (not self._locked and self._wants_lock())

    def _try_snapshot(self) -> Snapshot | None:
        """None if the file was replaced, or two commits have raced past."""
        transaction = self._begin()
        try:
            state = None if self._replaced() else self._state_of(transaction.id())
        except BaseException:
            transaction.abort()
            raise
        if state is None:
            transaction.abort()
            return None
        self._active += 1
        snapshot = Snapshot(self, transaction, state)
        self._snapshots.add(snapshot)
        return snapshot

    def _begin(self) -> Any:
        with translated(self.path, "reading"):
            try:
                return self._environment.begin()
            except lmdb.MapResizedError:
                self._environment.set_mapsize(0)
            except lmdb.ReadersFullError:
                self._environment.reader_check()
            return self._environment.begin()

    def release(self, transaction: Any, state: State) -> bool:
        if os.getpid() != self._pid:
            return True
        with self.lock:
            steady = (
                self._locked
                or self.private
                or self._fd < 0
                or self._newest_meta(1).transaction == state.meta.transaction
            )
            transaction.abort()
            del transaction
            self._active -= 1
        if self.handles <= 0:
            with _registry, self.lock:
                self._close_if_unused()
        return steady

    def _abandon(self, reason: str) -> NoReturn:
        """The path is another's now: this file serves nobody any more, and does not stand in its way."""
        _open_files.pop(self._identity, None)
        self._gone = reason
        raise CollectionNotFoundError(reason)

    def _check_open(self) -> None:
        if self._gone is not None:
            raise CollectionNotFoundError(self._gone)
        if self._environment is None:
            raise ClosedError(f"{self.path} is closed; open it again")

    def _replaced(self) -> bool:
        """Whether the path names another file now: a compacted copy, which we then follow."""
        try:
            return identity(self.path) != self._identity
        except FileNotFoundError:
            self._abandon(f"{self.path} was deleted while it was open; open it again")

    def _state_of(self, transaction: int) -> State | None:
        """The state that this transaction left; None if two commits have raced past and it must be asked anew."""
        if self._state is not None and self._state.meta.transaction == transaction:
            return self._state
        page_bytes = 4096 if self._state is None else self._state.layout.page_bytes
        if self._state is None:
            page_bytes = read_meta(_read_at(self._fd, 0, META_BYTES), 0).page_bytes
        place = (transaction & 1) * page_bytes
        first = _read_at(self._fd, place, META_BYTES)
        if first != _read_at(self._fd, place, META_BYTES):
            return None
        meta = read_meta(first, transaction & 1)
        if meta.transaction != transaction:
            return None
        size = min(os.fstat(self._fd).st_size, (meta.last_page + 1) * meta.page_bytes)
        mapping, scanned = self._mappings(size)
        pages = PageMap(mapping.bytes[:size], meta)
        place_of_header = pages.find(keys.order(keys.HEADER, 0))
        if place_of_header is None:
            raise NotACollectionError(f"{self.path} is an LMDB file, and not a vecstore collection")
        page, length = place_of_header
        start = page * meta.page_bytes + PAGE_HEAD_BYTES
        block = mapping.bytes[start : start + length]
        pages.check_span(page, (length + PAGE_HEAD_BYTES) // meta.page_bytes)
        check(block, keys.HEADER, 0, transaction)
        header = read_header(block, size // meta.page_bytes)
        if self._uuid not in (None, header.uuid):
            self._abandon(f"{self.path} was replaced by another collection; open it again")
        self._uuid = header.uuid
        self._state = State(
            header, layout(header.settings, meta.page_bytes), meta, pages, mapping, scanned, self.checked
        )
        return self._state

    def _mappings(self, size: int) -> tuple[platform.Mapping, platform.Mapping]:
        """The file mapped twice: for single reads, without reading ahead, and for scans, with it."""
        if self._maps is None or self._maps[0].length < size:
            length = os.fstat(self._fd).st_size
            self._maps = (
                platform.Mapping(self._fd, length, sequential=False),
                platform.Mapping(self._fd, length, sequential=True),
            )
        return self._maps

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError(
                f"{self.path} was opened by process {self._pid}, and this is its fork {os.getpid()}: "
                "open the collection again in the child"
            )

    # -- writing

    @contextlib.contextmanager
    def writing(self, timeout: float | None) -> Iterator[None]:
        """The writer's lock, of this process's threads first and then of all processes."""
        self.check_process()
        if not self.writable:
            self.refuse_write()
        if not self.write_lock.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            raise self._too_long(timeout)
        try:
            fd = self._lock_current(timeout)
            try:
                yield
            finally:
                self._unlock(fd)
        finally:
            self.write_lock.release()

    @contextlib.contextmanager
    def sole_session(self) -> Iterator[None]:
        """One session at a time: a thread's second handle on the file must not write beside its first."""
        if self._in_session:
            raise LockedError(
                f"{self.path}: this thread has a transaction open through another handle; use that one"
            )
        self._in_session = True
        try:
            yield
        finally:
            self._in_session = False

    def refuse_write(self) -> NoReturn:
        raise ReadOnlyError(f'{self.path} is open with mode="r"; open it with mode="a" to write')

    def _lock_current(self, timeout: float | None) -> int:
        """Lock the file that the path names now; a compaction may have replaced it while we waited."""
        while True:
            with _registry, self.lock:
                self._check_open()
                if self._replaced():
                    self._reopen()
                locked_identity = self._identity
                # A descriptor of its own, since another thread's reopening closes the file's.
                fd = self._lock_fd = os.dup(self._fd)
            if not platform.lock(fd, timeout):
                self._unlock(fd)
                raise self._too_long(timeout)
            with self.lock:
                if locked_identity == self._identity and not self._replaced():
                    return fd
            self._unlock(fd)

    def _unlock(self, fd: int) -> None:
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                platform.unlock(fd)
            os.close(fd)
            self._lock_fd = -1

    def _too_long(self, timeout: float | None) -> LockedError:
        return LockedError(
            f"{self.path}: another writer held it for more than {timeout} s; call again, or open with a longer timeout="
        )

    def begin_write(self) -> Any:
        with translated(self.path, "beginning to write"):
            try:
                return self._environment.begin(write=True)
            except lmdb.MapResizedError:
                self._grow_map(0)
                return self._environment.begin(write=True)
            except lmdb.PanicError:
                self._panicked = True
                raise

    def grow_map(self) -> None:
        """Double LMDB's map; only Windows and tight address spaces need it."""
        self._grow_map(2 * self._environment.info()["map_size"])

    def _grow_map(self, size: int) -> None:
        """LMDB moves its own map here. Ours, which all reading goes through, stays where it is."""
        with self.lock:
            if self._active:
                raise StorageError(
                    f"{self.path}: the map must grow while readers of this process hold snapshots; close them and call again"
                )
            self._environment.set_mapsize(size)

    def sync(self) -> None:
        with translated(self.path, "syncing"):
            self._environment.sync(True)

    def take(self, temporary: str) -> None:
        """Put a finished file in this one's place, and go on with it."""
        with _registry, self.lock, translated(self.path, "putting the copy in place"):
            if platform.WINDOWS:
                # An open file cannot be replaced there, neither ours nor another process's.
                if self._active:
                    raise LockedError(f"{self.path}: close the iterators over it first, and call again")
                self._close()
                try:
                    os.replace(temporary, self.path)
                finally:
                    self._open()
            else:
                os.replace(temporary, self.path)
                platform.sync_folder(os.path.dirname(self.path))
                self._reopen()

    def close_private(self) -> None:
        with self.lock:
            self._close()

    def readers(self) -> int:
        """How many reads are under way, in all processes."""
        return int(self._environment.info()["num_readers"]) if self._environment is not None else 0

    def oldest_snapshot(self) -> float:
        """Seconds since the oldest read of this process that is still under way began; 0 where none is."""
        now = time.monotonic()
        return max((now - snapshot.begun for snapshot in list(self._snapshots) if snapshot.open), default=0.0)

    @property
    def active(self) -> int:
        return self._active


def _not_writable(path: str) -> ReadOnlyError:
    return ReadOnlyError(f'{path} cannot be written to; open it with mode="r" to read')


def _read_at(fd: int, place: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, place)
    os.lseek(fd, place, os.SEEK_SET)
    return os.read(fd, length)


def _forget_in_child() -> None:
    """A forked child must neither use nor keep its parent's files: the lock goes with the last descriptor."""
    for file in list(_open_files.values()):
        for fd in (file._fd, file._lock_fd, *(fd for _, fd in file._left)):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        file._fd = file._lock_fd = -1
    _open_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
