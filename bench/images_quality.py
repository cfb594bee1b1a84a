"""How well pictures are found: altered copies of photographs, and pictures of ten kinds.

    python bench/images_quality.py copies     # classic against the hashes of imagededup and imagehash
    python bench/images_quality.py groups     # how many of the same copies dedupe finds, and how many that are none
    python bench/images_quality.py kinds      # classic against its parts, hashes and plain pixels, on CIFAR-10
    python bench/images_quality.py weights    # the parts' weights, found on one half and told of the other

Needs ``pip install imagehash tqdm scikit-learn matplotlib`` and ``pip install --no-deps imagededup`` (its hashes alone,
without torch), and ``VECSTORE_DATA``: a folder with ``photos/`` and ``cifar10-20k.tar.gz``.
"""

from __future__ import annotations

import io
import itertools
import sys
import tarfile
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import DATA
from PIL import Image, ImageDraw

from vecstore import embed
from vecstore.embed import classic, features
from vecstore.embed.resize import resize

Picture = Image.Image


# -- copies


def _jpeg(picture: Picture) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=15)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _crop(share: float, across: float, down: float) -> Callable[[Picture], Picture]:
    """So much of each side is cut off; where the window lies is told by two numbers from 0 to 1."""

    def cut(picture: Picture) -> Picture:
        wide, tall = picture.size
        left, top = wide * share * across, tall * share * down
        return picture.crop((round(left), round(top), round(left + wide * (1 - share)), round(top + tall * (1 - share))))

    return cut


def _overlay(picture: Picture) -> Picture:
    """A caption on a bar, as pictures are passed on."""
    made = picture.copy()
    wide, tall = made.size
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, tall * 0.8, wide, tall), fill=(0, 0, 0))
    draw.text((wide * 0.05, tall * 0.83), "WHEN THE CAPTION IS LONG", fill=(255, 255, 255), font_size=tall * 0.11)
    return made


ALTERED: dict[str, Callable[[Picture], Picture]] = {
    "JPEG 15": _jpeg,
    "crop 10 %": _crop(0.1, 0.5, 0.5),
    "crop 10 %, a corner": _crop(0.1, 0.0, 1.0),
    "crop 30 %": _crop(0.3, 0.5, 0.5),
    "crop 30 %, a corner": _crop(0.3, 0.0, 1.0),
    "rotate 8°": lambda picture: picture.rotate(8, Image.Resampling.BICUBIC),
    "mirror": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "overlay": _overlay,
    "resize to a quarter": lambda picture: picture.resize((max(1, picture.width // 4), max(1, picture.height // 4))),
}


def _their_hashes() -> dict[str, Callable[[Picture], NDArray[np.bool_]]]:
    import imagehash

    found: dict[str, Callable[[Picture], NDArray[np.bool_]]] = {}
    for name in ("phash", "dhash", "whash", "average_hash"):
        hashed = getattr(imagehash, name)
        found[f"imagehash {name}"] = lambda picture, hashed=hashed: hashed(picture).hash.ravel()
    # Its network needs torch and is not asked for here.
    for module, name in (("methods.cnn", "CNN"), ("utils.models", "CustomModel")):
        network = types.ModuleType(f"imagededup.{module}")
        setattr(network, name, None)
        sys.modules.setdefault(network.__name__, network)
    from imagededup import methods

    for name in ("PHash", "DHash", "WHash", "AHash"):
        made = getattr(methods, name)(verbose=False)
        found[f"imagededup {name}"] = lambda picture, made=made: _bits(made.encode_image(image_array=np.asarray(picture)))
    return found


def _bits(text: str) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text.zfill(16)), np.uint8)).astype(bool)


def _first(distances: NDArray[Any]) -> NDArray[np.float64]:
    """Whether each row's own place is the nearest; where several tie, the chance that it is."""
    own = np.diagonal(distances)[:, None]
    ties = (distances == own).sum(axis=1)
    return np.where((distances < own).any(axis=1), 0.0, 1 / ties)


def copies() -> None:
    files = sorted((DATA / "photos").iterdir())
    photos = [Image.open(file).convert("RGB") for file in files]
    altered = {name: [alter(photo) for photo in photos] for name, alter in ALTERED.items()}
    results: dict[str, list[float]] = {}
    model = embed.load("classic")

    def vectors(pictures: list[Picture]) -> NDArray[np.float32]:
        return model.images(pictures)

    stored = vectors(photos)
    results["classic"] = []
    for pictures in altered.values():
        mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        both = np.minimum(1 - vectors(pictures) @ stored.T, 1 - vectors(mirrored) @ stored.T)
        results["classic"].append(float(_first(both).mean()))
    for name, make in _their_hashes().items():
        known = np.stack([make(photo) for photo in photos])
        results[name] = []
        for pictures in altered.values():
            asked = np.stack([make(picture) for picture in pictures])
            results[name].append(float(_first((asked[:, None] != known[None]).sum(axis=2)).mean()))
    print("| recall@1 of 200 |", " | ".join(ALTERED), "|")
    print("| --- |", " | ".join("---" for _ in ALTERED), "|")
    for name, row in results.items():
        print(f"| {name} |", " | ".join(f"{value:.3f}" for value in row), "|")


def groups() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        for file in sorted((DATA / "photos").iterdir()):
            photo = Image.open(file).convert("RGB")
            photo.save(folder / "in" / f"{file.stem}--.png")
            for number, alter in enumerate(ALTERED.values()):
                alter(photo).save(folder / "in" / f"{file.stem}--{number}.png")
        path = str(folder / "all.vec")
        embed.index_folder(folder / "in", path)
        print("| dedupe, the share found |", " | ".join(ALTERED), "| no copies | |")
        print("| --- |", " | ".join("---" for _ in ALTERED), "| --- | --- |")
        ways: dict[str, dict[str, Any]] = {
            "as it is": {}, "radius 0.3": {"radius": 0.3}, "radius 0.4, bits 20": {"radius": 0.4, "bits": 20},
        }  # fmt: skip
        for told, options in ways.items():
            found = embed.dedupe(path, **options)
            counts, wrong = [0] * len(ALTERED), 0
            for group in found.groups:
                members = [Path(copy.id).stem.split("--") for copy in (group.kept, *group.copies)]
                originals = {photo_name for photo_name, number in members if not number}
                wrong += sum(photo_name != members[0][0] for photo_name, _ in members)
                for photo_name, number in members:
                    if number and photo_name in originals:
                        counts[int(number)] += 1
            shares = " | ".join(f"{count / 200:.3f}" for count in counts)
            print(f"| {told} (radius {found.radius:.2f}) | {shares} | {wrong} | {found.seconds:.1f} s |", flush=True)


# -- kinds


def _cifar() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Pictures, their kinds, and which belong to the test part."""
    pictures, kinds, tests = [], [], []
    with tarfile.open(DATA / "cifar10-20k.tar.gz") as packed:
        for member in sorted(packed.getmembers(), key=lambda member: member.name):
            if member.isfile() and member.name.endswith(".jpg"):
                part, kind = member.name.split("/")[-3:-1]
                file = packed.extractfile(member)
                assert file is not None
                pictures.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
                kinds.append(kind)
                tests.append(part == "test")
    return np.stack(pictures), np.unique(kinds, return_inverse=True)[1], np.array(tests)


def _scores(
    nearness: Callable[[slice], NDArray[np.float32]], kinds: NDArray[np.int64], asked: NDArray[np.int64], stored: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision over all that is stored, and recall@1, of each query. Ties count as they fall, by place."""
    precision, first = np.empty(len(asked)), np.empty(len(asked))
    for start in range(0, len(asked), 250):
        part = slice(start, start + 250)
        order = np.argsort(-nearness(part), axis=1, kind="stable")
        right = kinds[stored][order] == kinds[asked][part][:, None]
        hits = np.cumsum(right, axis=1)
        ranks = np.arange(1, right.shape[1] + 1)
        precision[part] = (hits / ranks * right).sum(axis=1) / right.sum(axis=1)
        first[part] = right[:, 0]
    return precision, first


def _interval(values: NDArray[np.float64]) -> str:
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(1000)]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.4f} ({low:.4f} to {high:.4f})"


def _shuffled(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(count)


def kinds() -> None:
    pictures, kind, tests = _cifar()
    asked, stored = np.flatnonzero(tests), np.flatnonzero(~tests)
    # Ties must not be broken by the order of kinds.
    stored = stored[_shuffled(len(stored))]
    prepared = np.stack([resize(picture, features.SIDE, features.SIDE) for picture in pictures])
    model = embed.load("classic")

    def over(make: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([make(prepared[place : place + 500]) for place in range(0, len(prepared), 500)])

    pixels = features.unit(pictures.reshape(len(pictures), -1).astype(np.float32) - 127.5)
    every: dict[str, NDArray[Any]] = {
        "classic": over(model.vectors),
        "edges alone": over(features.edges),
        "colours alone": over(features.colours),
        "layout alone": over(features.layout),
        "plain pixels, 32 × 32": pixels,
    }
    for name, make in _their_hashes().items():
        if name.startswith("imagehash"):
            every[name] = np.stack([make(Image.fromarray(picture)) for picture in pictures]).astype(np.float32) * 2 - 1
    print("| CIFAR-10, 5,000 asked of 15,000 | mAP | recall@1 |\n| --- | --- | --- |")
    for name, found in every.items():
        near = found[stored].T.copy()
        precision, first = _scores(lambda part, found=found, near=near: found[asked[part]] @ near, kind, asked, stored)
        print(f"| {name} | {_interval(precision)} | {_interval(first)} |", flush=True)


def weights() -> None:
    pictures, kind, _ = _cifar()
    prepared = np.stack([resize(picture, features.SIDE, features.SIDE) for picture in pictures])
    parts = [
        np.concatenate([part(prepared[place : place + 500]) for place in range(0, len(prepared), 500)])
        for part in (features.colours, features.edges, features.layout)
    ]
    order = _shuffled(len(pictures))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    tried = [
        np.array(steps) / np.linalg.norm(steps)
        for steps in itertools.product((0.0, 0.25, 0.5, 0.75, 1.0), repeat=3)
        if max(steps) == 1
    ]
    tried.append(np.array(classic.WEIGHTS) / np.linalg.norm(classic.WEIGHTS))
    print("| colours, edges, layout | mAP here | mAP there | recall@1 here | there |\n| --- | --- | --- | --- | --- |")
    for weight in tried:
        line = []
        for half in halves:
            asked, stored = half[:500], half[500:]
            alike = sum(w * w * (part[asked] @ part[stored].T) for w, part in zip(weight, parts, strict=True) if w)
            precision, first = _scores(lambda part, alike=alike: alike[part], kind, asked, stored)
            line += [precision.mean(), first.mean()]
        print(f"| {weight.round(2).tolist()} | {line[0]:.4f} | {line[2]:.4f} | {line[1]:.3f} | {line[3]:.3f} |", flush=True)


if __name__ == "__main__":
    known = {"copies": copies, "groups": groups, "kinds": kinds, "weights": weights}
    for name in sys.argv[1:] or list(known):
        known[name]()
