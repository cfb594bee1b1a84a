"""The demo: a folder of pictures becomes something that can be asked, and a page to look at."""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

import vecstore
from vecstore.cli import demo_vectors, gallery
from vecstore.cli.output import (
    Clock,
    CommandError,
    add_command,
    duration,
    emit,
    pairs,
    plural,
    printable,
    whole,
)

_EXAMPLE = """vecstore demo
vecstore demo ~/Pictures
vecstore demo --vectors --records 100000 --dim 128"""

_OF_A_KIND = 40
_SHOWN = 24
# Of a kind that is there, and not among those that are indexed.
_ASKED = ("sunset", 1000)
_COPIED = 7


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "demo", demo, "index pictures, ask for one, and write a page to look at", _EXAMPLE
    )
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="your pictures; several hundred are drawn unless given"
    )
    parser.add_argument(
        "--out",
        default="vecstore-demo",
        metavar="FOLDER",
        help="where the collection and the page go (vecstore-demo)",
    )
    parser.add_argument(
        "--count",
        type=whole(2),
        default=_OF_A_KIND,
        help=f"how many pictures of each kind are drawn ({_OF_A_KIND})",
    )
    parser.add_argument(
        "--vectors", action="store_true", help="generated vectors instead: build, search, check them"
    )
    parser.add_argument("--records", type=whole(1), help="with --vectors: how many (100,000)")
    parser.add_argument("--dim", type=whole(2), help="with --vectors: numbers in one (128)")
    parser.add_argument("--file", help="with --vectors: keep the collection here")


def demo(options: argparse.Namespace) -> int:
    """Draw, index, ask, and write the page."""
    if options.vectors or (options.records, options.dim, options.file) != (None, None, None):
        if options.folder is not None:
            options.parser.error(
                "a FOLDER of pictures does not go with --vectors, --records, --dim and --file"
            )
        return demo_vectors.demo(options)
    from vecstore import embed

    if options.folder is not None and not os.path.isdir(options.folder):
        raise CommandError(f"{options.folder} is no folder")
    os.makedirs(options.out, exist_ok=True)
    clock = Clock()
    folder = options.folder or _drawn(options.out, options.count)
    drawing = clock.read()
    file = os.path.join(options.out, "demo.vec" if options.folder is None else f"{_name(options.folder)}.vec")
    page = os.path.splitext(file)[0] + ".html"
    report = _indexed(folder, file)
    indexing = clock.read()
    if report.found - report.failed < 2:
        raise CommandError(
            f"{folder} holds fewer than two pictures that can be read: there is nothing to ask for"
        )
    with vecstore.open(file, mode="r") as collection:
        asked, hits, measured = _asked(collection, options)
    clock.read()
    words = f"Like {printable(os.path.basename(asked))}"
    gallery.write_hits(page, file, [gallery.asked_card(asked)], words, hits)
    document = {
        "pictures": report.found,
        "drawn_seconds": None if options.folder else drawing,
        "indexed": report.added + report.changed + report.moved,
        "failed": report.failed,
        "index_seconds": indexing,
        "pictures_per_second": report.rate,
        "model": embed.load("classic").name,
        "asked": asked,
        "answers": [{"path": str(hit.id), "distance": hit.distance} for hit in hits],
        **measured,
        "page_seconds": clock.read(),
        "folder": folder,
        "file": file,
        "page": os.path.abspath(page),
    }
    emit(options, document, _lines(document))
    return 0


def _name(folder: str) -> str:
    return os.path.basename(os.path.abspath(folder)) or "pictures"


def _drawn(out: str, count: int) -> str:
    """The drawn pictures: those that are missing, so that a second run has nothing to draw."""
    try:
        from PIL import Image  # noqa: F401
    except ImportError:
        raise CommandError(
            "pictures need Pillow: pip install 'vecstore-db[images]' (vecstore demo --vectors does without)"
        ) from None
    from vecstore.cli.drawn import KINDS, picture

    folder = os.path.join(out, "pictures")
    for kind in KINDS:
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
    wanted = {
        os.path.join(folder, kind, f"{kind}-{number:02}.jpg"): (kind, number)
        for kind in KINDS
        for number in range(count)
    }
    wanted[os.path.join(out, f"{_ASKED[0]}.jpg")] = _ASKED
    for path, (kind, number) in wanted.items():
        if not os.path.exists(path):
            # A picture is there whole or not at all.
            picture(kind, number).save(f"{path}.part", "JPEG", quality=90)
            os.replace(f"{path}.part", path)
    return folder


def _indexed(folder: str, file: str) -> Any:
    from vecstore import embed

    try:
        return embed.index_folder(folder, file, prune=True, progress=True)
    except embed.ModelError:
        # Another version's demo: the file is ours, and its pictures are still there.
        os.remove(file)
        return embed.index_folder(folder, file, progress=True)


def _asked(
    collection: vecstore.Collection, options: argparse.Namespace
) -> tuple[str, vecstore.Hits, dict[str, Any]]:
    """What is asked for, its answers, and how fast and how right all answers are."""
    from vecstore import embed

    if options.folder is None:
        asked = os.path.join(options.out, f"{_ASKED[0]}.jpg")
        question: dict[str, Any] = {"image": asked}
    else:
        ids = sorted(str(record.id) for record in collection.scan(vectors=False))
        asked = ids[len(ids) // 2]
        question = {"id": asked}
    clock = Clock()
    hits = embed.search(collection, k=_SHOWN, **question)
    first = clock.read()
    stored = np.stack([np.asarray(record.vector) for record in collection.scan()][:32])
    times = []
    for row in stored:
        clock.read()
        collection.search(row, _SHOWN)
        times.append(clock.read())
    measured: dict[str, Any] = {"first_question_seconds": first, "search_seconds": float(np.median(times))}
    if options.folder is None:
        measured["right_kind"] = sum(hit.metadata["folder"] == _ASKED[0] for hit in hits)
        measured["hit_at_1"] = embed.evaluate(collection, k=[1], sample=480).embedder["hit@1"].value
        measured["copy_found"], measured["copy_distance"] = _copy(collection, options.out)
    return asked, hits, measured


def _copy(collection: vecstore.Collection, out: str) -> tuple[bool, float]:
    """Whether a mirrored, cut, small copy in low quality leads back to its picture."""
    import io

    from PIL import Image

    from vecstore import embed

    path = os.path.abspath(
        os.path.join(out, "pictures", "houses", f"houses-{min(_COPIED, len(collection) // 12 - 1):02}.jpg")
    )
    with Image.open(path) as image:
        wide, tall = image.size
        cut = image.crop((wide // 20, tall // 20, wide - wide // 20, tall - tall // 20)).transpose(
            Image.Transpose.FLIP_LEFT_RIGHT
        )
    written = io.BytesIO()
    cut.resize((120, 90)).save(written, "JPEG", quality=15)
    [hit] = embed.search(collection, image=written.getvalue(), k=1)
    return hit.id == path, hit.distance


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [f"{plural(found['pictures'], 'picture')} in {found['folder']}, indexed in {found['file']}", ""]
    lines.append(f"Asked for {printable(found['asked'])}; the nearest:")
    lines += [
        f"  {answer['distance']:.4f}  {printable(_short(answer['path']))}"
        for answer in found["answers"][:5]
    ]
    lines.append("")
    rows = []
    if found["drawn_seconds"] is not None and found["indexed"]:
        rows.append(("drawn", duration(found["drawn_seconds"])))
    if found["indexed"]:
        rows.append(
            (
                "indexed",
                f"{found['indexed']:,} in {duration(found['index_seconds'])}, without torch or weights",
            )
        )
    else:
        rows.append(("looked through, nothing is new", duration(found["index_seconds"])))
    if found["failed"]:
        rows.append(("could not be read", f"{found['failed']:,}: vecstore errors {found['file']}"))
    rows += [
        ("the first question", duration(found["first_question_seconds"])),
        ("a search", duration(found["search_seconds"])),
    ]
    if "right_kind" in found:
        rows += [
            ("answers of the kind that was asked for", f"{found['right_kind']} of {len(found['answers'])}"),
            ("the nearest is of the same kind, over all pictures", f"{found['hit_at_1']:.1%}"),
            (
                "a mirrored, cut, small, poor copy leads to its picture",
                "yes" if found["copy_found"] else "no",
            ),
        ]
    lines += pairs(rows)
    asked = printable(found["asked"])
    return [
        *lines,
        "",
        f"Look at it:   {found['page']}",
        f"Ask yourself: vecstore search {found['file']} {asked} --show",
        f"              vecstore {_next(found)}",
    ]


def _next(found: dict[str, Any]) -> str:
    """Drawings of one kind are as alike as copies of photographs are; but their folders say what they show."""
    drawn = found["drawn_seconds"] is not None
    return f"evaluate {found['file']} --svg quality.svg" if drawn else f"dedupe {found['file']} --html copies.html"


def _short(path: str) -> str:
    """A path as seen from here, where it lies below."""
    within = os.path.relpath(path)
    return path if within.startswith(os.pardir) else within
