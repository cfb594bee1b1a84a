"""Where compiled kernels are kept between processes.

Numba keys its cache on the file of the outermost function only, so a change in a helper's file would go
unnoticed after an upgrade; it numbers a function's files, so that two processes which compile it for different
types at once take one for the other's; and it raises where no folder is writable. Here the key covers all kernel
sources, each key has files of its own, and without a folder kernels are compiled anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

_SOURCES = Path(__file__).resolve().parent


@functools.cache
def source_stamp() -> str:
    """A digest of everything that the machine code depends on, besides Numba and the processor."""
    digest = hashlib.sha256()
    others = (_SOURCES.parent / name for name in ("dispatch.py", "reference_codes.py"))
    for path in [*sorted(_SOURCES.glob("*.py")), *others]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _candidates() -> Iterator[Path]:
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / "vecstore-kernels"
    yield _SOURCES / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    with contextlib.suppress(RuntimeError):  # no home
        yield (Path(home) if home else Path.home() / ".cache") / "vecstore" / "kernels"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    yield Path(tempfile.gettempdir()) / f"vecstore-kernels-{user}"


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        facts = folder.stat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):
        return True
    # What lies here is run: nobody else may have put it there.
    return facts.st_uid == os.getuid() and not facts.st_mode & stat.S_IWOTH


@functools.cache
def folder() -> Path | None:
    """The first folder of ours that takes files, or None."""
    return next((path for path in _candidates() if _usable(path)), None)


@functools.cache
def announce() -> None:
    """Say once why the first call takes so long, where somebody sees it."""
    message = "vecstore compiles its kernels for this processor: once, for some 20 seconds"
    logging.getLogger("vecstore").info(message)
    if sys.stderr is not None and sys.stderr.isatty():
        print(message, file=sys.stderr)


class _Locator(_CacheLocator):  # type: ignore[misc, unused-ignore]
    def __init__(self, where: Path, line: int) -> None:
        self._where, self._line = where, line

    def get_cache_path(self) -> str:
        return str(self._where)

    def get_source_stamp(self) -> str:
        return source_stamp()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator | None:
        where = folder()
        return None if where is None else cls(where, py_func.__code__.co_firstlineno)


class _Impl(CompileResultCacheImpl):  # type: ignore[misc, unused-ignore]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Files:
    """What a function was compiled to, in files of its own for each key."""

    def __init__(self, where: str, name: str) -> None:
        self._where, self._name = where, name

    def load(self, key: Any) -> Any:
        return self._file(key).load(key)

    def save(self, key: Any, data: Any) -> None:
        self._file(key).save(key, data)

    def _file(self, key: Any) -> Any:
        digest = hashlib.sha256(f"{source_stamp()} {key!r}".encode()).hexdigest()
        return IndexDataCacheFile(self._where, f"{self._name}.{digest[:20]}", source_stamp())


class _Cache(FunctionCache):  # type: ignore[misc, unused-ignore]
    """A cache that is never a reason to fail: a full disk or a damaged file means compiling."""

    _impl_class = _Impl

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = None
        with contextlib.suppress(Exception):
            found = super().load_overload(sig, target_context)
        if found is None:
            announce()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def keep_on_disk(dispatcher: Any) -> None:
    if folder() is not None:
        dispatcher._cache = _Cache(dispatcher.py_func)
