"""Whole files: creating one, copying one dense and in order, and putting the copy in the original's place.

Every step leaves either the old file or the new one under the path, whichever way the process ends.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vecstore.config import Settings
from vecstore.errors import CollectionExistsError, CollectionNotFoundError, LockedError
from vecstore.storage import keys, platform
from vecstore.storage.blocks import seal
from vecstore.storage.environment import open_environment, translated
from vecstore.storage.file import File
from vecstore.storage.graph import NONE, copy_graph
from vecstore.storage.header import Header, write_header
from vecstore.storage.pages import META_BYTES, read_meta
from vecstore.storage.session import Session
from vecstore.storage.slots import live_mask, read_slots
from vecstore.storage.state import Numbers, State
from vecstore.storage.store import batches, insert, live_slots, read_packed, stored_ids
from vecstore.storage.vectors import read_rows

_COPY_BYTES = 8 << 20


def create(path: str, settings: Settings) -> None:
    """A new, empty collection at this path; CollectionExistsError if another process was first."""
    header = Header(settings, uuid=secrets.token_bytes(16), seed=secrets.randbits(64), created=time.time())
    with _temporary(path) as temporary:
        _write_first(temporary, header)
        _publish(temporary, path)


@dataclass(frozen=True)
class Arranged:
    """How a state's records are to lie in its copy."""

    # All live slots, in the order that their records get.
    slots: Numbers
    # Writes the graph of the copy, in which they do lie so.
    write_graph: Callable[[Session], None]


def copy(state: State, path: str, *, overwrite: bool) -> None:
    """A dense copy of a state under another name, each block checked on the way."""
    if not overwrite and os.path.lexists(path):
        raise CollectionExistsError(f"{path} exists; choose another path, or pass overwrite=True")
    with _temporary(path) as temporary:
        _rebuild(state, temporary, _as_they_lie(state))
        if overwrite:
            with translated(path, "putting the copy in place"):
                os.replace(temporary, path)
                platform.remove_lock_file(path)  # it speaks of the transactions of what was there
                platform.sync_folder(os.path.dirname(path))
        else:
            _publish(temporary, path)


def compact(file: File, arrange: Callable[[State], Arranged | None]) -> None:
    """Replace the file by a dense copy of itself. The writer's lock is held; readers keep their snapshots.

    ``arrange`` says how its records are to lie; None: as they do.
    Other processes share LMDB's lock file with us, and it remembers the number of the newest transaction.
    So the copy's newest transaction gets just the number that the original's has: whoever opens the copy
    finds what the lock file announces, and whoever has the original open sees at the next call that the
    path names another file, and follows.
    """
    with _temporary(file.path) as temporary:
        with file.snapshot() as state:
            commits = _rebuild(state, temporary, arrange(state) or _as_they_lie(state))
        newest = _count_up(file, commits + 2)
        _renumber(temporary, newest)
        file.take(temporary)


def _rebuild(state: State, temporary: str, arranged: Arranged) -> int:
    """Copy all live records into a new file; gives the number of its last transaction."""
    old = state.header
    header = Header(old.settings, old.uuid, old.seed, old.created, asked=old.asked, unwanted=old.unwanted)
    # Nothing is covered of no slots, so all of them are complete, and kept up with the records that come.
    header.fields = {field: replace(index, covered=0) for field, index in old.fields.items()}
    _write_first(temporary, header)
    target = File(temporary, writable=True, durable=False, private=True)
    try:
        rows = max(1, _COPY_BYTES // max(state.layout.row_bytes, 512))
        for slots in batches(arranged.slots, rows):
            session = Session(target, _COPY_BYTES)
            try:
                entries = read_slots(state, slots)
                insert(
                    session, stored_ids(state, entries), read_rows(state, slots), read_packed(state, entries)
                )
                session.commit()
            finally:
                session.close()
        session = Session(target, _COPY_BYTES)
        try:
            arranged.write_graph(session)
            session.commit()
        finally:
            session.close()
        with target.snapshot() as copied:
            transaction = copied.meta.transaction
        target.sync()
    finally:
        target.close_private()
    return transaction


def _as_they_lie(state: State) -> Arranged:
    """Records in the order of their slots, and the graph as it is: only its slots have other numbers."""

    def write_graph(session: Session) -> None:
        live = live_mask(state) > 0
        moved = np.where(live, np.cumsum(live, dtype=np.int64) - 1, NONE).astype(np.uint32)
        copy_graph(state, session, moved)

    return Arranged(live_slots(state), write_graph)


def _write_first(temporary: str, header: Header) -> None:
    with translated(temporary, "creating it"):
        environment = open_environment(temporary, writable=True, locked=False)
        try:
            with environment.begin(write=True) as transaction:
                block = write_header(header, environment.stat()["psize"])
                seal(block, int(transaction.id()))
                transaction.put(keys.key(keys.HEADER, 0), block.data)
        finally:
            environment.close()


def _count_up(file: File, least: int) -> int:
    """Commit nothing until the file's transactions have reached this number."""
    while True:
        session = Session(file)
        try:
            newest = session.transaction
            if newest >= least:
                return newest
            session.changed = True
            session.commit()
        finally:
            session.close()


def _renumber(temporary: str, newest: int) -> None:
    """Let the copy's last commit be this transaction: commit up to its parity, renumber, commit once more."""

    def commit() -> None:
        target = File(temporary, writable=True, durable=True, private=True)
        try:
            session = Session(target, _COPY_BYTES)
            session.changed = True
            session.commit()
        finally:
            target.close_private()

    page_bytes = _page_bytes(temporary)
    if _last(temporary, page_bytes) & 1 != (newest - 1) & 1:
        commit()
    with translated(temporary, "finishing the copy"), open(temporary, "r+b") as opened:
        for number in (newest - 1, newest - 2):
            opened.seek((number & 1) * page_bytes + META_BYTES - 8)
            opened.write(struct.pack("<Q", number))
        opened.flush()
        os.fsync(opened.fileno())
    # The renumbered state's header still has its old generation, and one more commit writes it anew.
    with translated(temporary, "finishing the copy"):
        target = open_environment(temporary, writable=True, locked=False)
        try:
            _rewrite_header(target, newest)
        finally:
            target.close()


def _page_bytes(temporary: str) -> int:
    with open(temporary, "rb") as opened:
        return read_meta(opened.read(META_BYTES), 0).page_bytes


def _last(temporary: str, page_bytes: int) -> int:
    with open(temporary, "rb") as opened:
        data = opened.read(2 * page_bytes)
    return max(read_meta(data[page * page_bytes :][:META_BYTES], page).transaction for page in (0, 1))


def _rewrite_header(environment: Any, newest: int) -> None:
    with environment.begin(write=True) as transaction:
        block = np.frombuffer(transaction.get(keys.key(keys.HEADER, 0)), dtype=np.uint8).copy()
        seal(block, newest)
        transaction.put(keys.key(keys.HEADER, 0), block.data)


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[str]:
    """An empty file beside the path, locked while it is ours, gone at the end. Clears what the killed left."""
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise CollectionNotFoundError(f"the folder {folder} does not exist; create it first")
    with translated(path, "writing beside it"):
        _clear_leftovers(folder, name)
        temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.new")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
        fd = platform.open_shared(temporary)
    try:
        if not platform.try_lock(fd):
            raise LockedError(f"{temporary} is in use by another process; call again")
        yield temporary
    finally:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _clear_leftovers(folder: str, name: str) -> None:
    path = os.path.join(folder, name)
    for leftover in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name)}.*.new")):
        with contextlib.suppress(OSError):
            # Killed between the new name and the end of the old one: the same file, locked while it is written.
            if os.path.exists(path) and os.path.samefile(leftover, path):
                os.unlink(leftover)
                continue
            # One made this second may belong to a process that is about to lock it.
            if time.time() - os.path.getmtime(leftover) < 2:
                continue
            fd = platform.open_shared(leftover)
            try:
                if platform.try_lock(fd):
                    os.unlink(leftover)
            finally:
                os.close(fd)


def _publish(temporary: str, path: str) -> None:
    """Name a new file. A lock file left by a collection that was deleted would speak of other transactions."""
    with translated(path, "creating it"), platform.locked_folder(os.path.dirname(path)):
        if not os.path.lexists(path):
            with contextlib.suppress(OSError):
                platform.remove_lock_file(path)
        try:
            platform.publish_new(temporary, path)
        except FileExistsError:
            raise CollectionExistsError(
                f'{path} exists; open it with mode="a", or choose another path'
            ) from None
        platform.sync_folder(os.path.dirname(path))
