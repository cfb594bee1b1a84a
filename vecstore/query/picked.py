"""One field's values out of many packed records, each distinct text, list and dict unpacked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import dispatch
from vecstore.storage.fetch import Fetched


@dataclass(frozen=True)
class Picked:
    """The values of one field, record by record."""

    # As ``kernels.cpu.pick`` numbers them.
    kinds: NDArray[np.uint8]
    # NaN where there is no number.
    numbers: NDArray[np.float64]
    # The distinct values that are no numbers, bools or null, and which of them each record has; -1: none.
    distinct: list[Any]
    which: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> Picked:
        """Those of some records."""
        if places.size == self.kinds.size:
            return self
        return Picked(self.kinds[places], self.numbers[places], self.distinct, self.which[places])


def pick(fetched: Fetched, field: str) -> Picked | None:
    """None where a record is none, and the plain path is to say so."""
    kernels = dispatch.cpu().pick
    count = fetched.ends.size
    parts = [field, *(field.split(".") if "." in field else ())]
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    key = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    key_ends = np.cumsum([len(part) for part in encoded])
    ids = np.zeros(count, dtype=np.uint8) if fetched.text is None else fetched.text
    kinds, numbers = np.empty(count, dtype=np.uint8), np.empty(count)
    starts, lengths = np.zeros((2, count), dtype=np.int64)
    hashes = np.zeros(count, dtype=np.uint64)
    bad = kernels.pick()(
        fetched.packed, fetched.ends, ids, key, key_ends, kinds, numbers, starts, lengths, hashes
    )
    if bad >= 0:
        return None
    which = np.full(count, -1, dtype=np.int64)
    held = np.flatnonzero(kinds >= kernels.TEXT)
    if not held.size:
        return Picked(kinds, numbers, [], which)
    starts, lengths = starts[held], lengths[held]
    _, firsts, inverse = np.unique(hashes[held], return_index=True, return_inverse=True)
    if not kernels.agree()(fetched.packed, starts, lengths, firsts[inverse]):
        return None  # two values of one hash
    which[held] = inverse
    view = memoryview(fetched.packed)  # type: ignore[arg-type]
    try:
        places = zip(starts[firsts].tolist(), lengths[firsts].tolist(), strict=True)
        distinct = [msgpack.unpackb(view[start : start + length]) for start, length in places]
    except (ValueError, msgpack.UnpackException):
        return None
    return Picked(kinds, numbers, distinct, which)
