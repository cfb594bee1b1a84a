"""The files that could not be read, and why: a small collection beside the one of the pictures.

A failed file has no vector, so it cannot be a record among the pictures without turning up in searches.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import vecstore

from .files import Found

_MOST = 4_096


@dataclass(frozen=True)
class Failure:
    """A file that could not be read, and why."""

    path: str
    reason: str


class Ledger:
    """The failures of one collection of pictures. The file is made with the first of them.

    >>> ledger = Ledger("none-yet.vec")
    >>> ledger.failures()
    []
    """

    def __init__(self, collection_path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(collection_path) + "-errors"

    def unchanged(self) -> dict[str, tuple[int, int]]:
        """Id -> (size, time) of each file as it was when it failed.

        >>> Ledger("none-yet.vec").unchanged()
        {}
        """
        return {
            str(record.id): (record.metadata["size"], record.metadata["mtime_ns"])
            for record in self._records()
        }

    def failures(self) -> list[Failure]:
        """All of them, by path.

        >>> Ledger("none-yet.vec").failures()
        []
        """
        listed = [Failure(str(record.id), record.metadata["reason"]) for record in self._records()]
        return sorted(listed, key=lambda failure: failure.path)

    def change(self, failed: dict[Found, str], healed: list[str]) -> None:
        """Note what failed, forget what did not fail again.

        >>> ledger = Ledger("noted.vec")
        >>> ledger.change({Found("/a.jpg", 0, 1): "empty"}, [])
        >>> ledger.failures()
        [Failure(path='/a.jpg', reason='empty')]
        """
        kept = {found: reason for found, reason in failed.items() if len(found.id.encode()) <= _MOST}
        if not kept and not (healed and os.path.exists(self.path)):
            return
        with vecstore.open(self.path, dim=1, metric="l2") as rows, rows.transaction():
            if healed:
                rows.delete(healed)
            if kept:
                rows.upsert(
                    [found.id for found in kept],
                    [[0.0]] * len(kept),
                    [
                        {"reason": reason, "size": found.size, "mtime_ns": found.mtime_ns}
                        for found, reason in kept.items()
                    ],
                )

    def _records(self) -> list[vecstore.Record]:
        if not os.path.exists(self.path):
            return []
        with vecstore.open(self.path, mode="r") as rows:
            return list(rows.scan(vectors=False))


def failures(collection_path: str | os.PathLike[str]) -> list[Failure]:
    """The files that could not be read when a collection was made, and why.

    >>> failures("none-yet.vec")
    []
    """
    return Ledger(collection_path).failures()
