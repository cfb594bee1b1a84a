"""Resizing by area: every pixel counts by how much of it the new one covers.

All sums are of whole numbers, so the result is the same on every machine and with every library.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Moves when a result would: a part of the models' fingerprints.
VERSION = 1
# From so many rows for each new one on, adding them up one by one is quicker.
_MANY = 8


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture (h, w, channels) at another size, its sides scaled on their own; halves round up.

    >>> resize(np.array([[[10], [20], [31]]], np.uint8), 1, 1).tolist()
    [[[20]]]
    """
    tall, wide, channels = picture.shape
    if (tall, wide) == (height, width):
        return picture
    rows = _covered(picture.reshape(tall, wide * channels), height, 255)
    # The second pass runs along rows too: turned so that what it adds up lies in rows.
    turned = np.ascontiguousarray(rows.reshape(height, wide, channels).transpose(1, 0, 2))
    sums = _covered(turned.reshape(wide, height * channels), width, 255 * tall).astype(np.int64)
    area = tall * wide
    small = ((2 * sums + area) // (2 * area)).astype(np.uint8)
    return np.ascontiguousarray(small.reshape(width, height, channels).transpose(1, 0, 2))


def _covered(rows: NDArray[Any], new: int, most: int) -> NDArray[Any]:
    """Rows, of numbers up to `most`, added up into `new` of them, each counting `new` times: what is cut counts in parts."""
    old = len(rows)
    # Half the bits take half the time, where the largest sum has room in them.
    kind = np.int32 if most * old * new < 1 << 31 else np.int64
    whole, part = np.divmod(np.arange(new + 1) * old, new)
    cut = rows[np.minimum(whole, old - 1)].astype(kind)
    cut *= part[:, None].astype(kind)
    start, count = whole[:-1], np.diff(whole)
    sums = np.zeros((new, rows.shape[1]), kind)
    if old < _MANY * new:
        # All first rows at once, then all second ones, as far as there are any.
        for step in range(int(count.max())):
            there = np.flatnonzero(count > step)
            if len(there) == new:
                sums += rows[start + step]
            else:
                sums[there] += rows[start[there] + step]
    else:
        # The same sums, a new row at a time: of a large picture, what is added up stays in the cache. Sums of bytes take half
        # the time in 16 bits, as long as they have room there.
        small = np.uint16 if rows.dtype == np.uint8 and count.max() <= 257 else kind
        places = whole.tolist()
        for place in range(new):
            sums[place] = np.add.reduce(rows[places[place] : places[place + 1]], axis=0, dtype=small)
    sums *= kind(new)
    sums += cut[1:]
    sums -= cut[:-1]
    return sums
