"""How good answers are: evaluate."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from vecstore.cli import pictures
from vecstore.cli.output import CommandError, add_command, emit, open_file, pairs, plural, table, whole

_EXAMPLE = """vecstore evaluate photos.vec
vecstore evaluate photos/ --model resnet50 --svg quality.svg
vecstore evaluate photos.vec --label camera -k 1,10,100 --sample 5000 --json"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands,
        "evaluate",
        evaluate,
        "measure answers against labels: the embedder's quality and the index's loss",
        _EXAMPLE,
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a collection of pictures, or a folder whose folders are named by what they show",
    )
    parser.add_argument("--model", help="for a folder: what makes vectors of pictures (classic)")
    pictures.add_weights(parser, "--weights")
    parser.add_argument(
        "--label", default="folder", help="the field of metadata that says what is right (folder)"
    )
    parser.add_argument("-k", type=_numbers, default=[1, 5, 10], help="how many answers count, as 1,5,10")
    parser.add_argument(
        "--sample", type=whole(1), default=1000, help="how many pictures are asked for (1,000)"
    )
    parser.add_argument("--svg", metavar="PICTURE", help="write the figures as a picture")


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("numbers must be at least 1")
    return numbers


def evaluate(options: argparse.Namespace) -> int:
    """Measure, and say it."""
    from vecstore import embed
    from vecstore.embed.chart import chart

    if pictures.names_model(options) and not os.path.isdir(options.file):
        options.parser.error("--model and its options go with a folder: a collection has its vectors")
    with _collection(options) as collection:
        found = embed.evaluate(collection, label=options.label, k=options.k, sample=options.sample)
    if options.svg is not None:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(chart(found, f"{os.path.basename(os.path.abspath(options.file))}: {_model(found)}"))
    document = {"file": options.file, "label": options.label} | dataclasses.asdict(found)
    document["by_label"] = {
        name: {"mAP": value, "queries": count} for name, (value, count) in found.by_label.items()
    }
    emit(options, document, _lines(options, found))
    return 0


@contextlib.contextmanager
def _collection(options: argparse.Namespace) -> Iterator[Any]:
    if not os.path.isdir(options.file):
        with open_file(options.file) as collection:
            yield collection
        return
    from vecstore import embed

    with tempfile.TemporaryDirectory(prefix="vecstore-evaluate-") as folder:
        path = os.path.join(folder, "pictures.vec")
        model = pictures.loaded(options, options.model or "classic")
        report = embed.index_folder(options.file, path, model, progress=True)
        if not report.added:
            raise CommandError(f"{options.file} holds no pictures that can be read")
        with open_file(path) as collection:
            yield collection


def _model(found: Any) -> str:
    return "its vectors" if found.model is None else str(found.model.split(" ")[0])


def _lines(options: argparse.Namespace, found: Any) -> list[str]:
    lines = [
        f"{plural(found.queries, 'picture')} asked of {found.pictures:,} with {plural(found.labels, 'label')} "
        f"({options.label}); each left out of its own answers; 95% intervals over the queries",
        "",
        f"the embedder ({_model(found)}, exact search)",
        *_table(found.embedder),
        "",
    ]
    if found.index is None:
        lines.append("the index: none, every search of this collection is exact")
    else:
        lines += [
            "the index: what its graph finds",
            *_table(found.index),
            "",
            "what that loses",
            *_table(found.loss),
        ]
    worst = sorted(found.by_label.items(), key=lambda item: item[1][0])
    if len(worst) > 1:
        ends = [
            (name, f"{value:.4f}")
            for name, (value, _) in (worst if len(worst) <= 12 else [*worst[:3], *worst[-3:]])
        ]
        lines += [
            "",
            "mAP by label" if len(worst) <= 12 else "mAP by label, the three worst and best",
            *pairs(ends),
        ]
    return lines


def _table(measures: dict[str, Any]) -> list[str]:
    rows = [
        (name, _share(each.value), f"{_share(each.low)} to {_share(each.high)}")
        for name, each in measures.items()
    ]
    return table(("measure", "mean", "interval"), rows, right=0)


def _share(value: float) -> str:
    return f"{round(value, 4) + 0:.4f}"  # + 0: a rounded -0.00001 is no negative number
