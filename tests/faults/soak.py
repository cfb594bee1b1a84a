"""A writer, deleters and readers of one collection, and one who kills them: what a call returned from must be there.

Each mutator owns some ids, and writes into a journal of its own what it is about to do and what it has done. Whoever
starts in a dead one's place compares the collection with its journal first: only the last call may be there or not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import vecstore
from vecstore import config

DIM, ANCHORS, K = 32, 4_000, 10
# Small steps of upkeep, so that kills fall within all of them.
STEPS = {
    "GRAPH_FROM": 2_000, "GRAPH_FROM_BYTES": 0, "LINKED_FROM": 64, "LINKED_AT_ONCE": 400, "SWEPT_FROM": 1_000,
    "SWEPT_AT_ONCE": 4_000,
}  # fmt: skip
MUTATORS, READERS = ("writer", "deleter-1", "deleter-2"), 8


def vector_of(id_: str, version: int) -> Any:
    """The vector that a record has in a version: anyone can tell whether it is the right one."""
    digest = hashlib.blake2b(f"{id_} {version}".encode(), digest_size=8).digest()
    draw = np.random.default_rng(int.from_bytes(digest, "little"))
    centre = np.random.default_rng(int(draw.integers(40))).standard_normal(DIM)
    return (centre + 0.4 * draw.standard_normal(DIM)).astype(np.float32)


def vectors_of(ids: list[str], versions: list[int]) -> Any:
    return np.stack([vector_of(id_, version) for id_, version in zip(ids, versions, strict=True)])


# -- those that change it


class Journal:
    """What one mutator did: lines of [state, kind, ids, version], and the model that follows from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: dict[str, int] = {}
        self.open: list[Any] | None = None
        # The last number that was given to a record, which may be gone by now.
        self.last = 0
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                state, *call = json.loads(line)
            except ValueError:  # it was killed while it wrote this
                continue
            if state == "begin":
                self.open = call
                self.last = max([self.last, *(int(id_.rsplit(":")[-1]) for id_ in call[1])])
            else:
                if state == "done":
                    self.apply(call)
                self.open = None
        self.file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def apply(self, call: list[Any]) -> None:
        kind, ids, version = call
        for id_ in ids:
            if kind == "delete":
                self.model.pop(id_, None)
            else:
                self.model[id_] = version

    def write(self, state: str, call: list[Any]) -> None:
        # A kill leaves what was handed to the system: nobody cuts the power here.
        os.write(self.file, (json.dumps([state, *call]) + "\n").encode())


def settle(collection: vecstore.Collection, journal: Journal, name: str) -> list[str]:
    """Compare with the journal, whose last call may have been done or not; what is wrong."""
    found = {
        record.id: record.metadata["version"] for record in collection.scan(where={"owner": name}, vectors=False)
    }
    call = journal.open
    if call is not None:
        before = dict(journal.model)
        journal.apply(call)
        done = found == journal.model
        if not done:
            journal.model = before
        journal.write("done" if done else "undone", call)
        journal.open = None
    lost = journal.model.keys() - found.keys()
    risen = found.keys() - journal.model.keys()
    other = [id_ for id_ in found.keys() & journal.model.keys() if found[id_] != journal.model[id_]]
    said = (("lost", lost), ("there, and not in the journal", risen), ("of another version", other))
    return [f"{len(ids)} records {what}: {sorted(ids)[:3]}" for what, ids in said if ids]


def mutate(folder: Path, name: str, seed: int) -> None:
    pick = random.Random(seed)
    journal = Journal(folder / f"{name}.journal")
    with vecstore.open(folder / "soak.vec", threads=1, timeout=120) as collection:
        report(folder, "wrong", *settle(collection, journal, name))
        number = journal.last or seed * 10_000_000
        while True:
            known = list(journal.model)
            draw = pick.random()
            if len(known) < 1_500 or (draw < 0.45 and len(known) < 4_000):
                count = pick.choice([1, 7, 60, 300])
                call = ["add", [f"{name}:{number + step + 1}" for step in range(count)], pick.randrange(1 << 20)]
                number += count
            elif draw < 0.7 or not known:
                call = ["upsert", pick.sample(known, min(len(known), pick.choice([1, 20, 200]))), pick.randrange(1 << 20)]
            else:
                call = ["delete", pick.sample(known, min(len(known), pick.choice([1, 50, 400]))), 0]
            journal.write("begin", call)
            kind, ids, version = call
            if kind == "delete":
                collection.delete(ids)
            else:
                metadata = [{"owner": name, "version": version}] * len(ids)
                put = collection.add if kind == "add" else collection.upsert
                put(ids, vectors_of(ids, [version] * len(ids)), metadata)
            journal.write("done", call)
            journal.apply(call)
            if pick.random() < 0.002:
                collection.compact()
            report(folder, kind)


# -- those that read it


class Graveyard:
    """Ids that were deleted for good: mutators never give one to another record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = dict.fromkeys(MUTATORS, 0)
        self.ids: set[str] = set()

    def refresh(self) -> None:
        for name in self.places:
            path = self.folder / f"{name}.journal"
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self.places[name])
                data = file.read()
            end = data.rfind(b"\n") + 1
            self.places[name] += end
            for line in data[:end].splitlines():
                try:
                    state, kind, ids, _ = json.loads(line)
                except ValueError:
                    continue
                if (state, kind) == ("done", "delete"):
                    self.ids.update(ids)


def read(folder: Path, seed: int) -> None:
    pick, graves = random.Random(seed), Graveyard(folder)
    with vecstore.open(folder / "soak.vec", mode="r", threads=1) as collection:
        while True:
            graves.refresh()
            number = pick.randrange(ANCHORS)
            query = vector_of(f"anchor:{number}", 0)
            hits = collection.search(query, k=K)
            problems = []
            if len(hits) != K or len(set(hits.ids)) != K:
                problems.append(f"{len(hits)} hits, {len(set(hits.ids))} of them different")
            if graves.ids & set(hits.ids):
                problems.append(f"hits that were deleted: {graves.ids & set(hits.ids)}")
            rows = vectors_of(hits.ids, [metadata["version"] for metadata in hits.metadata])
            apart = np.sqrt(((rows.astype(np.float64) - query) ** 2).sum(axis=1))
            if not np.allclose(apart, hits.distances, rtol=1e-5, atol=1e-5):
                problems.append(f"distances {hits.distances}, which are {apart}")
            report(folder, "wrong", *problems)
            time.sleep(pick.uniform(0.0, 0.05))  # so that those that write get a turn
            report(folder, "search", *(["missed"] if hits.ids[0] != f"anchor:{number}" else []))


# -- what they report


def report(folder: Path, kind: str, *said: str) -> None:
    """Append to this process's own list of what happened."""
    if kind == "wrong" and not said:
        return
    line = json.dumps([kind, *said]) + "\n"
    descriptor = _opened.get(folder)
    if descriptor is None:
        path = folder / f"{os.getpid()}.report"
        descriptor = _opened[folder] = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(descriptor, line.encode())


_opened: dict[Path, int] = {}


def peak_of(pid: int) -> int:
    """Its own memory at its most, in bytes: mapped pages of the file are the system's."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0


# -- the one who kills


def start(folder: Path, name: str, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "faults.soak", str(folder), "--role", name, "--seed", str(seed)]
    return subprocess.Popen(command, stderr=(folder / "errors.txt").open("a"))


def fill(path: Path) -> None:
    with vecstore.open(path, dim=DIM, metric="l2", threads=2) as collection:
        ids = [f"anchor:{number}" for number in range(ANCHORS)]
        collection.add(ids, vectors_of(ids, [0] * ANCHORS), [{"owner": "anchor", "version": 0}] * ANCHORS)


def soak(folder: Path, seconds: float, every: float, seed: int, picture: Path | None) -> int:
    pick, path = random.Random(seed), folder / "soak.vec"
    fill(path)
    names = [*MUTATORS, *(f"reader-{number}" for number in range(READERS))]
    running = {name: start(folder, name, seed + place) for place, name in enumerate(names)}
    begun = time.monotonic()
    kills, unasked, starts, peak = 0, 0, len(names), 0
    sizes: list[tuple[float, int]] = []
    strike = begun + every
    while (now := time.monotonic()) < begun + seconds:
        time.sleep(0.25)
        sizes.append((now - begun, path.stat().st_size))
        peak = max(peak, *(peak_of(process.pid) for process in running.values()))
        for name, process in running.items():
            if process.poll() is not None:
                unasked += 1
                starts += 1
                running[name] = start(folder, name, seed + starts)
        if now >= strike:
            name = pick.choice(names)
            running[name].send_signal(signal.SIGKILL)
            running[name].wait()
            kills, starts, strike = kills + 1, starts + 1, now + pick.uniform(0.5, 1.5) * every
            running[name] = start(folder, name, seed + starts)
    for process in running.values():
        process.kill()
        process.wait()
    wrong = [f"a process ended by itself, {unasked} times: see {folder / 'errors.txt'}"] if unasked else []
    done: Counter[str] = Counter()
    for each in folder.glob("*.report"):
        for line in each.read_text().splitlines():
            try:
                kind, *said = json.loads(line)
            except ValueError:
                continue
            if kind == "wrong":
                wrong += said
            else:
                done[kind] += 1
                done["missed"] += kind == "search" and bool(said)
    recall = 0.0
    with vecstore.open(path, threads=2) as collection:
        for name in MUTATORS:
            wrong += settle(collection, Journal(folder / f"{name}.journal"), name)
        checked = collection.verify()
        wrong += checked.problems[:5]
        queries = vectors_of([f"query:{number}" for number in range(200)], [0] * 200)
        truth = collection.search(queries, k=K, exact=True).distances[:, -1:] + 1e-6
        recall = float(np.mean(collection.search(queries, k=K).distances <= truth))
        stats = collection.stats()
    changes = done["add"] + done["upsert"] + done["delete"]
    print(f"soak: {seconds:,.0f} s, {changes:,} calls that changed it and {done['search']:,} searches, {kills} kills")
    print(f"soak: {done['add']:,} adds, {done['upsert']:,} upserts, {done['delete']:,} deletes; {stats['count']:,} records at the end")
    print(f"soak: {len(wrong)} wrong answers or lost writes; an anchor was not found by {done['missed']:,} of its searches")
    print(f"soak: recall {recall:.3f} at the end; at most {peak / 2**20:,.0f} MB in a process")
    first, most, last = (size / 2**20 for size in (sizes[0][1], max(size for _, size in sizes), sizes[-1][1]))
    print(f"soak: file {first:,.1f} MB at first, {most:,.1f} at most, {last:,.1f} at last")
    for each in wrong[:20]:
        print("WRONG", each[:600])
    if picture is not None:
        draw(sizes, picture)
        print(f"soak: {picture}")
    return 1 if wrong or recall < 0.9 else 0


def draw(sizes: list[tuple[float, int]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    axes.plot([at for at, _ in sizes], [size / 2**20 for _, size in sizes], linewidth=1.5)
    axes.set(xlabel="seconds", ylabel="file, MB", ylim=(0, None), title="The file's size while it is changed and its writers are killed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=140)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--role")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    for name, value in STEPS.items():
        setattr(config, name, value)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if options.role is None:
        return soak(options.folder, options.seconds, options.every, options.seed, options.picture)
    try:
        if options.role in MUTATORS:
            mutate(options.folder, options.role, options.seed)
        read(options.folder, options.seed)
    except Exception:
        report(options.folder, "wrong", f"{options.role}: {traceback.format_exc()[-800:]}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
