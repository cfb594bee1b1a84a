"""Export to NumPy's files: ``.npz`` with vectors, ids, metadata and settings, ``.npy`` with vectors alone.

Both are written as a stream, and neither ever holds a pickle. In a ``.npz`` texts are JSON in bytes of one
width: ``json.loads(f["metadata"][0])``. Where ids are all integers they are int64.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, Protocol

import numpy as np

from vecstore import Record
from vecstore.cli import ids
from vecstore.cli.output import CommandError

_MOST_PADDED = 64 << 30
_TYPES = {"float32": "<f4", "float16": "<f2", "uint8": "|u1", "int8": "|i1", "binary": "|u1"}


class Lines(Protocol):
    """What takes lines."""

    def write(self, line: bytes, /) -> int: ...


def write_npy(
    records: Iterable[Record], out: IO[bytes], settings: dict[str, Any], beside: Lines
) -> tuple[int, int]:
    """Vectors to ``out``, ids to ``beside``; gives how many records, and how many of them had metadata."""
    written = described = 0
    width, descr = _row(settings)
    out.write(_header(descr, (0, width)))
    for record in records:
        assert record.vector is not None
        out.write(record.vector.astype(descr, copy=False).tobytes())
        beside.write(ids.to_line(record.id).encode() + b"\n")
        written += 1
        described += bool(record.metadata)
    # NumPy pads a header so that a first axis of any length takes the same room.
    out.seek(0)
    out.write(_header(descr, (written, width)))
    return written, described


def write_npz(records: Iterable[Record], out: IO[bytes], settings: dict[str, Any], folder: str) -> int:
    """All of the records; texts wait in temporary files until the longest is known."""
    width, descr = _row(settings)
    with contextlib.ExitStack() as stack:
        rows, keys, texts = (stack.enter_context(tempfile.TemporaryFile(dir=folder or ".")) for _ in range(3))
        written = longest_key = longest_text = 0
        integers = True
        for record in records:
            assert record.vector is not None
            rows.write(record.vector.astype(descr, copy=False).tobytes())
            key, text = (
                json.dumps(record.id).encode(),
                json.dumps(record.metadata, separators=(",", ":")).encode(),
            )
            keys.write(key + b"\n")
            texts.write(text + b"\n")
            longest_key, longest_text = max(longest_key, len(key)), max(longest_text, len(text))
            integers = integers and isinstance(record.id, int)
            written += 1
        if written * longest_text > _MOST_PADDED:
            raise CommandError(
                "metadata differ too much in length for .npz, which gives each the room of the longest: use .jsonl"
            )
        for file in (rows, keys, texts):
            file.seek(0)
        archive = stack.enter_context(zipfile.ZipFile(out, "w"))
        with _entry(archive, "vectors", _header(descr, (written, width)), zipfile.ZIP_STORED) as entry:
            while part := rows.read(1 << 22):
                entry.write(part)
        key_type = "<i8" if integers else f"|S{max(1, longest_key)}"
        with _entry(archive, "ids", _header(key_type, (written,)), zipfile.ZIP_DEFLATED) as entry:
            for line in keys:
                key = line[:-1]
                entry.write(
                    int(key).to_bytes(8, "little", signed=True) if integers else key.ljust(longest_key, b"\0")
                )
        with _entry(
            archive, "metadata", _header(f"|S{max(1, longest_text)}", (written,)), zipfile.ZIP_DEFLATED
        ) as entry:
            for line in texts:
                entry.write(line[:-1].ljust(longest_text, b"\0"))
        text = json.dumps(settings).encode()
        with _entry(archive, "settings", _header(f"|S{len(text)}", ()), zipfile.ZIP_STORED) as entry:
            entry.write(text)
    return written


def _row(settings: dict[str, Any]) -> tuple[int, str]:
    dim, dtype = settings["dim"], settings["dtype"]
    return (dim + 7) // 8 if dtype == "binary" else dim, _TYPES[dtype]


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@contextlib.contextmanager
def _entry(archive: zipfile.ZipFile, name: str, header: bytes, method: int) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = method
    with archive.open(info, "w", force_zip64=True) as entry:
        entry.write(header)
        yield entry
