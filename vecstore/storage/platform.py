"""All that differs between Linux, macOS and Windows, and nothing else."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import secrets
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS = sys.platform == "win32"

# Address space reserved for LMDB's own map. It costs nothing where the system maps lazily; Windows makes
# the file that long, so there the map starts small and grows.
MAP_SIZES = (64 << 20,) if WINDOWS else (1 << 40, 1 << 36, 1 << 32, 1 << 30)


class Mapping:
    """A read-only view of a file's bytes, alive for as long as an array over it is.

    It reserves twice the file's length where the system allows that, so that a growing file seldom
    needs a new one. Nobody touches a byte behind the end of the file: page numbers are checked first.
    """

    def __init__(self, fd: int, length: int, *, sequential: bool) -> None:
        self.length = length
        self.address = 0
        if not WINDOWS:
            self.length = max(2 * length, 64 << 20)
            self.address = _posix_map(fd, self.length)
        if self.address:
            if not sequential:
                _libc().madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(self.length), _MADV_RANDOM)
            buffer: Any = (ctypes.c_uint8 * self.length).from_address(self.address)
            weakref.finalize(buffer, _posix_unmap, self.address, self.length).atexit = False
            self.bytes: NDArray[np.uint8] = np.frombuffer(buffer, dtype=np.uint8)
        else:
            self.length = length
            self.bytes = np.frombuffer(mmap.mmap(fd, length, access=mmap.ACCESS_READ), dtype=np.uint8)
            self.address = self.bytes.ctypes.data
        self.bytes.flags.writeable = False

    def will_need(self, start: int, length: int) -> None:
        """Ask the system to read these bytes now, in the background."""
        if not WINDOWS and self.length > start + length:
            first = start - start % mmap.PAGESIZE
            _libc().madvise(
                ctypes.c_void_p(self.address + first), ctypes.c_size_t(start + length - first), _MADV_WILLNEED
            )


_MADV_RANDOM = 1
_MADV_WILLNEED = 3
_PROT_READ = 1
_MAP_SHARED = 1


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _posix_map(fd: int, length: int) -> int:
    """The address of a new map, or 0 where none could be had (a limit on address space, say)."""
    try:
        call = _libc().mmap
    except (OSError, AttributeError):
        return 0
    call.restype = ctypes.c_void_p
    call.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    address = call(None, length, _PROT_READ, _MAP_SHARED, fd, 0)
    return 0 if address in (None, ctypes.c_void_p(-1).value) else int(address)


def _posix_unmap(address: int, length: int) -> None:
    _libc().munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))


def try_lock(fd: int) -> bool:
    """Take the writer's lock on an open file if nobody has it; it goes with the descriptor's last holder.

    The data file itself carries it, and no lock file: LMDB's locks on its lock file belong to the
    process and would be dropped by closing any other descriptor of that file.
    """
    if WINDOWS:
        import msvcrt

        try:
            os.lseek(fd, _WINDOWS_LOCK_BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


# Far behind any data: Windows' locks are mandatory for the bytes they cover.
_WINDOWS_LOCK_BYTE = 0x7FFF_FFFF_0000


def lock(fd: int, timeout: float | None) -> bool:
    """Wait for the writer's lock; False when the time is over."""
    end = None if timeout is None else time.monotonic() + timeout
    pause = 0.0005
    while not try_lock(fd):
        left = pause if end is None else end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        # Short enough to catch the gap between two writes of somebody who does nothing else.
        pause = min(pause * 1.2, 0.002)
    return True


def unlock(fd: int) -> None:
    if WINDOWS:
        import msvcrt

        os.lseek(fd, _WINDOWS_LOCK_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        return
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_UN)


def open_shared(path: str) -> int:
    """A read-only descriptor that child programs don't inherit."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))


def sync_folder(path: str) -> None:
    """Make a rename in this folder last through a power cut; Windows does so by itself."""
    if WINDOWS:
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked_folder(path: str) -> Iterator[None]:
    """One process at a time names new files in this folder, where folders can be locked."""
    if WINDOWS:
        yield
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        lock(fd, 10.0)
        yield
    finally:
        os.close(fd)


def renew_lock_file(path: str) -> None:
    """Put an empty lock file in the place of LMDB's; whoever opens the collection first fills it.

    It is exchanged and not deleted, so that at no moment a reader finds none to register in.
    """
    folder, name = os.path.split(path)
    fresh = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.new")
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
    try:
        os.replace(fresh, path + "-lock")
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def remove_lock_file(path: str) -> None:
    """Take away the lock file of a collection that is no more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + "-lock")


def publish_new(temporary: str, path: str) -> None:
    """Give a finished file its name; FileExistsError if somebody else was first."""
    if WINDOWS:
        os.rename(temporary, path)
        return
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system: the check and the rename leave a gap of microseconds.
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(temporary, path)
        return
    # It has its name; a second one that stays is cleared by whoever writes beside it next.
    with contextlib.suppress(OSError):
        os.unlink(temporary)


def resident_bytes() -> int | None:
    """Memory of this process that is not the page cache, where the system tells."""
    try:
        with open("/proc/self/statm") as statm:
            fields = statm.read().split()
    except OSError:
        return None
    return (int(fields[1]) - int(fields[2])) * mmap.PAGESIZE


def give_back_memory() -> None:
    """Let the C library return to the system what was freed, where it can be asked to: it keeps much of it."""
    if not WINDOWS:
        with contextlib.suppress(AttributeError, OSError):
            _libc().malloc_trim(0)
