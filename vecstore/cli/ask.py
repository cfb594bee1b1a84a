"""Asking: search."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore
from vecstore.cli import ids, pictures
from vecstore.cli.output import CommandError, add_command, emit, open_file, table, whole

_EXAMPLE = """vecstore search photos.vec query.npy -k 5
vecstore search photos.vec "0.1,-0.2,0.3" --where '{"year": {"$gte": 2020}}'
vecstore search photos.vec query.jpg -k 20 --html result.html
vecstore search photos.vec --id img-1 --ids-only
echo "[0.1, -0.2, 0.3]" | vecstore search photos.vec - --json"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(commands, "search", search, "find the nearest records", _EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="the collection")
    parser.add_argument(
        "vector",
        metavar="VECTOR",
        nargs="?",
        help="a picture, a .npy, .npz or .json file, - for JSON or numbers from standard input, or numbers like 0.1,-0.2; "
        "a matrix gives one block of answers a query",
    )
    parser.add_argument("--text", help="what the pictures should show, where the collection's model knows texts")
    parser.add_argument("--model", help="what made the collection's vectors; it is known unless it needs options")
    parser.add_argument(
        "--id", help="search like this stored record, instead of VECTOR ('\"7\"' for the text 7)"
    )
    parser.add_argument("-k", type=whole(1), help="how many answers (10, or all within --radius)")
    parser.add_argument("--radius", type=float, metavar="DISTANCE", help="everything within this distance")
    parser.add_argument("--where", metavar="JSON", help="only records whose metadata match")
    parser.add_argument("--ids-only", action="store_true", help="ids alone, one a line, nearest first")
    parser.add_argument("--html", metavar="PAGE", help="write the answers to a collection of pictures as one page")
    parser.add_argument("--null", action="store_true", help="with --ids-only: end ids with NUL, for xargs -0")


def search(options: argparse.Namespace) -> int:
    """Print the nearest records."""
    if (options.vector, options.id, options.text).count(None) != 2:
        options.parser.error("give a VECTOR, a picture, --id ID or --text TEXT: one of them")
    if options.json and options.ids_only:
        options.parser.error("--json and --ids-only cannot go together")
    where = None if options.where is None else _filter(options.where)
    found: Any
    if options.text is not None or (options.vector is not None and pictures.is_picture(options.vector)):
        found = pictures.ask(options, where)
    else:
        found = _by_vector(options, where)
    if options.html is not None:
        if isinstance(found, vecstore.HitsBatch):
            raise CommandError("--html shows the answers to one query, and this is a matrix of several")
        pictures.write_page(options.html, options, found)
    blocks: list[vecstore.Hits] = list(found) if isinstance(found, vecstore.HitsBatch) else [found]
    if options.ids_only:
        _print_ids(blocks, null=options.null)
        return 0
    document = {
        "file": options.file,
        "k": options.k,
        "radius": options.radius,
        "results": [_hits(block) for block in blocks],
    }
    emit(options, document, _lines(blocks, numbered=isinstance(found, vecstore.HitsBatch)))
    return 0


def _by_vector(options: argparse.Namespace, where: Any) -> Any:
    with open_file(options.file) as collection:
        if options.id is not None:
            id_ = _stored_id(collection, options.id)
            return collection.search(id=id_, k=options.k, where=where, radius=options.radius)
        query = read_query(options.vector)
        if collection.dtype == "binary" and query.dtype.kind in "iu" and _are_bytes(query):
            query = query.astype(np.uint8)
        return collection.search(query, options.k, where=where, radius=options.radius)


def _hits(block: vecstore.Hits) -> list[dict[str, Any]]:
    return [{"rank": rank, **hit._asdict()} for rank, hit in enumerate(block, 1)]


def _lines(blocks: list[vecstore.Hits], *, numbered: bool) -> list[str]:
    lines: list[str] = []
    for number, block in enumerate(blocks):
        if numbered:
            lines += ([""] if number else []) + [f"query {number}"]
        rows = [
            (
                str(rank),
                f"{hit.distance:.6g}",
                ids.to_line(hit.id),
                _told(hit.metadata),
            )
            for rank, hit in enumerate(block, 1)
        ]
        lines += (
            table(("rank", "distance", "id", "metadata"), rows, right=2) if rows else ["no record matches"]
        )
    return lines if blocks else ["no query"]


def _told(metadata: dict[str, Any]) -> str:
    shown = {name: value for name, value in metadata.items() if name not in pictures.HIDDEN}
    return json.dumps(shown if "model" in metadata else metadata, ensure_ascii=False) if metadata else ""


def _print_ids(blocks: list[vecstore.Hits], *, null: bool) -> None:
    end = "\0" if null else "\n"
    text = "".join(f"{id_}{end}" for block in blocks for id_ in block.ids)
    with contextlib.suppress(AttributeError):  # a stream that stands in for stdout may have no bytes below
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return
    sys.stdout.write(text)


def _filter(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"--where is not JSON ({error}): write it like '{{\"year\": 2020}}'") from None


def _stored_id(collection: vecstore.Collection, text: str) -> str | int:
    """The id that is meant: 7 is the number where it is there, and otherwise the text."""
    id_ = ids.from_line(text)
    return text if id_ != text and id_ not in collection and text in collection else id_


def _are_bytes(array: NDArray[Any]) -> bool:
    return array.size == 0 or (int(array.min()) >= 0 and int(array.max()) <= 255)


# -- queries


def read_query(text: str) -> NDArray[Any]:
    """A vector or a matrix from a file, standard input, or the argument itself."""
    if text == "-":
        return _from_text(sys.stdin.read(), "standard input")
    suffix = os.path.splitext(text)[1].lower()
    if suffix in (".npy", ".npz", ".json") or os.path.exists(text):
        return _from_file(text, suffix)
    return _from_text(text, f"{text.strip()[:40]!r}")


def _from_file(path: str, suffix: str) -> NDArray[Any]:
    if suffix in (".npy", ".npz"):
        try:
            found = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise CommandError(f"{path} cannot be read as a {suffix} file: {error}") from None
        if isinstance(found, np.ndarray):
            return found
        with found:
            names = found.files
            name = "vectors" if "vectors" in names else names[0] if len(names) == 1 else None
            if name is None:
                raise CommandError(
                    f"{path} needs one array, or one named vectors; it has {', '.join(names) or 'none'}"
                )
            try:
                return np.asarray(found[name])
            except ValueError as error:
                raise CommandError(f"{path} cannot be read: {error}") from None
    try:
        with open(path, encoding="utf-8") as source:
            return _from_text(source.read(), path)
    except UnicodeDecodeError:
        raise CommandError(f"{path} is neither .npy nor .npz nor text: a query is a vector") from None


def _from_text(text: str, name: str) -> NDArray[Any]:
    """JSON, or numbers with commas or blanks between them, one query a line."""
    try:
        if text.lstrip().startswith(("[", "{")):
            value = json.loads(text)
            array = np.array(value["vector"] if isinstance(value, dict) else value)
        else:
            rows = [
                [float(part) for part in line.replace(",", " ").split()]
                for line in text.splitlines()
                if line.strip()
            ]
            if not any(rows):
                raise ValueError("it is empty")
            array = np.array(rows[0] if len(rows) == 1 else rows)
            if array.dtype.kind == "f" and (array == np.floor(array)).all() and (np.abs(array) < 256).all():
                array = array.astype(np.int64)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError(
            f"{name} is no vector: write it like 0.1,-0.2,0.3 or [0.1, -0.2, 0.3], or name a file ({error})"
        ) from None
    if array.dtype.kind not in "fiu":
        raise CommandError(f"{name} is no vector: it must hold numbers alone")
    return array
