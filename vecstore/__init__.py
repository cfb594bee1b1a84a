"""The SQLite of vectors: a serverless, embedded, on-disk vector store.

>>> import vecstore
>>> with vecstore.open("photos.vec", dim=3) as photos:
...     photos.add(["a", "b"], [[1, 0, 0], [0, 1, 0]], [{"year": 2020}, {"year": 2021}])
...     photos.search([1, 0.1, 0], k=1).ids
2
['a']
"""

from vecstore.aopening import aopen
from vecstore.collection import Collection
from vecstore.errors import (
    ClosedError,
    CollectionExistsError,
    CollectionNotFoundError,
    CorruptionError,
    DeviceError,
    DimensionError,
    DuplicateIdError,
    ForkError,
    FormatVersionError,
    InvalidArgumentError,
    InvalidFilterError,
    InvalidIdError,
    InvalidMetadataError,
    InvalidVectorError,
    LockedError,
    MissingPackageError,
    NotACollectionError,
    ReadOnlyError,
    RecordNotFoundError,
    SettingsMismatchError,
    StorageError,
    StorageFullError,
    VecstoreError,
)
from vecstore.opening import open
from vecstore.types import Hit, Hits, HitsBatch, Neighbours, Pair, Record, Records, VerifyReport

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "Collection",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "CorruptionError",
    "DeviceError",
    "DimensionError",
    "DuplicateIdError",
    "ForkError",
    "FormatVersionError",
    "Hit",
    "Hits",
    "HitsBatch",
    "InvalidArgumentError",
    "InvalidFilterError",
    "InvalidIdError",
    "InvalidMetadataError",
    "InvalidVectorError",
    "LockedError",
    "MissingPackageError",
    "Neighbours",
    "NotACollectionError",
    "Pair",
    "ReadOnlyError",
    "Record",
    "RecordNotFoundError",
    "Records",
    "SettingsMismatchError",
    "StorageError",
    "StorageFullError",
    "VecstoreError",
    "VerifyReport",
    "__version__",
    "aopen",
    "open",
]
