"""The public names, exact and sorted: adding one is a decision, losing one breaks somebody."""

from __future__ import annotations

import inspect

import vecstore
from vecstore import errors

PUBLIC = [
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
PARENTS = {
    "ClosedError": ValueError,
    "CollectionExistsError": FileExistsError,
    "CollectionNotFoundError": FileNotFoundError,
    "CorruptionError": Exception,
    "DeviceError": RuntimeError,
    "DimensionError": ValueError,
    "DuplicateIdError": ValueError,
    "ForkError": RuntimeError,
    "FormatVersionError": Exception,
    "InvalidArgumentError": ValueError,
    "InvalidFilterError": ValueError,
    "InvalidIdError": (ValueError, TypeError),
    "InvalidMetadataError": (ValueError, TypeError),
    "InvalidVectorError": ValueError,
    "LockedError": TimeoutError,
    "MissingPackageError": ImportError,
    "NotACollectionError": errors.CorruptionError,
    "ReadOnlyError": PermissionError,
    "RecordNotFoundError": KeyError,
    "SettingsMismatchError": ValueError,
    "StorageError": OSError,
    "StorageFullError": OSError,
    "VecstoreError": Exception,
}


def test_public_names() -> None:
    assert vecstore.__all__ == PUBLIC == sorted(PUBLIC)
    assert all(getattr(vecstore, name) is not None for name in PUBLIC)


def test_errors_and_their_builtin_parents() -> None:
    assert errors.__all__ == sorted(PARENTS)
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__}
    assert defined == set(PARENTS)
    for name, parents in PARENTS.items():
        error = getattr(errors, name)
        assert getattr(vecstore, name) is error
        assert issubclass(error, errors.VecstoreError)
        for parent in parents if isinstance(parents, tuple) else (parents,):
            assert issubclass(error, parent)
        assert name in (errors.__doc__ or ""), f"{name} is missing from the tree in the docstring"
        assert error.__doc__


def test_public_things_have_docstrings_with_examples() -> None:
    members = {name: member for kind in vecstore.Collection.__mro__[:-1] for name, member in vars(kind).items()}
    for name, member in members.items():
        if not name.startswith("_"):
            assert inspect.getdoc(member), name
        if inspect.isfunction(member) and not name.startswith("_") and name != "close":
            assert ">>>" in (member.__doc__ or ""), f"Collection.{name} has no example"
