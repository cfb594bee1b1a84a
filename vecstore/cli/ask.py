"""Asking: search."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore
from vecstore.cli import gallery, ids, pictures
from vecstore.cli.output import CommandError, add_command, emit, open_file, table, whole
from vecstore.cli.terminal import WAYS

# Facts of pictures that need no word before them.
_PLAIN = ("pixels", "size", "time", "camera")

_EXAMPLE = """vecstore search photos.vec query.jpg -k 20 --html result.html
vecstore search photos.vec beach.jpg dog.jpg --weights 1,-0.5 --show
vecstore search photos.vec https://example.org/a.jpg --text "at night"
vecstore search photos.vec query.jpg --paths -0 | xargs -0 cp -t found/
vecstore search photos.vec query.npy -k 5
vecstore search photos.vec "0.1,-0.2,0.3" --where '{"year": {"$gte": 2020}}'
vecstore search photos.vec --id img-1 --ids-only
echo "[0.1, -0.2, 0.3]" | vecstore search photos.vec - --json"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(commands, "search", search, "find the nearest records", _EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="the collection")
    parser.add_argument(
        "things",
        metavar="QUERY",
        nargs="*",
        help="pictures (files or web addresses), or one vector: a .npy, .npz or .json file, - for JSON or numbers from "
        "standard input, or numbers like 0.1,-0.2; a matrix gives one block of answers a query",
    )
    parser.add_argument(
        "--text", action="append", help="what the pictures should show, where the collection's model knows texts"
    )
    parser.add_argument(
        "--id", action="append", help="like this stored record ('\"7\"' for the text 7), which is no answer itself"
    )
    parser.add_argument(
        "--weights",
        type=_weights,
        help="a number for each thing asked for, as 1,0.5,-1: pictures first, then texts, then ids; less than 0 leads away",
    )
    parser.add_argument("--no-mirror", action="store_true", help="do not ask for pictures' mirror images too")
    parser.add_argument("--model", help="what made the collection's vectors; it is known unless it needs options")
    pictures.add_weights(parser)
    parser.add_argument("-k", type=whole(1), help="how many answers (10, or all within --radius)")
    parser.add_argument("--radius", type=float, metavar="DISTANCE", help="everything within this distance")
    parser.add_argument("--where", metavar="JSON", help="only records whose metadata match")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--ids-only", action="store_true", help="ids alone, one a line, nearest first")
    alone.add_argument("--paths", action="store_true", help="the pictures' paths alone, for pipes")
    alone.add_argument(
        "--show",
        nargs="?",
        const="auto",
        choices=WAYS,
        help="draw the pictures in the terminal: auto, blocks (everywhere), kitty or sixel; give it last",
    )
    parser.add_argument("--null", action="store_true", help="or -0: with --paths or --ids-only, end each with NUL")
    parser.add_argument("--html", metavar="PAGE", help="write the answers as one page, pictures and all")


def _weights(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def search(options: argparse.Namespace) -> int:
    """Print the nearest records."""
    of_pictures = _check_usage(options)
    where = None if options.where is None else _filter(options.where)
    found: Any = _by_pictures(options, where) if of_pictures else _by_vector(options, where)
    if isinstance(found, vecstore.HitsBatch) and (options.html or options.show):
        raise CommandError("--html and --show are for the answers to one query, and this is a matrix of several")
    if options.html is not None:
        gallery.write_hits(options.html, options.file, _asked(options), _words(options), found)
    blocks: list[vecstore.Hits] = list(found) if isinstance(found, vecstore.HitsBatch) else [found]
    if options.ids_only or options.paths:
        found_ids = [str(id_) for block in blocks for id_ in block.ids]
        gallery.print_names(found_ids, paths=options.paths, null=options.null)
        return 0
    if options.show is not None:
        gallery.show(options, found)
        return 0
    document = {
        "file": options.file,
        "k": options.k,
        "radius": options.radius,
        "results": [_hits(block) for block in blocks],
    }
    lines = _lines(blocks, numbered=isinstance(found, vecstore.HitsBatch))
    if options.html is not None:
        lines.append(f"as a page, pictures and all: {options.html}")
    emit(options, document, lines)
    return 0


def _check_usage(options: argparse.Namespace) -> bool:
    """Whether pictures and texts are asked for, or several things; otherwise it is one vector or record."""
    wrong = options.parser.error
    texts, ids_asked = options.text or [], options.id or []
    count = len(options.things) + len(texts) + len(ids_asked)
    if not count:
        wrong("give a QUERY, --id ID or --text TEXT")
    if options.json and (options.ids_only or options.paths or options.show):
        wrong("--json cannot go with --ids-only, --paths or --show")
    if options.null and not (options.ids_only or options.paths):
        wrong("--null (-0) goes with --paths or --ids-only")
    vectors = [thing for thing in options.things if not pictures.is_picture(thing)]
    if vectors and count > 1:
        wrong(f"{vectors[0].strip()!r} is no picture: a vector is asked for alone")
    if options.weights is not None and len(options.weights) != count:
        wrong(f"--weights has {len(options.weights)} numbers for {count} things")
    if options.weights is not None and (vectors or not all(map(math.isfinite, options.weights)) or 0 in options.weights):
        wrong("--weights are numbers other than 0, for pictures, texts and ids")
    return bool(texts) or count > 1 or (bool(options.things) and not vectors)


def _by_pictures(options: argparse.Namespace, where: Any) -> vecstore.Hits:
    from vecstore import embed
    from vecstore.embed.mixing import source

    # Fetched once: the page shows the same bytes that were asked for.
    options.sources = [source(thing) for thing in options.things]
    weights = iter(options.weights) if options.weights is not None else itertools.repeat(1.0)
    with open_file(options.file) as collection:
        k = 10 if options.k is None and options.radius is None else options.k
        return embed.search(
            collection,
            image=[(thing, next(weights)) for thing in options.sources] or None,
            text=[(text, next(weights)) for text in options.text or []] or None,
            id=[(_stored_id(collection, text), next(weights)) for text in options.id or []] or None,
            k=k,
            model=pictures.model_of(options, collection),
            where=where,
            radius=options.radius,
            mirror=not options.no_mirror,
        )


def _by_vector(options: argparse.Namespace, where: Any) -> Any:
    with open_file(options.file) as collection:
        if options.id is not None:
            id_ = _stored_id(collection, options.id[0])
            return collection.search(id=id_, k=options.k, where=where, radius=options.radius)
        query = read_query(options.things[0])
        if collection.dtype == "binary" and query.dtype.kind in "iu" and _are_bytes(query):
            query = query.astype(np.uint8)
        return collection.search(query, options.k, where=where, radius=options.radius)


def _asked(options: argparse.Namespace) -> list[Any]:
    """The pictures and records that were asked for, to be shown."""
    sources = zip(options.things, getattr(options, "sources", ()), strict=False)
    asked = [gallery.asked_card(thing, found) for thing, found in sources]
    if options.id is not None:
        with open_file(options.file) as collection:
            records = collection.get([_stored_id(collection, text) for text in options.id])
        asked += [gallery.card(str(record.id), record.metadata) for record in records if record is not None]
    return asked


def _words(options: argparse.Namespace) -> str:
    """The question as a heading."""
    names = [os.path.basename(thing.rstrip("/")) or thing for thing in options.things]
    names += [f"“{text}”" for text in options.text or []] + [os.path.basename(text) for text in options.id or []]
    weights = options.weights or [1.0] * len(names)
    parts = []
    for place, (name, weight) in enumerate(zip(names, weights, strict=True)):
        sign = ("" if place == 0 else "+ ") if weight > 0 else "− "
        parts.append(f"{sign}{'' if abs(weight) == 1 else f'{abs(weight):g} × '}{name}")
    return "Like " + " ".join(parts)


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
    if "model" in metadata and "content" in metadata:
        return ", ".join(value if fact in _PLAIN else f"{fact} {value}" for fact, value in gallery.facts(metadata))
    return json.dumps(metadata, ensure_ascii=False) if metadata else ""


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
