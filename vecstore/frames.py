"""Answers as tables: pandas, polars and Arrow, each imported only when it is asked for; and as HTML, for notebooks."""

from __future__ import annotations

import html
import importlib
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from vecstore.errors import MissingPackageError

# By name: an array, whose rows are vectors where it has two dimensions, or a list of JSON-like values.
Columns: TypeAlias = dict[str, Any]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_MOST_SHOWN = 8


class Framed:
    """What can be a table. Metadata has a column for each of its keys; one that a record lacks is null there."""

    def _columns(self) -> Columns:
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """A pandas DataFrame. Whole numbers and bools with gaps are pandas' nullable types.

        >>> from vecstore import Hit, Hits
        >>> Hits([Hit("a", 0.5, {"year": 2020}), Hit("b", 0.75, {})]).to_pandas()
          id  distance  year
        0  a      0.50  2020
        1  b      0.75  <NA>
        """
        pandas = _package("pandas", "to_pandas")
        return pandas.DataFrame({name: _pandas(pandas, values) for name, values in self._columns().items()})

    def to_polars(self) -> Any:
        """A polars DataFrame. A column of values that have no common type is their JSON texts.

        >>> from vecstore import Hit, Hits
        >>> Hits([Hit("a", 0.5, {"n": 1}), Hit("b", 0.75, {"n": "x"})]).to_polars()["n"].to_list()
        ['1', '"x"']
        """
        polars = _package("polars", "to_polars")

        def made(values: Any) -> Any:
            if isinstance(values, np.ndarray):
                return polars.Series(values)
            return polars.Series(values, strict=False)

        return polars.DataFrame({name: _typed(made, values) for name, values in self._columns().items()})

    def to_arrow(self) -> Any:
        """An Arrow table. A column of values that have no common type is their JSON texts.

        >>> from vecstore import Hit, Hits
        >>> Hits([Hit("a", 0.5, {}), Hit("b", 0.75, {})]).to_arrow().column_names
        ['id', 'distance']
        """
        arrow = _package("pyarrow", "to_arrow")

        def made(values: Any) -> Any:
            if isinstance(values, np.ndarray) and values.ndim == 2:
                flat = arrow.array(values.reshape(-1))
                return arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
            return arrow.array(values)

        return arrow.table({name: _typed(made, values) for name, values in self._columns().items()})


def with_metadata(columns: Columns, metadata: Sequence[Mapping[str, Any]]) -> Columns:
    """The columns, and one for each key; a key that would be one of them already is called ``metadata.key``.

    >>> with_metadata({"id": [1, 2]}, [{"id": 5}, {"n": 6}])
    {'id': [1, 2], 'metadata.id': [5, None], 'n': [None, 6]}
    """
    found = dict(columns)
    taken = {key: None for one in metadata for key in one}
    for key in taken:
        name = key
        while name in found or (name != key and name in taken):
            name = f"metadata.{name}"
        found[name] = [one.get(key) for one in metadata]
    return found


def ids_column(ids: Iterable[Any]) -> Any:
    """Ids as an array of integers where all are, else as a list."""
    found = list(ids)
    return np.array(found, dtype=np.int64) if set(map(type, found)) == {int} else found


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        if missing.partition(".")[0] == name:
            raise MissingPackageError(f"{what} needs {name}: pip install {name}") from None
        raise MissingPackageError(
            f"{what} needs {name}, and {name} needs {missing}: pip install {missing}"
        ) from None


def _pandas(pandas: Any, values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return pandas.Series(list(values) if values.ndim == 2 else values)
    kinds = {type(value) for value in values}
    if kinds == {int, type(None)} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pandas.Series(values, dtype="Int64")
    if kinds == {bool, type(None)}:
        return pandas.Series(values, dtype="boolean")
    plain = kinds <= {str, type(None)} or kinds <= {float, type(None)} or kinds in ({int}, {bool})
    return pandas.Series(values) if plain and kinds != {type(None)} else pandas.Series(values, dtype=object)


def _typed(made: Callable[[Any], Any], values: Any) -> Any:
    """A typed column; of JSON texts where the type that was found would lose or change some of the values."""
    if isinstance(values, np.ndarray):
        return made(values)
    try:
        column = made(values)
        kept = _same(column.to_pylist() if hasattr(column, "to_pylist") else column.to_list(), values)
    except Exception:  # each package has errors of its own for values that it cannot bring together
        kept = False
    if kept:
        return column
    return made([None if value is None else json.dumps(value, ensure_ascii=False) for value in values])


def _same(found: Any, given: Any) -> bool:
    """Whether a table has what was given; a dict may have got keys that others have, with nulls."""
    if isinstance(given, dict):
        return (
            isinstance(found, dict)
            and found.keys() >= given.keys()
            and all(_same(value, given.get(key)) for key, value in found.items())
        )
    if isinstance(given, list):
        return (
            isinstance(found, list)
            and len(found) == len(given)
            and all(_same(one, other) for one, other in zip(found, given, strict=True))
        )
    if isinstance(given, bool) or isinstance(found, bool) or given is None or found is None:
        return found is given
    return bool(found == given or (found != found and given != given))


# -- for people to look at


def shortened(value: object) -> str:
    """A value in one short line.

    >>> shortened({"text": "x" * 1000})
    "{'text': 'xxx...xxx'}"
    """
    if type(value) is not dict:
        return _SHORT.repr(value)
    # In its own order, which reprlib does not keep.
    items = [f"{_SHORT.repr(key)}: {_SHORT.repr(value[key])}" for key in list(value)[:_MOST_SHOWN]]
    return "{" + ", ".join([*items, *(["..."] if len(value) > len(items) else [])]) + "}"


def html_table(caption: str, columns: Columns, left: int) -> str:
    """A table in which nothing of what is shown can be markup; ``left`` rows more are named below.

    >>> html_table("Hits", {"id": ["<b>"]}, 0)
    '<table><caption>Hits</caption><thead><tr><th>id</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    names = list(columns)[:_MOST_SHOWN]
    hidden = len(columns) - len(names)
    head = "".join(f"<th>{html.escape(_cell(name))}</th>" for name in [*names, *(["…"] if hidden else [])])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) + "</tr>"
        for row in zip(*(columns[name] for name in names), strict=True)
    )
    more = f"<tfoot><tr><td colspan={len(names)}>… and {left:,} more</td></tr></tfoot>" if left else ""
    caption = html.escape(caption)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{more}</table>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value if len(value) <= 60 else value[:57] + "…"
    return shortened(value)
