"""Every error that vecstore raises on purpose.

::

    VecstoreError
    ├── InvalidArgumentError   (ValueError)           an option or number that makes no sense
    ├── InvalidIdError         (ValueError, TypeError) an id that is empty, too long, or no str or 64-bit int
    ├── InvalidMetadataError   (ValueError, TypeError) metadata that is not JSON-like, or too large
    ├── DuplicateIdError       (ValueError)           an id is there already, or twice in one call
    ├── DimensionError         (ValueError)           vectors of another shape than the collection's
    ├── InvalidVectorError     (ValueError)           NaN, infinity, out of range, zero under cosine
    ├── InvalidFilterError     (ValueError)           a where-expression that cannot be read
    ├── SettingsMismatchError  (ValueError)           an argument contradicts the file
    ├── CollectionNotFoundError (FileNotFoundError)   no such file or folder
    ├── CollectionExistsError  (FileExistsError)      mode="x", and the file is there
    ├── RecordNotFoundError    (KeyError)             collection[id], update() or search(id=…) of an absent id
    ├── ReadOnlyError          (PermissionError)      a write through mode="r"
    ├── ClosedError            (ValueError)           a call on a closed collection
    ├── CorruptionError                               the file's bytes are not what was written
    │   └── NotACollectionError                       it never was a collection
    ├── FormatVersionError                            the file is newer than this vecstore
    ├── StorageFullError       (OSError)              no room left to write
    ├── StorageError           (OSError)              a write or sync failed otherwise
    ├── LockedError            (TimeoutError)         another writer kept the file for longer than timeout=
    ├── ForkError              (RuntimeError)         a forked child touched its parent's collection
    ├── MissingPackageError    (ImportError)          a package that is asked for is not installed
    └── DeviceError            (RuntimeError)         the device asked for is not there

>>> import vecstore
>>> issubclass(vecstore.DuplicateIdError, ValueError)
True
"""

from __future__ import annotations

__all__ = [
    "ClosedError",
    "CollectionExistsError",
    "CollectionNotFoundError",
    "CorruptionError",
    "DeviceError",
    "DimensionError",
    "DuplicateIdError",
    "ForkError",
    "FormatVersionError",
    "InvalidArgumentError",
    "InvalidFilterError",
    "InvalidIdError",
    "InvalidMetadataError",
    "InvalidVectorError",
    "LockedError",
    "MissingPackageError",
    "NotACollectionError",
    "ReadOnlyError",
    "RecordNotFoundError",
    "SettingsMismatchError",
    "StorageError",
    "StorageFullError",
    "VecstoreError",
]


class VecstoreError(Exception):
    """The root of the tree."""


class InvalidArgumentError(VecstoreError, ValueError):
    """An option or number that makes no sense."""


class InvalidIdError(VecstoreError, ValueError, TypeError):
    """An id that is empty, too long, or neither a str nor a 64-bit integer."""


class InvalidMetadataError(VecstoreError, ValueError, TypeError):
    """Metadata that is not JSON-like, nested too deep, or too large."""


class DuplicateIdError(VecstoreError, ValueError):
    """An id is in the collection already, or stands twice in one call."""


class DimensionError(VecstoreError, ValueError):
    """Vectors of another shape than the collection's."""


class InvalidVectorError(VecstoreError, ValueError):
    """A vector with NaN or infinity, out of its dtype's range, or zero under cosine."""


class InvalidFilterError(VecstoreError, ValueError):
    """A where-expression that cannot be read."""


class SettingsMismatchError(VecstoreError, ValueError):
    """An argument of open() contradicts what the file says."""


class CollectionNotFoundError(VecstoreError, FileNotFoundError):
    """There is no such file, or no folder to create it in."""


class CollectionExistsError(VecstoreError, FileExistsError):
    """mode="x" was asked for, and the file is there."""


class RecordNotFoundError(VecstoreError, KeyError):
    """An id that is not in the collection, where one is needed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ReadOnlyError(VecstoreError, PermissionError):
    """A write through a collection opened with mode="r"."""


class ClosedError(VecstoreError, ValueError):
    """A call on a collection that was closed."""


class CorruptionError(VecstoreError):
    """The bytes of the file are not those that were written; the message names the block."""


class NotACollectionError(CorruptionError):
    """The file is not, and never was, a vecstore collection."""


class FormatVersionError(VecstoreError):
    """The file was written by a newer vecstore."""


class StorageFullError(VecstoreError, OSError):
    """The disk is full; nothing of the call was written."""


class StorageError(VecstoreError, OSError):
    """The operating system refused a read, write or sync; nothing of the call was written."""


class LockedError(VecstoreError, TimeoutError):
    """Another writer held the file for longer than the timeout."""


class ForkError(VecstoreError, RuntimeError):
    """A forked child touched a collection that its parent opened."""


class DeviceError(VecstoreError, RuntimeError):
    """The device asked for is not there, or failed."""


class MissingPackageError(VecstoreError, ImportError):
    """A package that only some need is not installed; the message has the command that installs it."""
