"""Every setting and every default, each in one place with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vecstore.errors import InvalidArgumentError

# The file's format, an integer of its own: it moves when a reader of the old one would misread the new.
FORMAT_VERSION = 5

METRICS_BY_DTYPE = {
    "float32": ("cosine", "l2", "ip"),
    "float16": ("cosine", "l2", "ip"),
    "uint8": ("cosine", "l2", "ip"),
    "int8": ("cosine", "l2", "ip"),
    "binary": ("hamming", "jaccard"),
}
DTYPES = tuple(METRICS_BY_DTYPE)
METRICS = ("cosine", "l2", "ip", "hamming", "jaccard")
ITEM_BYTES = {"float32": 4, "float16": 2, "uint8": 1, "int8": 1}

# A row never exceeds 256 KiB, so a block stays small enough to be read and written in one piece.
MAX_DIM = 65_536
MAX_BINARY_DIM = 1_048_576

# Room for the longest file path as an id, and nothing that makes an index of ids grow without bound.
MAX_ID_BYTES = 4_096
# A thumbnail or a page of text fits; a film belongs into a file of its own.
MAX_METADATA_BYTES = 16 << 20
# Deeper than anybody writes by hand, far below what would exhaust a C stack.
MAX_METADATA_DEPTH = 64

# Dead rows and dead record bytes stay below this share of the whole after every commit. At a quarter a
# purge moves at most three live rows for each dead one it drops, so deleting stays cheap on average.
DEAD_SHARE = 0.25
# Collections of a few blocks are not worth purging.
DEAD_BLOCKS_FLOOR = 4

# A large write is staged in commits of about this size, so that its memory is bounded.
STAGE_BYTES = 64 << 20

# Below this many records, or bytes of their vectors, every search is a scan: exact, and done in a millisecond,
# while building a graph would pay only after thousands of searches.
GRAPH_FROM = 10_000
GRAPH_FROM_BYTES = 20_000_000
# A byte of packed bits takes as long as so many of numbers.
BITS_BYTE = 4
# The graph is built anew when this share of the records is not in it: linking many at once takes three times as long a record.
WORN_SHARE = 0.33
# Or when so many of its nodes are dead that the sweep, which gives them to new records, has too little use for them.
GONE_SHARE = 0.6
# From so many pending records on, or rows that the sweep owes, a commit links and sweeps; and it does no more than this.
LINKED_FROM, LINKED_AT_ONCE = 256, 2_000
# But where so many wait, up to so many are linked together: each costs less, and none is compared with every query.
MANY_FROM, LINKED_MANY = 8_000, 64_000
SWEPT_FROM, SWEPT_AT_ONCE = 40_000, 40_000
# A read that began so many commits ago is warned of.
OLD_SNAPSHOT = 1_000
# When so many of its records have come or gone, how far walks must go is measured again.
RECALIBRATED_SHARE = 0.1
# More answers than this are scanned for: a pool so long is no quicker.
MOST_WALKED = 2_000
# Where fewer of a graph's nodes than this share are live, a walk meets little but what is gone.
LEAST_LIVE = 0.25
# Vectors that a codec is trained on, and those that are searched for to calibrate.
SAMPLE = 50_000
HELD_OUT = 400
# They are searched for with so many answers as well as with a few: what it takes lies between.
MANY = 100
DRIFT_SAMPLE = 600
# Of these a few are searched for among the others, to see which codes are enough.
CHOICE_SAMPLE, CHOICE_QUERIES = 10_000, 100

# Indexes of fields that a file may have, and how many of them are made without being asked for.
MOST_INDEXES, INDEXED_BY_ITSELF = 16, 8
# A field is indexed by itself once so many openings that write have read it out of all of so many records at least, for their
# filters. Such a reading takes 0.6 µs a record, making the index 1 µs, and each record that is written from then on 0.8 µs:
# with two readings the index would have paid for itself, and each later opening pays for three quarters of all records anew.
# Of fewer records a reading takes 30 ms at most.
INDEXED_AFTER, INDEXED_FROM = 2, 50_000
# Slots that a commit adds to an index that is being made.
INDEXED_AT_ONCE = 50_000
# Fewer values are sooner read out of their records than out of the index.
READ_INDEXED_FROM = 4_096
# The name of a field that has an index takes so many bytes at most: the header holds it.
MAX_FIELD_BYTES = 256

# All pairs within a distance are asked for to find duplicates, where one missed is one left.
PAIRS_RECALL = 0.99

# Slots in LMDB's lock file, one a concurrent call: 64 bytes each.
MAX_READERS = 1_024

# How long a writer waits for another one before LockedError; None waits for ever.
LOCK_TIMEOUT = 60.0

DEFAULT_METRIC = "cosine"
DEFAULT_DTYPE = "float32"
DEFAULT_K = 10


@dataclass(frozen=True)
class Settings:
    """What is fixed when a collection is created.

    >>> Settings(dim=3, metric="l2", dtype="float32").row_bytes
    12
    """

    dim: int
    metric: str
    dtype: str

    @property
    def row_bytes(self) -> int:
        return (self.dim + 7) // 8 if self.dtype == "binary" else self.dim * ITEM_BYTES[self.dtype]


def check_settings(dim: object, metric: object, dtype: object) -> Settings:
    """The settings of a new collection, or an error that says what would be right.

    >>> check_settings(128, "l2", "uint8")
    Settings(dim=128, metric='l2', dtype='uint8')
    """
    if not isinstance(dtype, str) or dtype not in METRICS_BY_DTYPE:
        raise InvalidArgumentError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if not isinstance(metric, str) or metric not in METRICS:
        raise InvalidArgumentError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
    if metric not in METRICS_BY_DTYPE[dtype]:
        fitting = " or ".join(METRICS_BY_DTYPE[dtype])
        raise InvalidArgumentError(
            f"metric {metric!r} does not go with dtype {dtype!r}: take {fitting}"
            + (', or dtype="binary"' if metric in METRICS_BY_DTYPE["binary"] else "")
        )
    most = MAX_BINARY_DIM if dtype == "binary" else MAX_DIM
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        raise InvalidArgumentError(f"dim must be a whole number from 1 to {most}, not {dim!r}")
    number = dim.__index__()
    if not 1 <= number <= most:
        raise InvalidArgumentError(f"dim must be from 1 to {most} for dtype {dtype!r}, not {number}")
    return Settings(number, metric, dtype)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_memory(memory: str | int | None) -> int | None:
    """A budget in bytes.

    >>> parse_memory("512MB")
    512000000
    """
    if memory is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(memory))
    if isinstance(memory, bool) or match is None or match[2].upper() not in _UNITS:
        raise InvalidArgumentError(f'memory must read like "512MB" or "2GiB", not {memory!r}')
    budget = int(float(match[1]) * _UNITS[match[2].upper()])
    if budget < 16_000_000:
        raise InvalidArgumentError(f"memory must be 16 MB at least, not {memory!r}")
    return budget
