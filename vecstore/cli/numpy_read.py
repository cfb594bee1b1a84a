"""Import from NumPy's files, in batches; nothing that holds a pickle is read."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vecstore.cli import ids
from vecstore.cli.formats import BATCH_BYTES, BATCH_ROWS, Batch, Source
from vecstore.cli.output import CommandError


@contextlib.contextmanager
def read_npy(name: str, ids_name: str | None) -> Iterator[Source]:
    """Rows of a mapped array, with the ids of a file of lines, or 0, 1, 2 …"""
    try:
        vectors = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandError(f"{name} cannot be read as a .npy file: {error}") from None
    if not isinstance(vectors, np.ndarray):
        raise CommandError(f"{name} is no .npy file")
    _check_matrix(name, vectors.shape, vectors.dtype)
    with contextlib.ExitStack() as stack:
        lines = None if ids_name is None else stack.enter_context(open(ids_name, "rb"))
        yield Source(_npy_batches(name, vectors, ids_name, lines), {})


def _npy_batches(
    name: str, vectors: NDArray[Any], ids_name: str | None, lines: IO[bytes] | None
) -> Iterator[Batch]:
    step = _step(vectors.shape[1] * vectors.itemsize)
    for start in range(0, len(vectors), step):
        part = np.array(vectors[start : start + step])
        if lines is None:
            keys: list[str | int] = list(range(start, start + len(part)))
        else:
            keys = []
            for _, line in zip(range(len(part)), lines, strict=False):
                try:
                    keys.append(ids.from_line(line.decode().rstrip("\r\n")))
                except UnicodeDecodeError:
                    raise CommandError(f"{ids_name}, line {start + len(keys) + 1:,}: not UTF-8") from None
            if len(keys) < len(part):
                raise CommandError(
                    f"{name} has {len(vectors):,} vectors, and {ids_name} {start + len(keys):,} ids"
                )
        yield keys, part, [{} for _ in keys]
    if lines is not None and any(line.strip() for line in lines):
        raise CommandError(f"{ids_name} has more ids than the {len(vectors):,} vectors of {name}")


@contextlib.contextmanager
def read_npz(name: str) -> Iterator[Source]:
    """The arrays ``vectors``, and where they are there ``ids``, ``metadata`` and ``settings``."""
    try:
        with zipfile.ZipFile(name) as archive, contextlib.ExitStack() as stack:
            arrays = {
                entry.removesuffix(".npy"): _Column(
                    name, entry.removesuffix(".npy"), stack.enter_context(archive.open(entry))
                )
                for entry in archive.namelist()
                if entry.endswith(".npy")
            }
            vectors = arrays.get("vectors") or (next(iter(arrays.values())) if len(arrays) == 1 else None)
            if vectors is None:
                raise CommandError(
                    f"{name} needs an array named vectors; it has {', '.join(arrays) or 'none'}"
                )
            _check_matrix(name, vectors.shape, vectors.dtype)
            for other in ("ids", "metadata"):
                if other in arrays and arrays[other].shape != vectors.shape[:1]:
                    raise CommandError(
                        f"{name}: {other} has shape {arrays[other].shape}, for {vectors.shape[0]:,} vectors"
                    )
            settings = _settings(name, arrays["settings"]) if "settings" in arrays else {}
            yield Source(_npz_batches(name, vectors, arrays.get("ids"), arrays.get("metadata")), settings)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise CommandError(f"{name} cannot be read as a .npz file: {error}") from None


class _Column:
    """One array of an archive, read row by row from its beginning."""

    def __init__(self, file: str, name: str, entry: IO[bytes]) -> None:
        self.name, self._file, self._entry = name, file, entry
        self._done = 0
        try:
            version = np.lib.format.read_magic(entry)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, fortran, self.dtype = read(entry)
        except ValueError as error:
            raise CommandError(f"{file}: {name} cannot be read: {error}") from None
        if self.dtype.hasobject:
            raise CommandError(
                f"{file}: {name} holds Python objects, which are not read: save it as numbers or texts"
            )
        self._whole: NDArray[Any] | None = None
        if fortran and len(self.shape) > 1:
            flat = self._take(math.prod(self.shape))
            self._whole = flat.reshape(self.shape[::-1]).T

    def rows(self, count: int) -> NDArray[Any]:
        if self._whole is not None:
            self._done += count
            return self._whole[self._done - count : self._done]
        inner = math.prod(self.shape[1:])
        return self._take(count * inner).reshape(count, *self.shape[1:])

    def _take(self, numbers: int) -> NDArray[Any]:
        wanted = numbers * self.dtype.itemsize
        data = self._entry.read(wanted)
        if len(data) != wanted:
            raise CommandError(f"{self._file}: {self.name} is cut off")
        return np.frombuffer(data, dtype=self.dtype) if wanted else np.zeros(numbers, dtype=self.dtype)


def _npz_batches(name: str, vectors: _Column, keys: _Column | None, texts: _Column | None) -> Iterator[Batch]:
    widest = max(
        vectors.shape[1] * vectors.dtype.itemsize,
        *(column.dtype.itemsize for column in (keys, texts) if column),
        1,
    )
    step = _step(widest)
    for start in range(0, vectors.shape[0], step):
        count = min(step, vectors.shape[0] - start)
        found: list[str | int] = (
            list(range(start, start + count)) if keys is None else _keys(name, keys, count, start)
        )
        metadata = [{} for _ in found] if texts is None else _texts(name, texts, count, start)
        yield found, vectors.rows(count), metadata


def _keys(name: str, column: _Column, count: int, start: int) -> list[str | int]:
    """Integers, plain texts in Unicode arrays, and JSON in arrays of bytes."""
    values = column.rows(count).tolist()
    if column.dtype.kind in "iuU":
        return list(values)
    if column.dtype.kind != "S":
        raise CommandError(f"{name}: ids must be integers or texts, not {column.dtype}")
    return [
        ids.checked(_json(name, "ids", start + row, text), f"{name}, ids[{start + row}]")
        for row, text in enumerate(values)
    ]


def _texts(name: str, column: _Column, count: int, start: int) -> list[dict[str, Any]]:
    if column.dtype.kind not in "SU":
        raise CommandError(f"{name}: metadata must be JSON texts, not {column.dtype}")
    found = []
    for row, text in enumerate(column.rows(count).tolist(), start):
        value = _json(name, "metadata", row, text) if text else {}
        if not isinstance(value, dict):
            raise CommandError(f"{name}, metadata[{row}]: it must be a JSON object")
        found.append(value)
    return found


def _json(name: str, array: str, row: int, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name}, {array}[{row}]: not JSON ({error})") from None


def _settings(name: str, column: _Column) -> dict[str, Any]:
    value = _json(name, "settings", 0, column.rows(1).reshape(-1)[0] if column.shape else column._take(1)[0])
    return (
        {key: value[key] for key in ("dim", "metric", "dtype") if key in value}
        if isinstance(value, dict)
        else {}
    )


def _check_matrix(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if len(shape) != 2 or shape[1] < 1 or dtype.kind not in "fiub":
        raise CommandError(f"{name}: vectors must be a matrix of numbers (n, dim), not {shape} of {dtype}")


def _step(row_bytes: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
