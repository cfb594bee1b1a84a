"""Pictures: index a folder, ask for what looks like one, see what could not be read."""

from __future__ import annotations

import argparse
import os
from typing import Any

from vecstore.cli.output import (
    CommandError,
    add_command,
    duration,
    emit,
    pairs,
    plural,
    printable,
    table,
    whole,
)

# What a picture's record holds for machines.
HIDDEN = (
    "thumbnail",
    "model",
    "libraries",
    "content",
    "perceptual",
    "difference",
    "mirrored_perceptual",
    "mirrored_difference",
    "mtime_ns",
)

_INDEX_EXAMPLE = """vecstore index photos/ photos.vec
vecstore index photos/ photos.vec --prune --retry
vecstore index photos/ photos.vec --model resnet50 --offline"""


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    parser = add_command(
        commands, "index", index, "put the pictures below a folder into a collection", _INDEX_EXAMPLE
    )
    parser.add_argument("folder", metavar="FOLDER", help="where the pictures are, and in what is below")
    parser.add_argument("file", metavar="FILE", help="the collection; made if it is not there")
    parser.add_argument(
        "--model",
        default="classic",
        help="what makes vectors of pictures: classic, resnet50 or another of torchvision's classifiers, clip:ViT-B-32, "
        "or what an installed package brings (classic)",
    )
    add_weights(parser, "--weights")
    parser.add_argument("--prune", action="store_true", help="delete records of files that are gone")
    parser.add_argument("--retry", action="store_true", help="try files again that could not be read")
    parser.add_argument(
        "--thumbnails", action="store_true", help="keep a small picture of each in the collection"
    )
    parser.add_argument("--threads", type=whole(1), help="how many pictures are decoded at once (one a core)")
    parser = add_command(
        commands,
        "errors",
        errors,
        "list the files that could not be read, and why",
        "vecstore errors photos.vec",
    )
    parser.add_argument("file", metavar="FILE", help="the collection")


def add_weights(parser: argparse.ArgumentParser, *names: str) -> None:
    """The options for a model's weights; searches have another use for ``--weights``."""
    parser.add_argument(
        *names,
        "--model-weights",
        dest="model_weights",
        metavar="FILE",
        help="the model's weights, instead of the hub's",
    )
    parser.add_argument("--offline", action="store_true", help="fetch nothing: weights must be there already")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where networks run: a graphics card if there is one (auto), the processor, or a card and nowhere else",
    )


def loaded(options: argparse.Namespace, name: str) -> Any:
    """A model with the options that `add_weights` declares."""
    from vecstore import embed

    return embed.load(name, weights=options.model_weights, offline=options.offline or None, device=options.device)


def names_model(options: argparse.Namespace) -> bool:
    """Whether a model was named, or something about it."""
    asked = (options.model, options.model_weights)
    return asked != (None, None) or options.offline or options.device != "auto"


def model_of(options: argparse.Namespace, collection: Any) -> Any:
    """The model to ask with: None where the collection's own, as it is found by its name, will do."""
    from vecstore.embed.asking import made_with

    if not names_model(options):
        return None
    return loaded(options, options.model or (made_with(collection) or "classic").split(" ")[0])


def index(options: argparse.Namespace) -> int:
    """Index a folder, and say what was done."""
    from vecstore import embed

    report = embed.index_folder(
        options.folder,
        options.file,
        loaded(options, options.model),
        prune=options.prune,
        retry=options.retry,
        threads=options.threads,
        thumbnails=options.thumbnails,
        progress=True,
    )
    names = ("found", "added", "changed", "moved", "unchanged", "failed", "pruned")
    document = {
        "folder": options.folder,
        "file": options.file,
        **{name: getattr(report, name) for name in names},
        "seconds": report.elapsed,
        "pictures_per_second": report.rate,
        "stages": report.seconds,
        "bottleneck": report.bottleneck,
        "failures": report.failures,
    }
    emit(options, document, _told(options, report))
    return 0


def _told(options: argparse.Namespace, report: Any) -> list[str]:
    done = [
        (name, f"{getattr(report, name):,}")
        for name in ("added", "changed", "moved", "unchanged", "pruned", "failed")
    ]
    lines = [f"{plural(report.found, 'picture')} below {options.folder}, in {duration(report.elapsed)}"]
    lines += pairs([item for item in done if item[1] != "0"])
    if report.added + report.changed:
        stages = sorted(report.seconds.items(), key=lambda item: -item[1])
        times = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in stages if seconds >= 0.001)
        lines.append(f"{report.rate:,.0f} pictures a second; most time went to {report.bottleneck} ({times})")
    for path, reason in list(report.failures.items())[:5]:
        lines.append(f"not read: {printable(reason if path in reason else f'{path}: {reason}')}")
    if report.failed:
        lines.append(f"see all with: vecstore errors {options.file}")
    return lines


def errors(options: argparse.Namespace) -> int:
    """Print the files that could not be read."""
    from vecstore import embed
    from vecstore.embed.errors import shown

    if not os.path.exists(options.file):
        raise CommandError(f"{options.file} does not exist")
    found = embed.failures(options.file)
    document = {
        "file": options.file,
        "errors": [{"path": each.path, "reason": each.reason} for each in found],
    }
    # A reason begins with the path, which stands beside it here.
    rows = [(each.path, each.reason.removeprefix(shown(each.path)).removeprefix(":").lstrip()) for each in found]
    emit(
        options,
        document,
        table(("file", "reason"), rows, right=0) if rows else ["all pictures could be read"],
    )
    return 0


# -- asking


def is_picture(text: str) -> bool:
    """Whether an argument names a picture, and no vector."""
    from vecstore.embed.fetch import is_address
    from vecstore.embed.files import SUFFIXES

    return is_address(text) or os.path.splitext(text)[1].lower() in SUFFIXES
