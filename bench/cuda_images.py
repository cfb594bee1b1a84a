"""Networks on a graphics card: each stage alone, and pictures from JPEG files to vectors end to end.

    python bench/cuda_images.py [resnet50 vit_b_16]      # needs a card
    python bench/cuda_images.py --compile                # the same with a compiled network where that is quicker
    python bench/cuda_images.py --two                    # two processes that share the card
    python bench/cuda_images.py --cpu resnet18           # the same steps on the processor, over a handful of pictures

Weights are random, from a seed, with running means as training would have left them, and lie in a hub's cache that is made for
the run: they are loaded as a hub's are. Pictures are ``photos/`` in ``VECSTORE_DATA``, each copy with other bytes behind its end;
where that is missing they are made. Each stage is timed ``RUNS`` times (5) in turn with the others, and the median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import DATA

from vecstore import embed
from vecstore.embed import network as networks
from vecstore.embed.card import Card
from vecstore.embed.decode import read_file
from vecstore.embed.devices import Device
from vecstore.embed.jpegs import taken

RUNS = int(os.environ.get("RUNS", "5"))
PICTURES = int(os.environ.get("PICTURES", "8192"))
CORES = os.cpu_count() or 1
NAMES = ("resnet50", "vit_b_16")
# Images a second, computing alone, on an H100 or H200; and end to end, as a share of the slowest stage alone.
ASKED = {"resnet50": 8000, "vit_b_16": 3500}
SHARE = 0.8
# How far a card's vectors may be from the processor's, as a share of how far two pictures are apart.
NEAR = 0.02


class Processor(Card):
    """The processor in a card's place: the same steps in the same order, at no speed worth telling."""

    name = "cpu"

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def pinned(self, shape: Any, dtype: Any) -> Any:
        return self.torch.empty(shape, dtype=dtype)

    def beside(self) -> Any:
        return contextlib.nullcontext()

    def arrive(self) -> None:
        pass

    def follow(self, tensor: Any) -> None:
        pass

    def mark(self) -> Any:
        return self

    def synchronize(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def room(self) -> int:
        return 1 << 30

    def taken_by(self, run: Callable[[], Any]) -> int:
        run()
        return 64 << 20


def save_weights(name: str, home: Path) -> None:
    """Random weights of a network in a hub's cache, and the registry told that file's name."""
    import torch
    from torchvision import models

    os.environ["TORCH_HOME"] = str(home)
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = models.get_model(name, weights=None)
    # Layers that normalise must know what they are given, or numbers grow beyond half precision within a few blocks.
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = None
    with torch.no_grad():
        for _ in range(2 if norms else 0):
            network.train()(torch.randn(16, 3, 224, 224))
    torch.save(network.state_dict(), folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    path = folder / f"{name}-{digest[:8]}.pth"
    (folder / "new.pth").replace(path)
    models.get_model_weights(name).DEFAULT.value.url = f"https://download.pytorch.org/models/{path.name}"


def save_pictures(folder: Path, count: int) -> list[Path]:
    """So many JPEGs, no two with the same bytes."""
    folder.mkdir(parents=True)
    photos = sorted((DATA / "photos").iterdir()) if (DATA / "photos").is_dir() else []
    originals = [path.read_bytes() for path in photos if path.suffix.lower() in (".jpg", ".jpeg")]
    if not originals:
        originals = [_drawn(seed) for seed in range(min(count, 64))]
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(originals[number % len(originals)] + number.to_bytes(4, "big"))
    return paths


def _drawn(seed: int) -> bytes:
    """A JPEG of 500 x 375 whose bytes are as many as a photograph's: shapes, and grain."""
    import io

    from PIL import Image

    random = np.random.default_rng(seed)
    rough = Image.fromarray(random.integers(0, 256, (9, 12, 3)).astype(np.uint8))
    smooth = np.asarray(rough.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.float64)
    grainy = np.clip(smooth + random.normal(0, 9, (375, 500, 1)), 0, 255).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(grainy).save(written, "JPEG", quality=88)
    return written.getvalue()


def loaded(name: str, *, on_card: bool, compile: bool = False) -> Any:
    """The model on the card, or with the processor in a card's place."""
    if on_card:
        return embed.load(name, offline=True, device="cuda", compile=compile)
    model = embed.load(name, offline=True, device="cpu")
    assert isinstance(model, networks.Network)
    import torch

    model.device = Device("cpu", torch.float32)
    model.board(Processor(torch))
    return model


def stages(model: Any, paths: list[Path], place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each stage alone over the same pictures, then all of them together."""
    flight, torch = model.flight, model.torch
    read = [read_file(path) for path in paths]
    jpegs = [jpeg for jpeg in (taken(data, 10**9) for data in read) if jpeg is not None]

    def reading() -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda path: model.undecoded(read_file(path), 10**9), paths))

    def decoding() -> None:
        if flight.decoder is None:
            with ThreadPoolExecutor(CORES) as pool:
                list(pool.map(lambda data: embed.decode(data, enough=model.enough), read))
            return
        for batch in _batches(jpegs, flight.batch):
            with flight.card.beside():
                flight.decoder(batch)
        flight.card.finish()

    few = [model.prepare(embed.decode(data, enough=model.enough).rgb) for data in read[:64]]
    through = flight.through

    def cutting() -> None:
        """Sending decoded pictures and cutting them, with no network behind."""
        flight.through = lambda seen: seen[:, :, 0, 0]
        try:
            for batch in _batches([few[number % len(few)] for number in range(len(paths))], flight.batch):
                flight.start(batch)()
        finally:
            flight.through = through

    def computing() -> None:
        with torch.inference_mode():
            seen = flight.empty(flight.batch).normal_()
            for _ in range(-(-len(paths) // flight.batch)):
                through(seen)
        flight.card.finish()

    yield "read", reading
    yield "decode", decoding
    yield "cut", cutting
    yield "compute", computing
    yield "end to end", lambda: model.images(paths)
    numbers = iter(range(10**6))
    yield "index_folder", lambda: embed.index_folder(paths[0].parent, place / f"{next(numbers)}.vec", model)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def measured(
    name: str, paths: list[Path], place: Path, *, on_card: bool, compile: bool = False, runs: int = RUNS
) -> dict[str, Any]:
    """Images a second of each stage and of all together, and how far vectors are from the processor's."""
    model = loaded(name, on_card=on_card, compile=compile)
    every = dict(stages(model, paths, place))
    seconds: dict[str, list[float]] = {stage: [] for stage in every}
    for run in range(runs + 1):
        for stage, call in every.items():
            start = time.perf_counter()
            call()
            if run:
                seconds[stage].append(time.perf_counter() - start)
    count = -(-len(paths) // model.flight.batch) * model.flight.batch
    rates = {
        stage: (count if stage == "compute" else len(paths)) / statistics.median(times)
        for stage, times in seconds.items()
    }
    slowest = min(("read", "decode", "cut", "compute"), key=lambda stage: rates[stage])
    return {
        "name": name,
        "card": told(model),
        "decoder": "none: Pillow" if model.flight.decoder is None else model.flight.decoder.name,
        "compiled": model.compiled,
        "batch": model.flight.batch,
        "pictures": len(paths),
        "rates": rates,
        "slowest": slowest,
        "share": rates["end to end"] / rates[slowest],
        "apart": apart(model, name, paths[: min(32, len(paths))]),
    }


def apart(model: Any, name: str, paths: list[Path]) -> float:
    """How far vectors of the card are from the processor's at most, as a share of how far two pictures are apart."""
    here = embed.load(name, offline=True, device="cpu").images(paths)
    there = model.images(paths)
    usual = _between(here, np.roll(here, 1, axis=0))
    return float(_between(here, there).max() / np.median(usual))


def _between(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 - np.einsum("ij,ij->i", one.astype(np.float64), other.astype(np.float64))


def told(model: Any) -> str:
    torch = model.torch
    return f"{torch.cuda.get_device_name() if model.device.is_gpu else 'no card'}, torch {torch.__version__}"


def table(rows: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown."""
    names = list(rows[0]["rates"])
    lines = [
        f"| images a second | batch | decoder | {' | '.join(names)} | end to end / slowest alone | vectors apart |",
        f"| --- | --- | --- | {' | '.join('---' for _ in names)} | --- | --- |",
    ]
    for row in rows:
        rates = " | ".join(f"{row['rates'][name]:,.0f}" for name in names)
        called = f"{row['name']}{', compiled' if row['compiled'] else ''}"
        share = f"{row['share']:.2f} of {row['slowest']} (≥ {SHARE})"
        lines.append(
            f"| {called} | {row['batch']} | {row['decoder']} | {rates} | {share} | {row['apart']:.4f} (≤ {NEAR}) |"
        )
    return "\n".join(lines)


def verdicts(row: dict[str, Any]) -> list[str]:
    """What of that falls short of what is asked for."""
    found = []
    asked = ASKED.get(row["name"])
    if asked is not None and row["rates"]["compute"] < asked:
        found.append(
            f"{row['name']} computes {row['rates']['compute']:,.0f} images a second, and {asked:,} are asked for"
        )
    if row["share"] < SHARE:
        found.append(
            f"{row['name']} end to end is {row['share']:.2f} of {row['slowest']} alone, and {SHARE} is asked for"
        )
    if row["apart"] > NEAR:
        found.append(
            f"{row['name']}: the card's vectors are {row['apart']:.4f} away from the processor's, and {NEAR} is allowed"
        )
    return found


def run(
    names: list[str], *, on_card: bool, pictures: int, compile: bool = False, runs: int = RUNS
) -> list[dict[str, Any]]:
    """All of it, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        paths = save_pictures(place / "pictures", pictures)
        rows = []
        for name in names:
            save_weights(name, place / "home")
            (place / name).mkdir()
            rows.append(measured(name, paths, place / name, on_card=on_card, compile=compile, runs=runs))
        return rows


def there_is_a_card() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--two", action="store_true")
    parser.add_argument("--pictures", type=int)
    options = parser.parse_args(arguments)
    if not options.cpu and not there_is_a_card():
        print(
            "torch finds no graphics card here: nothing was measured. --cpu runs the same steps on the processor."
        )
        return 0
    if options.two:
        again = [sys.executable, __file__, *options.names]
        processes = [subprocess.Popen(again) for _ in range(2)]
        return max(process.wait() for process in processes)
    pictures = options.pictures or (12 if options.cpu else PICTURES)
    rows = run(
        options.names,
        on_card=not options.cpu,
        pictures=pictures,
        compile=options.compile,
        runs=1 if options.cpu else RUNS,
    )
    print(f"{rows[0]['card']}; {pictures:,} pictures, {CORES} cores")
    print(table(rows))
    if options.cpu:
        print("The processor was in a card's place: these are no figures of a card.")
        return 0
    short = [line for row in rows for line in verdicts(row)]
    print("\n".join(short) if short else "All that is asked for was reached.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
