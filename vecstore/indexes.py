"""Indexes of fields, as a collection offers them: asked for and dropped by name, made by themselves, kept in the file."""

from __future__ import annotations

from typing import Any

from vecstore import config
from vecstore.errors import InvalidArgumentError
from vecstore.handle import Handle
from vecstore.storage import fields, indexing
from vecstore.storage.session import Session


class Indexing(Handle):
    """What ``Collection`` offers for the fields that filters name."""

    def create_index(self, field: str) -> None:
        """Keep an index of a field in the file, so that a process need not read all records for its first filter on it.

        Nested fields are named as in filters ("exif.iso"). The index is kept up by every write from then on, in the same
        transaction, and answers once it covers all records. A large collection makes indexes by itself, of fields that
        filters name again and again; ``drop_index`` says that one is not wanted.

        >>> import vecstore
        >>> with vecstore.open("ci.vec", dim=2) as c:
        ...     _ = c.add([1, 2], [[1, 0], [0, 1]], [{"year": 2020}, {"year": 2021}])
        ...     c.create_index("year")
        ...     c.indexes()
        {'year': {'built': 1.0, 'bytes': ..., 'by_itself': False}}
        """
        name = _check_field(field)
        self._check_outside()
        with self._file.writing(self._timeout):
            session = Session(self._file, self._stage_bytes)
            try:
                fields.create(session, name, asked=True)
                session.commit()
            finally:
                session.close()
            self._make_indexes()

    def drop_index(self, field: str) -> bool:
        """Drop the index of a field, and make none by itself any more. Gives whether there was one.

        Filters on the field go on as before: a process reads it out of the records when it is first asked for.

        >>> import vecstore
        >>> with vecstore.open("di.vec", dim=2) as c:
        ...     c.create_index("year")
        ...     c.drop_index("year"), c.drop_index("year"), c.indexes()
        (True, False, {})
        """
        name = _check_field(field)
        self._check_outside()
        with self._file.writing(self._timeout):
            session = Session(self._file, self._stage_bytes)
            try:
                dropped = fields.drop(session, name)
                session.commit()
            finally:
                session.close()
        return dropped

    def indexes(self) -> dict[str, dict[str, Any]]:
        """The indexes of fields that the file has: by name, how much of it is built, its bytes, and whether it was made by itself.

        >>> import vecstore
        >>> with vecstore.open("ix.vec", dim=2) as c:
        ...     c.create_index("exif.iso")
        ...     list(c.indexes())
        ['exif.iso']
        """
        with self._view() as blocks:
            return fields.listed(blocks)

    def _check_outside(self) -> None:
        self._check_writable()
        if self._in_transaction():
            raise InvalidArgumentError(
                "an index is made in commits of its own: call create_index and drop_index outside of the transaction"
            )

    def _wanted_indexes(self) -> None:
        """Say in a commit of its own which fields were asked for without an index. The writer's lock is held."""
        session = Session(self._file, self._stage_bytes)
        try:
            asked = self._note_asked(session)
            session.commit()
        finally:
            session.close()
        self._fields.noted(asked)

    def _note_asked(self, session: Session) -> frozenset[str]:
        """Have this commit say which fields were asked for without an index."""
        asked = self._fields.asked
        if asked:
            fields.note_asked(session, asked)
        return asked

    def _make_indexes(self, end: float | None = None, *, once: bool = False) -> None:
        """Go on with the indexes that are not complete, until all are, or for one slice. The writer's lock is held."""
        self._in_slices(lambda session: indexing.make(session, config.INDEXED_AT_ONCE), end, once=once)


def _check_field(field: object) -> str:
    if not isinstance(field, str) or field.startswith("$"):
        raise InvalidArgumentError(f'an index is of a field, named as in filters ("exif.iso"), not {field!r}')
    if not fields.fits(field):
        raise InvalidArgumentError(
            f"the name of a field with an index takes {config.MAX_FIELD_BYTES} bytes of UTF-8 at most, not {field[:40]!r}…"
        )
    return field
