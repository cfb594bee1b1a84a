"""What it costs to index pictures: against the slowest stage alone, against a network alone, a second time, in memory.

``python bench/images.py [classic network again memory]``. Both sides of a ratio are timed in turn, ``RUNS`` times (7), and the
median of the ratios counts. Pictures: ``photos/`` and ``cifar10-20k.tar.gz`` in the folder ``VECSTORE_DATA``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vecstore import embed
from vecstore.embed.files import pictures
from vecstore.embed.reading import Read, Reader

RUNS = int(os.environ.get("RUNS", "7"))
DATA = Path(os.environ.get("VECSTORE_DATA", Path(__file__).parents[2] / "shared" / "data"))
CORES = os.cpu_count() or 1


def timed(run: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def worked(run: Callable[..., Any], *arguments: Any) -> float:
    """The processor's seconds, which others on the machine take nothing of."""
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


def photos(folder: Path, times: int) -> Path:
    """Each photograph so many times, with a byte behind its end: other content, the same picture."""
    folder.mkdir()
    for path in sorted((DATA / "photos").iterdir()):
        for copy in range(times):
            (folder / f"{copy}_{path.name}").write_bytes(path.read_bytes() + bytes([copy]))
    return folder


def small_pictures(folder: Path) -> Path:
    with tarfile.open(DATA / "cifar10-20k.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def prepared(model: embed.Model, folder: Path) -> list[Any]:
    reader = Reader(model, (), 10**8, CORES, False)
    read = reader.ahead(list(pictures(str(folder))))
    return [item.prepared for item in read if isinstance(item, Read)]


def through(model: embed.Model, ready: list[Any]) -> None:
    for place in range(0, len(ready), model.batch):
        model.vectors(ready[place : place + model.batch])


def told(name: str, rates: list[float], ratios: list[float]) -> None:
    print(
        f"{name}: {statistics.median(rates):,.0f} pictures a second; median ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f}), {len(ratios)} pairs",
        flush=True,
    )


def classic(place: Path) -> None:
    """Indexing photographs, against reading and decoding alone and against embedding alone: the slower of the two."""
    folder = photos(place / "photos", 10)
    model = embed.load("classic")
    ready = prepared(model, folder)
    rates, ratios, alone = [], [], []
    for run in range(RUNS):
        stages = timed(prepared, model, folder), timed(through, model, ready)
        whole = timed(embed.index_folder, folder, place / f"classic{run}.vec", model)
        rates.append(len(ready) / whole)
        ratios.append(max(stages) / whole)
        alone.append([len(ready) / stage for stage in stages])
    told("photographs with classic, against its slowest stage alone", rates, ratios)
    shares = [
        worked(prepared, model, folder)
        / worked(embed.index_folder, folder, place / f"worked{run}.vec", model)
        for run in range(RUNS)
    ]
    print(
        f"  reading and decoding take {statistics.median(shares):.2f} of the processor's time, which bounds the ratio"
    )
    both = [statistics.median(stage) for stage in zip(*alone, strict=True)]
    print(f"  alone: reading and decoding {both[0]:,.0f} a second, embedding {both[1]:,.0f} a second")


def network(place: Path) -> None:
    """Indexing with resnet18 (random weights cost the same), against the network alone over pictures in memory.

    Also against ``model.images`` of the files, which reads, decodes and cuts them too; and what reading, decoding and cutting
    take of the processor's time beside the network's, which on full cores no index can do without.
    """
    import torch
    from torchvision import models

    weights = place / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), weights)
    model = embed.load("resnet18", weights=weights, device="cpu")
    print(f"resnet18 in {model.device.dtype}, {torch.get_num_threads()} threads")
    few = place / "few"
    few.mkdir()
    for number, file in enumerate(pictures(str(small_pictures(place / "small")))):
        if number % 100 == 0:
            os.link(file.path, few / f"{number}.jpg")
    for name, folder in (("photographs", photos(place / "network", 1)), ("small pictures", few)):
        ready = prepared(model, folder)
        through(model, ready[: model.batch])
        files = [file.path for file in pictures(str(folder))]
        rates, ratios, of_files = [], [], []
        for run in range(RUNS):
            alone = timed(through, model, ready)
            both = timed(model.images, files)
            whole = timed(embed.index_folder, folder, place / f"{name}{run}.vec", model)
            rates.append(len(ready) / whole)
            ratios.append(whole / alone)
            of_files.append(whole / both)
        told(f"{name} with resnet18, time against the network alone", rates, ratios)
        told(f"{name} with resnet18, time against images() of the files", rates, of_files)
        share = worked(prepared, model, folder) / worked(through, model, ready)
        print(f"  reading, decoding and cutting take {share:.2f} of the processor's time that the network takes")


def again(place: Path) -> None:
    """A second run over 20,000 files that did not change."""
    folder, path = small_pictures(place / "again"), place / "again.vec"
    embed.index_folder(folder, path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    seconds = [timed(embed.index_folder, folder, path) for _ in range(RUNS)]
    same = before == (path.read_bytes(), path.stat().st_mtime_ns)
    command = [sys.executable, "-m", "vecstore", "index", str(folder), str(path), "--json"]
    whole = [timed(subprocess.check_output, command) for _ in range(RUNS)]
    print(
        f"20,000 unchanged files: {statistics.median(seconds):.2f} s, the command {statistics.median(whole):.2f} s; "
        f"the file {'is the same, byte for byte, and was not written to' if same else 'WAS CHANGED'}"
    )


_MEASURED = """
import json, sys, threading, time
from vecstore import embed
most = 0
def watch():
    global most
    while True:
        with open("/proc/self/status") as status:
            own = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
        most = max(most, own)
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
at = []
report = embed.index_folder(sys.argv[1], sys.argv[2], progress=lambda done, of: at.append((done, most)))
print(json.dumps({"most": most, "batches": at, "rate": report.rate}))
"""


def memory(place: Path) -> None:
    """The most memory of its own that a process held, while it indexed 2,000, 10,000 and 20,000 pictures (Linux)."""
    folder = small_pictures(place / "memory")
    files = list(pictures(str(folder)))
    for count in (2_000, 10_000, 20_000):
        some = place / f"some{count}"
        some.mkdir()
        for number, file in enumerate(files[:count]):
            os.link(file.path, some / f"{number}.jpg")
        command = [sys.executable, "-c", _MEASURED, str(some), str(place / f"memory{count}.vec")]
        found = json.loads(subprocess.check_output(command))
        print(
            f"{count:,} pictures: {found['most'] / 1024:,.0f} MB at most, {found['batches'][-1][1] / 1024:,.0f} MB until the "
            f"last batch, {found['batches'][0][1] / 1024:,.0f} MB until the first; {found['rate']:,.0f} a second",
            flush=True,
        )


def main() -> None:
    parts = {"classic": classic, "network": network, "again": again, "memory": memory}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or parts:
            place = Path(folder) / name
            place.mkdir()
            parts[name](place)
    print(f"load average {', '.join(f'{load:.1f}' for load in os.getloadavg())} on {CORES} cores")


if __name__ == "__main__":
    main()
