"""LMDB's environment: how it is opened, and what its errors mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lmdb

from vecstore.config import MAX_READERS
from vecstore.errors import LockedError, StorageError, StorageFullError, VecstoreError
from vecstore.storage import platform

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def open_environment(path: str, *, writable: bool, locked: bool, durable: bool = True) -> Any:
    """An LMDB environment over a file that is known to be sound.

    Format 1 is asked for by name: it is what ``pages`` reads. Never ``writemap``: on a full disk it ends
    the process with SIGBUS.
    """
    length = os.path.getsize(path) if os.path.exists(path) else 0
    failure: Exception | None = None
    for map_size in platform.MAP_SIZES:
        try:
            return lmdb.open(
                path,
                subdir=False,
                lib_version=0,
                map_size=max(map_size, 2 * length),
                readonly=not writable,
                create=writable,
                lock=locked,
                max_dbs=0,
                max_readers=MAX_READERS,
                readahead=False,
                meminit=False,
                sync=durable,
                metasync=durable,
                mode=0o644,
            )
        except lmdb.MemoryError as error:  # address space is limited: ask for less
            failure = error
        except lmdb.Error as error:
            if getattr(error, "code", None) != errno.ENOMEM and "Cannot allocate" not in str(error):
                raise
            failure = error
    assert failure is not None
    raise failure


@contextmanager
def translated(path: str, doing: str) -> Iterator[None]:
    """LMDB's and the system's errors become ours, each with a word on what to do.

    A full map is passed on as it is: the session mends it.
    """
    try:
        yield
    except (VecstoreError, lmdb.MapFullError):
        raise
    except lmdb.ReadersFullError as error:
        raise LockedError(
            f"{path}: more than {MAX_READERS} reads are under way at once; close some collections or iterators"
        ) from error
    except (lmdb.Error, OSError) as error:
        raise _typed(error, path, doing) from error


def _typed(error: Exception, path: str, doing: str) -> VecstoreError:
    number = getattr(error, "errno", None) or getattr(error, "code", None)
    number = abs(number) if isinstance(number, int) else errno.EIO
    if number in _FULL or "No space" in str(error) or (number == errno.EIO and _disk_full(path)):
        return StorageFullError(
            errno.ENOSPC,
            f"the disk is full while {doing}; nothing of this call was written. Make room and call again",
            path,
        )
    return StorageError(number, f"{error} while {doing}; nothing of this call was written", path)


def _disk_full(path: str) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    try:
        room = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 1 << 20
