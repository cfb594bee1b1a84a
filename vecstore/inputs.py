"""The door: what a caller hands in is checked and brought into one form here, before anything is written."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.config import DEFAULT_K, MAX_ID_BYTES, MAX_METADATA_BYTES, MAX_METADATA_DEPTH, Settings
from vecstore.errors import (
    DimensionError,
    DuplicateIdError,
    InvalidArgumentError,
    InvalidIdError,
    InvalidMetadataError,
    InvalidVectorError,
)
from vecstore.kernels import dispatch
from vecstore.query.instants import from_numpy
from vecstore.storage.packed import Packed
from vecstore.types import Id

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1
_DTYPES = {"float32": np.float32, "float16": np.float16, "uint8": np.uint8, "int8": np.int8}

# -- ids


def is_single(ids: object) -> bool:
    """Whether this is one id, and no sequence of them."""
    return isinstance(ids, (str, int, np.integer)) or (isinstance(ids, np.ndarray) and ids.ndim == 0)


def check_ids(ids: object, *, unique: bool = False) -> list[Id]:
    """A list of str and int.

    >>> check_ids(["a", 7])
    ['a', 7]
    """
    found = _listed(ids)
    kinds = set(map(type, found))
    if not kinds <= {str, int}:
        found = [_plain(value) for value in found]
        kinds = set(map(type, found))
    if str in kinds:
        _check_texts([value for value in found if type(value) is str] if int in kinds else found)
    if int in kinds:
        whole = [value for value in found if type(value) is int] if str in kinds else found
        if min(whole) < _INT_MIN or max(whole) > _INT_MAX:
            worst = next(value for value in whole if not _INT_MIN <= value <= _INT_MAX)
            raise InvalidIdError(
                f"an integer id must fit 64 bits with its sign, and {worst} does not: use a str"
            )
    if unique:
        check_unique(found)
    return found


def check_unique(found: list[Id]) -> None:
    """Raise DuplicateIdError where an id comes twice."""
    if len(set(found)) != len(found):
        seen: set[Id] = set()
        twice = next(value for value in found if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise DuplicateIdError(f"the id {_short(twice)} stands twice in one call: each id may come once")


def _listed(ids: object) -> list[Any]:
    if is_single(ids):
        return [ids]
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1:
            raise InvalidIdError(f"ids must be one-dimensional, not of shape {ids.shape}")
        if ids.dtype.kind not in "iuUO":
            raise InvalidIdError(f"an array of ids must hold integers or texts, not {ids.dtype}")
        return list(ids.tolist())
    if isinstance(ids, (bytes, Mapping)) or not isinstance(ids, Iterable):
        raise InvalidIdError(f"ids must be a str, an int, or a sequence of them, not {type(ids).__name__}")
    return list(ids)


def _plain(value: object) -> Id:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (str, int, np.integer)):
        raise InvalidIdError(f"an id must be a str or an int, not {type(value).__name__} ({_short(value)})")
    return str(value) if isinstance(value, str) else int(value)


def _check_texts(texts: list[Any]) -> None:
    if min(map(len, texts)) == 0:
        raise InvalidIdError("an id must not be the empty text")
    longest = max(map(len, texts))
    if longest * 4 > MAX_ID_BYTES or not all(map(str.isascii, texts)):
        for text in texts:
            try:
                length = len(text.encode()) if len(text) <= MAX_ID_BYTES else len(text)
            except UnicodeEncodeError:
                raise InvalidIdError(
                    f"the id {_short(text)} is not valid Unicode and cannot be stored"
                ) from None
            if length > MAX_ID_BYTES:
                raise InvalidIdError(
                    f"an id may take {MAX_ID_BYTES} bytes of UTF-8, and {_short(text)} takes {length}: "
                    "use a hash of it, and keep the text in metadata"
                )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# -- vectors


def check_vectors(vectors: object, settings: Settings, *, single: bool) -> NDArray[np.uint8]:
    """Rows as bytes, (n, row_bytes), from anything that NumPy takes."""
    array = _as_array(vectors)
    if settings.dtype == "binary":
        return _packed_bits(array, settings, single=single)
    array = _rows(array, settings.dim, single=single)
    target = np.dtype(_DTYPES[settings.dtype])
    if settings.dtype in ("uint8", "int8"):
        _check_whole(array, settings.dtype)
        found = np.ascontiguousarray(array, dtype=target)
    else:
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(array, dtype=target)
        _check_finite(found, array)
    if settings.metric == "cosine":
        _check_not_zero(found)
    return found.view(np.uint8).reshape(len(found), settings.row_bytes)


def check_queries(vectors: object, settings: Settings) -> tuple[NDArray[Any], bool]:
    """(queries, whether it was a single one): float32, or packed bits; a query need not fit the dtype."""
    if (
        type(vectors) is np.ndarray
        and vectors.dtype == np.float32
        and vectors.shape == (settings.dim,)
        and settings.dtype != "binary"
        # Nothing infinite or NaN has a finite square, and `vdot` warns of none.
        and 0 < np.vdot(vectors, vectors) < np.inf
    ):
        return np.ascontiguousarray(vectors).reshape(1, -1), True
    array = _as_array(vectors)
    single = array.ndim == 1
    if settings.dtype == "binary":
        return _packed_bits(array, settings, single=single), single
    array = _rows(array, settings.dim, single=single)
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array, dtype=np.float32)
    _check_finite(found, array)
    if settings.metric == "cosine":
        _check_not_zero(found)
    return found, single


def _as_array(vectors: object) -> NDArray[Any]:
    if hasattr(vectors, "detach"):  # a torch tensor, maybe on a device and with a gradient
        tensor: Any = vectors.detach().cpu()
        vectors = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    try:
        array = np.asarray(vectors)
    except (ValueError, TypeError) as error:
        raise DimensionError(f"vectors must form one rectangular array of numbers: {error}") from None
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (ValueError, TypeError):
            raise InvalidVectorError(
                "vectors must hold numbers, and these hold other things or differ in length"
            ) from None
    if array.dtype.kind not in "fiub":
        raise InvalidVectorError(f"vectors must hold real numbers, not {array.dtype}")
    return array


def _rows(array: NDArray[Any], dim: int, *, single: bool) -> NDArray[Any]:
    if single and array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim == 1 and array.size == 0:
        return array.reshape(0, dim)
    if array.ndim != 2 or array.shape[1] != dim:
        wanted = f"({dim},) or (1, {dim})" if single else f"(n, {dim})"
        raise DimensionError(f"vectors must have shape {wanted} in this collection, not {array.shape}")
    return array


def _packed_bits(array: NDArray[Any], settings: Settings, *, single: bool) -> NDArray[np.uint8]:
    """Packed bytes as they are (uint8 of dim/8 columns), or one number 0/1 or bool a bit, packed here."""
    if single and array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim == 1 and array.size == 0:
        return np.zeros((0, settings.row_bytes), dtype=np.uint8)
    bits, width = settings.dim, settings.row_bytes
    if array.ndim == 2 and array.shape[1] == width and array.dtype == np.uint8 and (width != bits):
        rows = np.ascontiguousarray(array)
        if bits % 8 and (rows[:, -1] & (0xFF >> bits % 8)).any():
            raise InvalidVectorError(
                f"the last {8 * width - bits} bits of a row lie behind its {bits} bits and must be 0"
            )
        return rows
    if array.ndim == 2 and array.shape[1] == bits:
        if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
            raise InvalidVectorError(
                f"rows of {bits} numbers must hold 0 and 1 alone; packed rows have {width} bytes"
            )
        return np.packbits(array.astype(bool), axis=1)
    raise DimensionError(
        f"binary vectors must have shape (n, {width}) as packed uint8 or (n, {bits}) as 0 and 1, "
        f"not {array.shape} of {array.dtype}"
    )


def _check_finite(found: NDArray[Any], given: NDArray[Any]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(found.sum()):  # nothing infinite or NaN can add up to a number
            return
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        column = int(np.argmin(np.isfinite(found[row])))
        raise InvalidVectorError(
            f"vector {row} holds {given[row, column]} at place {column}, which {found.dtype} cannot hold as a number: "
            "clean the data before it is stored"
        )


def _check_whole(array: NDArray[Any], dtype: str) -> None:
    limits = np.iinfo(dtype)
    if array.dtype == np.dtype(dtype) or array.dtype == np.bool_ or not array.size:
        return
    fits = (array >= limits.min) & (array <= limits.max)
    if array.dtype.kind == "f":
        fits &= np.floor(array) == array
    if not fits.all():
        row, column = (int(place) for place in np.argwhere(~fits)[0])
        raise InvalidVectorError(
            f"vector {row} holds {array[row, column]} at place {column}, and dtype {dtype} takes whole numbers "
            f"from {limits.min} to {limits.max}: scale the vectors, or create the collection with another dtype"
        )


def _check_not_zero(found: NDArray[Any]) -> None:
    some = found.any(axis=1)
    if not some.all():
        raise InvalidVectorError(
            f"vector {int(np.argmin(some))} is all zeros, which has no direction: cosine cannot compare it"
        )


def check_path(path: Any) -> str:
    """The absolute form of a path."""
    try:
        name = os.path.abspath(os.fsdecode(path))
    except (TypeError, ValueError):
        name = "\0"
    if "\0" in name:
        raise InvalidArgumentError(f"path must be a path, not {_short(path)}")
    return name


def check_k(k: object, name: str = "k") -> int:
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise InvalidArgumentError(f"{name} must be a whole number of at least 1, not {k!r}")
    number = int(k.__index__())
    if number < 1:
        raise InvalidArgumentError(f"{name} must be at least 1, not {number}")
    return number


# -- what a search asks


def check_limits(
    k: int | None, radius: float | None, recall: float | None, search_list: int | None
) -> int | None:
    """k, or None where only the radius limits."""
    if recall is not None and not (isinstance(recall, (int, float)) and 0 < recall <= 1):
        raise InvalidArgumentError(f"recall must be above 0 and at most 1, not {recall!r}")
    if search_list is not None:
        check_k(search_list, "search_list")
    if radius is not None and (
        isinstance(radius, bool) or not isinstance(radius, (int, float, np.number)) or math.isnan(radius)
    ):
        raise InvalidArgumentError(f"radius must be a number, not {radius!r}")
    if k is None:
        return None if radius is not None else DEFAULT_K
    return check_k(k)


# -- metadata

_FLAT = {str, int, float, bool, type(None)}
_pack = msgpack.Packer(use_bin_type=True).pack
# From so many records on, kernels are worth importing for them; so many are handed to one at once.
_MANY, _AT_ONCE = 20_000, 1 << 15


def check_metadata(metadata: object, count: int, *, single: bool = False) -> list[dict[str, Any]]:
    """A list of plain dicts, as many as there are ids.

    >>> check_metadata([{"a": np.int64(1)}], 1)
    [{'a': 1}]
    """
    if metadata is None:
        return [{} for _ in range(count)]
    if single and isinstance(metadata, Mapping):
        metadata = [metadata]
    if isinstance(metadata, (str, bytes, Mapping)) or not isinstance(metadata, Iterable):
        raise InvalidMetadataError(
            f"metadata must be a list of dicts, one a record, not {type(metadata).__name__}"
        )
    found: list[Any] = list(metadata)
    if len(found) != count:
        raise InvalidMetadataError(f"{count} ids need {count} dicts of metadata, and {len(found)} came")
    if not found:
        return found
    if set(map(type, found)) == {dict}:
        # The common case, at C speed: flat dicts of plain values need no walk.
        keys = set().union(*found)
        if (
            set(map(type, keys)) <= {str}
            and set(map(type, chain.from_iterable(map(dict.values, found)))) <= _FLAT
        ):
            return found
    return [_clean_dict({} if item is None else item, 0) for item in found]


def _clean_dict(item: object, depth: int) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise InvalidMetadataError(f"metadata must be a dict, not {type(item).__name__} ({_short(item)})")
    cleaned = {}
    for key, value in item.items():
        if not isinstance(key, str):
            raise InvalidMetadataError(
                f"a key of metadata must be a str, not {type(key).__name__} ({_short(key)})"
            )
        cleaned[str(key)] = _clean(value, depth + 1)
    return cleaned


def _clean(value: object, depth: int) -> object:
    if type(value) in _FLAT:
        return value
    if depth > MAX_METADATA_DEPTH:
        raise InvalidMetadataError(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")
    if isinstance(value, Mapping):
        return _clean_dict(value, depth)
    if isinstance(value, (list, tuple)):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, np.ndarray):
        return _clean(list(value) if value.dtype.kind == "M" else value.tolist(), depth + 1)
    if isinstance(value, np.datetime64):
        try:
            value = from_numpy(value)
        except ValueError as error:
            raise InvalidMetadataError(f"metadata cannot be stored: {error}") from None
    if value is None:
        return None
    if isinstance(value, np.generic):
        return _clean(value.item(), depth + 1)
    if isinstance(value, datetime.date):
        # What pandas has for no date at all equals nothing, itself included.
        return value.isoformat() if value == value else None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise InvalidMetadataError(
        f"metadata takes None, bool, int, float, str, lists and dicts, not {type(value).__name__} ({_short(value)})"
    )


def pack(ids: Sequence[Id], metadata: object, *, single: bool) -> Packed:
    """Checked metadata with its ids, as the file keeps them.

    >>> pack([1, 2], [{"a": 1}, None], single=False).records()
    [b'\\x81\\xa1a\\x01', b'\\x80']
    """
    if len(ids) >= _MANY and type(metadata) is list and len(metadata) == len(ids):
        packed = _packed_at_once(ids, metadata)
        if packed is not None:
            return packed
    return Packed.of(pack_records(ids, check_metadata(metadata, len(ids), single=single)))


def _packed_at_once(ids: Sequence[Id], metadata: list[Any]) -> Packed | None:
    """The common case: metadata that needs no change. None where something is to be looked at one by one."""
    kinds = set(map(type, ids))
    if len(kinds) > 1:
        return None
    kernels = dispatch.packing_kernels(many=True)
    assert kernels is not None
    # Its types are exact, so that all which is packed is what would be read back, up to what the kernel looks at.
    pack = msgpack.Packer(use_bin_type=True, strict_types=True).pack
    parts, ends, total = [], [], 0
    for start in range(0, len(ids), _AT_ONCE):
        count = min(_AT_ONCE, len(ids) - start)
        try:
            texts = pack(ids[start : start + count]) if kinds == {str} else b""
            maps = pack(metadata[start : start + count])
        except (ValueError, TypeError, OverflowError):
            return None
        data = np.empty(len(texts) + len(maps) + count, dtype=np.uint8)
        part = np.empty(count, dtype=np.int64)
        head = 1 if count < 16 else 3 if count < 1 << 16 else 5
        used = kernels.join_records()(
            np.frombuffer(texts, np.uint8), head, np.frombuffer(maps, np.uint8), head, data, part
        )
        if used < 0:
            return None
        parts.append(data[:used])
        ends.append(part + total)
        total += used
    packed = Packed(np.concatenate(parts), np.concatenate(ends))
    return packed if int(packed.lengths.max()) <= MAX_METADATA_BYTES else None


def pack_records(ids: Sequence[Id], metadata: Sequence[dict[str, Any]]) -> list[bytes]:
    """Records as the file keeps them: a text id with its metadata, or the metadata of an integer id alone."""
    try:
        kinds = set(map(type, ids))
        # Pairs from zip are reused, so that a million of them don't set off the garbage collector.
        if kinds == {str}:
            packed = list(map(_pack, zip(ids, metadata, strict=True)))
        elif kinds == {int}:
            packed = list(map(_pack, metadata))
        else:
            packed = [
                _pack((id_, item)) if type(id_) is str else _pack(item)
                for id_, item in zip(ids, metadata, strict=True)
            ]
    except OverflowError:
        raise InvalidMetadataError("an integer in metadata must fit 64 bits: use a float or a str") from None
    except UnicodeEncodeError:
        raise InvalidMetadataError("a text in metadata is not valid Unicode and cannot be stored") from None
    except (ValueError, TypeError) as error:
        raise InvalidMetadataError(f"metadata cannot be stored: {error}") from None
    if packed and max(map(len, packed)) > MAX_METADATA_BYTES:
        raise InvalidMetadataError(
            f"the metadata of one record may take {MAX_METADATA_BYTES >> 20} MiB: keep larger things in files of their own"
        )
    return packed
