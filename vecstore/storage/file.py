"""The open file: shared by all collections of this process that are open on it, and by all threads.

It follows its path. A compaction puts another file under it, together with a new lock file, since two
openings in one process must not share one: closing either would drop the process's locks on both. Snapshots
go on with the opening that they were taken from.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import lmdb

from vecstore.errors import (
    ClosedError,
    CollectionNotFoundError,
    ForkError,
    LockedError,
    ReadOnlyError,
    SettingsMismatchError,
    StorageError,
    VecstoreError,
)
from vecstore.storage import platform
from vecstore.storage.environment import translated
from vecstore.storage.kept import Kept
from vecstore.storage.opened import Identity, Opened, can_register, forget_in_child, identity
from vecstore.storage.state import State

# Taken before a file's own lock, wherever both are.
_registry = threading.RLock()
_open_files: dict[Identity, File] = {}

# How long to wait for this process's own calls to end where an opening must be closed first.
_QUIET_SECONDS = 5.0


class Snapshot:
    """One steady state: owns LMDB's read transaction, which keeps the state's pages from being reused."""

    __slots__ = ("_file", "_state", "_transaction", "number", "opened")

    def __init__(self, file: File, opened: Opened, transaction: Any, state: State | None) -> None:
        self.opened = opened
        self.number: int = transaction.id()
        self._state = state
        self._file = file
        self._transaction = transaction

    @property
    def state(self) -> State:
        """A writer that knows its own last commit may never ask for it."""
        if self._state is None:
            self._state = self.opened.state_of(self.number)
        return self._state

    def __enter__(self) -> State:
        return self.state

    def __exit__(self, failure: object, *_: object) -> None:
        if not self.close() and failure is None:
            raise LockedError(
                f"{self._file.path} was written to behind this read's back: its lock file was exchanged, or "
                "there was none; call again"
            )

    def close(self) -> bool:
        """Give the state's pages free; False if they may have been reused before this."""
        transaction, self._transaction = self._transaction, None
        return transaction is None or self._file.release(self, transaction)

    def __del__(self) -> None:
        self.close()


class File:
    """What is open under a path, and this process's part in writing to it."""

    def __init__(self, path: str, *, writable: bool, durable: bool, private: bool = False) -> None:
        self.path = path
        self.writable = writable
        self.durable = durable
        # A private file has a name that nobody else knows: no lock file, no place among the shared ones.
        self._private = private
        self.handles = 1 if private else 0
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._write_lock = threading.RLock()
        self._in_session = False
        self._lock_fd = -1
        self._gone: str | None = None
        self._uuid: bytes | None = None
        # When each snapshot that is out was taken, by its id: a reference would keep it from ending.
        self._begun: dict[int, float] = {}
        # Openings of files that the path named before, kept for the snapshots on them.
        self._former: list[Opened] = []
        self._kept: Kept | None = None
        self._now: Opened | None = self._open()

    def _open(self) -> Opened:
        with translated(self.path, "opening it"):
            return Opened(self.path, writable=self.writable, durable=self.durable, private=self._private)

    # -- sharing

    @classmethod
    def share(cls, path: str, *, writable: bool, durable: bool) -> File:
        """The file at this path, opened once a process however many collections use it."""
        path = os.path.realpath(path)
        with _registry:
            known = identity(path)
            if known is None:
                hint = 'open it with mode="a" and dim=… to create it'
                raise CollectionNotFoundError(f"{path} does not exist; {hint}")
            for other in {other for other in _open_files.values() if other.path == path}:
                # The path may name another file since: let who has it open notice that first.
                with contextlib.suppress(VecstoreError), other.snapshot():
                    pass
            file = _open_files.get(known)
            if file is None or file._pid != os.getpid():
                file = cls(path, writable=writable, durable=durable)
                _open_files[known] = file
            elif writable:
                file._join_as_writer(durable)
            file.handles += 1
            return file

    def _join_as_writer(self, durable: bool) -> None:
        if self.writable:
            if durable != self.durable:
                have, want = ("full", "none") if self.durable else ("none", "full")
                raise SettingsMismatchError(
                    f'{self.path} is open in this process with durability="{have}", and "{want}" was asked for; '
                    "close it first"
                )
            return
        self.wait_until_quiet()
        with self._lock:
            self.writable, self.durable = True, durable
            try:
                self._reopen()
            except BaseException:
                self.writable = False
                self._reopen()
                raise

    def leave(self) -> None:
        """One collection fewer uses the file; the last one closes it."""
        if os.getpid() != self._pid:
            return  # a thread that the fork left behind may hold these locks for ever
        with _registry, self._lock:
            self.handles -= 1
            self._close_if_unused()

    def close_private(self) -> None:
        self.leave()

    def _close_if_unused(self) -> None:
        """Close once no collection and no snapshot is left; until then, opening the path joins this file."""
        if self.handles > 0 or self._pid != os.getpid() or self._now is None:
            return
        if self._now.active or self._former:
            return
        self._forget()
        self._now.close()
        self._now = None

    def _forget(self) -> None:
        for known in [known for known, file in _open_files.items() if file is self]:
            del _open_files[known]

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkError(
                f"{self.path} was opened by process {self._pid}, and this is its fork {os.getpid()}: "
                "open the collection again in the child"
            )

    # -- reading

    def snapshot(self, kept: Kept | None = None) -> Snapshot:
        """The newest committed state, of whichever process; read only when asked for, where it is the one kept."""
        self.check_process()
        while True:
            with self._lock:
                now = self._current()
                begun = self._begin(now, kept)
                if begun is not None:
                    transaction, state = begun
                    try:
                        # Only what is under the path after the transaction began was the newest when it began.
                        outdated = self._outdated(now)
                    except BaseException:
                        transaction.abort()
                        raise
                    if not outdated:
                        return self._taken(now, transaction, state)
                    transaction.abort()
                    del transaction, state, begun
            with _registry, self._lock:
                if self._outdated(self._current()):
                    self._reopen()

    def _begin(self, now: Opened, kept: Kept | None) -> tuple[Any, State | None] | None:
        """A read transaction; None where it must be opened anew first."""
        try:
            if kept is not None and kept.opened is now:
                transaction = now.begin_at(kept.generation)
                if transaction is not None:
                    return transaction, None
            return now.begin()
        except VecstoreError:
            if self._outdated(now):
                return None
            raise

    def _taken(self, now: Opened, transaction: Any, state: State | None) -> Snapshot:
        if state is not None:
            if self._uuid not in (None, state.header.uuid):
                transaction.abort()
                now.close()
                self._now = None
                self._abandon(f"{self.path} was replaced by another collection; open it again")
            self._uuid = state.header.uuid
        now.active += 1
        snapshot = Snapshot(self, now, transaction, state)
        self._begun[id(snapshot)] = time.monotonic()
        return snapshot

    def release(self, snapshot: Snapshot, transaction: Any) -> bool:
        if os.getpid() != self._pid:
            return True
        opened = snapshot.opened
        with self._lock:
            steady = self._private or self._was_steady(opened, snapshot.number)
            transaction.abort()
            opened.active -= 1
            del self._begun[id(snapshot)]
            if self._former:
                self._close_former()
        if self.handles <= 0:
            with _registry, self._lock:
                self._close_if_unused()
        return steady

    def _close_former(self) -> None:
        for former in [former for former in self._former if not former.active]:
            self._former.remove(former)
            former.close()

    def _was_steady(self, opened: Opened, number: int) -> bool:
        """Whether every writer knew of this snapshot, or none has written."""
        if opened.newest_is(number):
            return True
        known = opened.locked and identity(self.path + "-lock") == opened.lock_file
        if known or identity(self.path) != opened.identity:
            return True
        return opened.newest_meta().transaction == number

    def _current(self) -> Opened:
        if self._gone is not None:
            raise CollectionNotFoundError(self._gone)
        if self._now is None:
            raise ClosedError(f"{self.path} is closed; open it again")
        return self._now

    def _outdated(self, now: Opened) -> bool:
        """Whether the path names another file than the one that is open, or it must be opened anew."""
        if self._private:
            return False
        named = identity(self.path)
        if named is None:
            self._abandon(f"{self.path} was deleted while it was open; open it again")
        if named != now.identity:
            return True
        if now.locked:
            return identity(self.path + "-lock") != now.lock_file or (now.panicked and not now.active)
        return not now.active and can_register(self.path)

    def _reopen(self) -> None:
        """Open what the path names now. Both locks are held."""
        now = self._current()
        if _open_files.get(identity(self.path)) not in (None, self):
            self._abandon(f"{self.path} was replaced, and opened anew in this process; open it again")
        apart = self._shares_no_lock_file(now)
        if now.active and not apart:
            raise LockedError(
                f"{self.path}: it was replaced, and this process still reads the file from before; "
                "finish or close the iterators over it, and call again"
            )
        self._forget()
        if now.active:
            self._former.append(now)
        else:
            now.close()
        self._now = None
        try:
            self._now = self._open()
        except CollectionNotFoundError as error:
            self._abandon(str(error))
        finally:
            if self._now is None and self._gone is None:
                self._gone = f"{self.path} could not be opened again; close the collection and open it anew"
        _open_files[self._now.identity] = self

    def _shares_no_lock_file(self, now: Opened) -> bool:
        """See to it that the file now under the path does not have the former one's lock file.

        A compaction that was killed between its two last steps leaves that, and so does a user who puts a
        backup in place: it speaks of the former file's transactions.
        """
        if not now.locked or identity(self.path + "-lock") != now.lock_file:
            return True
        if not self.writable or identity(self.path) == now.identity:
            return False
        fd = platform.open_shared(self.path)
        try:
            if not platform.lock(fd, _QUIET_SECONDS):
                return False
            if identity(self.path + "-lock") == now.lock_file:
                platform.renew_lock_file(self.path)
            platform.unlock(fd)
        except OSError:
            return (
                False  # a full disk, say: whoever reads nothing of the former file can do with its lock file
            )
        finally:
            os.close(fd)
        return True

    def _abandon(self, reason: str) -> NoReturn:
        """The path is another's now: this file serves nobody any more, and does not stand in its way."""
        self._forget()
        self._gone = reason
        raise CollectionNotFoundError(reason)

    def wait_until_quiet(self) -> None:
        """Wait until no call of this process reads the file."""
        end = time.monotonic() + _QUIET_SECONDS
        while self._now is not None and self._now.active:
            if time.monotonic() > end:
                raise LockedError(
                    f"{self.path} is being read in this process; finish or close the iterators over it, and call again"
                )
            time.sleep(0.002)

    def oldest_snapshot(self) -> float:
        """Seconds since the oldest read of this process that is still under way began; 0 where none is."""
        with self._lock:
            return time.monotonic() - min(self._begun.values()) if self._begun else 0.0

    def readers(self) -> list[tuple[int, int]]:
        """(process, how many commits ago it began) for each read under way, in all processes."""
        environment = self._current().environment
        newest = int(environment.info()["last_txnid"])
        # LMDB lists slots; one that is free, or was a read that ended, shows "-" for its transaction.
        lines = [line.split() for line in environment.readers().splitlines()[1:]]
        return [(int(line[0]), newest - int(line[2])) for line in lines if line[2:3] not in ([], ["-"])]

    # -- writing

    @contextlib.contextmanager
    def writing(self, timeout: float | None) -> Iterator[None]:
        """The writer's lock, of this process's threads first and then of all processes."""
        self.check_process()
        if not self.writable:
            self.refuse_write()
        if not self._write_lock.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
            raise self._too_long(timeout)
        try:
            if self._in_session:
                raise LockedError(
                    f"{self.path}: this thread has a transaction open through another handle; use that one"
                )
            fd = self._lock_current(timeout)
            self._in_session = True
            try:
                yield
            finally:
                self._in_session = False
                self._unlock(fd)
        finally:
            self._write_lock.release()

    def keep(self, kept: Kept) -> None:
        """For the next write; the writer's lock is held."""
        self._kept = kept

    def take_kept(self) -> Kept | None:
        """What the last write left. It is used up: who changes it keeps something of its own."""
        kept, self._kept = self._kept, None
        return kept

    def refuse_write(self) -> NoReturn:
        raise ReadOnlyError(f'{self.path} is open with mode="r"; open it with mode="a" to write')

    def _lock_current(self, timeout: float | None) -> int:
        """Lock the file that the path names now; a compaction may have replaced it while we waited."""
        while True:
            with _registry, self._lock:
                if self._outdated(self._current()):
                    self._reopen()
                locked = self._current()
                # A descriptor of its own, since another thread's reopening closes the file's.
                fd = self._lock_fd = os.dup(locked.fd)
            if not platform.lock(fd, timeout):
                self._unlock(fd)
                raise self._too_long(timeout)
            with self._lock:
                if self._now is locked and not self._outdated(locked):
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

    def check_tree(self, snapshot: Snapshot) -> None:
        """Before the first write: LMDB's own code trusts what this checks."""
        now = self._current()
        if not now.tree_checked:
            snapshot.state.pages.check_writable()
            now.tree_checked = True

    def repair_lock(self) -> None:
        """Have LMDB look at what a writer left that was killed.

        One that died behind its commit, and before it told the lock file of it, leaves a commit that others begin
        no read on; and whoever writes on from the one before would undo a part of it. LMDB mends that when it
        begins to write.
        """
        with translated(self.path, "looking after a writer that was killed"):
            self._current().environment.begin(write=True).abort()

    def begin_write(self, snapshot: Snapshot) -> Any:
        """A write transaction on the file that this snapshot is of; the snapshot keeps it open."""
        self.check_process()
        now = self._current()
        if now is not snapshot.opened:
            raise LockedError(
                f"{self.path} was replaced while it was written to; nothing was written, call again"
            )
        with translated(self.path, "beginning to write"):
            now.clear_dead_readers()
            try:
                return now.environment.begin(write=True)
            except lmdb.MapResizedError:
                self._set_map_size(0)
                return now.environment.begin(write=True)
            except lmdb.PanicError:
                now.panicked = True
                raise

    def grow_map(self) -> None:
        """Double LMDB's map; only Windows and tight address spaces need it."""
        self._set_map_size(2 * self._current().environment.info()["map_size"])

    def _set_map_size(self, size: int) -> None:
        """LMDB moves its own map here. Ours, which all reading goes through, stays where it is."""
        with self._lock:
            now = self._current()
            if now.active > 1:
                raise StorageError(
                    f"{self.path}: the map must grow while readers of this process hold snapshots; "
                    "close them and call again"
                )
            with translated(self.path, "growing the map"):
                now.environment.set_mapsize(size)

    def sync(self) -> None:
        with translated(self.path, "syncing"):
            self._current().environment.sync(True)

    def take(self, temporary: str) -> None:
        """Put a finished file in this one's place, and go on with it."""
        if platform.WINDOWS:
            self._take_closed(temporary)
            return
        with _registry, self._lock, translated(self.path, "putting the copy in place"):
            os.replace(temporary, self.path)
            platform.renew_lock_file(self.path)
            platform.sync_folder(os.path.dirname(self.path))
            self._reopen()

    def _take_closed(self, temporary: str) -> None:
        """An open file cannot be replaced there, neither ours nor another process's."""
        self.wait_until_quiet()
        with _registry, self._lock, translated(self.path, "putting the copy in place"):
            self._forget()
            self._current().close()
            try:
                os.replace(temporary, self.path)
            finally:
                self._now = self._open()
                _open_files[self._now.identity] = self


def _forget_in_child() -> None:
    """A forked child must neither use nor keep its parent's files: a lock goes with its last descriptor."""
    global _registry
    for file in set(_open_files.values()):
        if file._lock_fd >= 0:
            with contextlib.suppress(OSError):
                os.close(file._lock_fd)
        file._lock_fd = -1
    forget_in_child()
    _open_files.clear()
    _registry = threading.RLock()  # a thread that the fork left behind may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
