"""One field of many records, out of their packed bytes: what each value is, and the distinct ones still packed.

A kernel finds a field in the bytes where there are many, or where Numba is loaded. The plain path unpacks every record;
it is the kernel's oracle, and says what is wrong with a record that cannot be read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.storage import keys
from vecstore.storage.blocks import Bytes, damaged
from vecstore.storage.state import Numbers

# What a value is, as ``kernels.cpu.pick`` numbers it. LARGE is a whole number that a float64 may not hold.
ABSENT, NULL, FALSE, TRUE, NUMBER, TEXT, OTHER, LARGE = range(8)

_EXACT = 1 << 53
# The hashes of values up to so many bytes are kept: what comes in one batch comes in the next.
_SHORT = 64
# So many values at once are worth importing kernels for; and fewer records are unpacked sooner than handed to one.
_MANY, _FEW = 100_000, 16


class Missing:
    """The type of `MISSING`, which stands for a field that a record does not have."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"  # copies and pickles are the one object


MISSING: Final = Missing()


@dataclass(frozen=True)
class Values:
    """One field's values, record by record."""

    tags: NDArray[np.uint8]
    # NaN where there is no number.
    numbers: NDArray[np.float64]
    # The distinct values that are no numbers, bools or null, packed; and which of them each record has; -1: none.
    distinct: list[bytes]
    which: Numbers

    def words(self, key: bytes) -> NDArray[np.uint64]:
        """A number's bits, the keyed hash of what is in ``distinct``, else 0."""
        words: NDArray[np.uint64] = np.where(self.tags == NUMBER, self.numbers.view(np.uint64), np.uint64(0))
        if self.distinct:
            hashes = np.array([_hash(packed, key) for packed in self.distinct], dtype=np.uint64)
            held = np.flatnonzero(self.which >= 0)
            words[held] = hashes[self.which[held]]
        return words


def _hash(packed: bytes, key: bytes) -> int:
    return _short_hash(packed, key) if len(packed) <= _SHORT else _short_hash.__wrapped__(packed, key)


@functools.lru_cache(1 << 14)
def _short_hash(packed: bytes, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8, key=key).digest(), "little")


def extract(metadata: Mapping[str, object] | None, field: str) -> object:
    """The value of `field`, or `MISSING`: the literal key first, then the dotted path.

    >>> extract({"exif": {"iso": 100}}, "exif.iso"), extract({"exif.iso": 200, "exif": {}}, "exif.iso")
    (100, 200)
    >>> extract(None, "exif.iso")
    MISSING
    """
    if metadata is None:
        return MISSING
    if field in metadata:
        return metadata[field]
    if "." not in field:
        return MISSING
    value: object = metadata
    for part in field.split("."):
        if not isinstance(value, (dict, Mapping)) or part not in value:
            return MISSING
        value = value[part]
    return value


def unpacked(packed: bytes | memoryview, mark: int, is_text: bool) -> tuple[str | int, dict[str, Any]]:
    """The id and the metadata that a record's bytes stand for."""
    try:
        content = msgpack.unpackb(packed)
        id_, metadata = (content[0], content[1]) if is_text else (mark, content)
    except (ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException) as error:
        raise damaged(keys.RECORDS, 0, f"a record in it cannot be read ({error})") from None
    if type(metadata) is not dict or (is_text and type(id_) is not str):
        raise damaged(keys.RECORDS, 0, "a record in it is not a record")
    return id_, metadata


def read(packed: Bytes, ends: Numbers, text: Bytes | None, fields: Sequence[str]) -> Iterator[Values]:
    """These fields of the records that lie one behind the other; ``text`` is 1 where an id stands before the metadata."""
    loaded = dispatch.fetch_kernels() is not None and ends.size >= _FEW
    by_kernel = loaded or ends.size * len(fields) >= _MANY
    metadata: list[dict[str, Any]] | None = None
    sound = False
    for field in fields:
        values = located(packed, ends, text, field, sound=sound) if by_kernel else None
        sound = values is not None
        if values is None:
            metadata = _metadata(packed, ends, text) if metadata is None else metadata
            values = plainly(metadata, field)
        yield values


def _metadata(packed: Bytes, ends: Numbers, text: Bytes | None) -> list[dict[str, Any]]:
    view = memoryview(packed)  # type: ignore[arg-type]
    texts = [0] * ends.size if text is None else text.tolist()
    begins = (ends - np.diff(ends, prepend=0)).tolist()
    places = zip(begins, ends.tolist(), texts, strict=True)
    return [unpacked(view[begin:end], 0, is_text > 0)[1] for begin, end, is_text in places]


def plainly(metadata: Sequence[Mapping[str, object]], field: str) -> Values:
    """As ``read``, of records that are unpacked."""
    count = len(metadata)
    tags, numbers = np.empty(count, dtype=np.uint8), np.full(count, np.nan)
    which = np.full(count, -1, dtype=np.int64)
    distinct: dict[bytes, int] = {}
    for place, item in enumerate(metadata):
        value = extract(item, field)
        tag = tags[place] = _tag(value)
        if tag == NUMBER:
            numbers[place] = value
        elif tag >= TEXT:
            which[place] = distinct.setdefault(_packed(value), len(distinct))
    return Values(tags, numbers, list(distinct), which)


def _tag(value: object) -> int:
    if isinstance(value, Missing):
        return ABSENT
    if value is None:
        return NULL
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, int):
        return NUMBER if -_EXACT < value < _EXACT else LARGE
    if isinstance(value, float):
        return NUMBER
    return TEXT if isinstance(value, str) else OTHER


def _packed(value: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:
        raise damaged(
            keys.RECORDS, 0, f"a record in it has a value that cannot be stored ({error})"
        ) from None
    return packed


def located(
    packed: Bytes, ends: Numbers, text: Bytes | None, field: str, *, sound: bool = False
) -> Values | None:
    """As ``read``, of one field by a kernel; None where a record is none, and the plain path is to say so.

    ``sound`` says that these very records were found to be some before.
    """
    kernels = dispatch.cpu().pick
    count = ends.size
    parts = [field, *(field.split(".") if "." in field else ())]
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    key = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    key_ends = np.cumsum([len(part) for part in encoded])
    ids = np.zeros(count, dtype=np.uint8) if text is None else text
    tags, numbers = np.empty(count, dtype=np.uint8), np.empty(count)
    starts, lengths = np.zeros((2, count), dtype=np.int64)
    hashes = np.zeros(count, dtype=np.uint64)
    if kernels.pick()(packed, ends, ids, sound, key, key_ends, tags, numbers, starts, lengths, hashes) >= 0:
        return None
    which = np.full(count, -1, dtype=np.int64)
    held = np.flatnonzero(tags >= TEXT)
    if not held.size:
        return Values(tags, numbers, [], which)
    starts, lengths = starts[held], lengths[held]
    _, firsts, inverse = np.unique(hashes[held], return_index=True, return_inverse=True)
    if not kernels.agree()(packed, starts, lengths, firsts[inverse]):
        return None  # two values of one hash
    which[held] = inverse
    view = memoryview(packed)  # type: ignore[arg-type]
    places = zip(starts[firsts].tolist(), lengths[firsts].tolist(), strict=True)
    return Values(tags, numbers, [bytes(view[start : start + length]) for start, length in places], which)
