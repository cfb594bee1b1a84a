"""One field's values out of many packed records, each distinct text, list and dict unpacked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.storage.fetch import Fetched
from vecstore.storage.values import Values, located


@dataclass(frozen=True)
class Picked:
    """The values of one field, record by record."""

    # As ``storage.values`` numbers them.
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
    values = located(fetched.packed, fetched.ends, fetched.text, field)
    if values is None:
        return None
    distinct = unpack(values)
    return None if distinct is None else Picked(values.tags, values.numbers, distinct, values.which)


def unpack(values: Values) -> list[Any] | None:
    """The distinct values as they are; None where one cannot be read."""
    try:
        return [msgpack.unpackb(packed) for packed in values.distinct]
    except (ValueError, msgpack.UnpackException):
        return None
