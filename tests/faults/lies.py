"""Graphs with right checksums, written to harm: what is in their rows, their codes and their parameters lies."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

import vecstore
from faults import builds, cases, workload
from faults.cases import Base, Case
from faults.damage import blocks_of, lie_in_payload
from vecstore.storage import graph as stored
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, seal
from vecstore.storage.graph import NONE
from vecstore.storage.session import Session

ODD: list[Any] = [None, -1, 0, 1, 3, 255, 65_537, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1, 0.0, -0.5, 1e-300, 1e300,
       float("inf"), float("-inf"), float("nan"), "", "l2", "scalar1", "product8", b"", b"\xff" * 8, b"\x00" * 4096, [], [[]], {}, True,
       [1.0] * 5, [float("nan")] * 3, [1.0, 1e9], [2.0, 1.0]]  # fmt: skip


def lies(base: Base, path: str, count: int, pick: random.Random) -> Iterator[Case]:
    makers = [lie_in_index, lie_in_index, lie_in_rows, lie_in_rows, lie_in_codes, lie_in_block]
    for turn in range(count):
        workload.remove(path)
        with open(path, "wb") as opened:
            opened.write(base.data)
        name = makers[turn % len(makers)](path, pick)
        yield Case(name, base, cases.read(path), strict=False, write=turn % 4 == 0)
    workload.remove(path)


def rewrite(path: str, change: Any) -> str:
    """The graph with something changed: ``change`` gets its parts, and says what it did."""
    with vecstore.open(path, threads=1) as collection, collection._file.writing(5.0):
        session = Session(collection._file)
        graph = session.header.graph
        assert graph is not None
        slots, neighbors = stored.graph_rows(session.base, 0, graph.nodes)
        parts = {
            "slots": slots,
            "neighbors": neighbors,
            "codes": stored.code_rows(session.base, 0, graph.nodes).copy(),
            "content": msgpack.unpackb(stored.read_index(session.base)),
        }
        said: str = change(parts)
        content = parts.pop("content")
        index = content if isinstance(content, bytes) else msgpack.packb(content)
        names = ("degree", "code_bytes", "codec", "entries", "seed")
        linked = np.random.default_rng(len(index)).random(graph.nodes) < 0.9
        linked &= parts["slots"] < session.header.slots
        stored.write_graph(session, **parts, index=index, **{name: getattr(graph, name) for name in names}, linked=linked)
        session.commit()
        session.close()
    return said


def lie_in_index(path: str, pick: random.Random) -> str:
    def change(parts: dict[str, Any]) -> str:
        content = parts["content"]
        if pick.random() < 0.1:
            odd = pick.choice(ODD)
            parts["content"] = odd if pick.random() < 0.5 else msgpack.packb(content)[: pick.randrange(1, 900)]
            parts["content"] = parts["content"] or b"\xc1"
            return f"index: {parts['content']!r}"[:80]
        within, name = content, pick.choice(sorted(content))
        if isinstance(content[name], dict) and pick.random() < 0.8:
            within, name = content[name], pick.choice(sorted(content[name]))
        value, odd = within[name], pick.choice(ODD)
        if isinstance(value, bytes) and value and pick.random() < 0.7:
            words = np.frombuffer(value, dtype="<u4").copy()
            words[pick.randrange(words.size)] = pick.choice([0, 1, 599, 600, 0x7F800000, 0x7FC00000, 0x7F7FFFFF, NONE])
            odd = words.tobytes()
        if isinstance(value, list) and value and pick.random() < 0.6:
            odd = [*value]
            odd[pick.randrange(len(odd))] = pick.choice(ODD)
        within[name] = odd
        return f"index: {name} = {odd!r}"[:80]

    return rewrite(path, change)


def lie_in_rows(path: str, pick: random.Random) -> str:
    def change(parts: dict[str, Any]) -> str:
        which = pick.choice(["slots", "neighbors", "neighbors", "neighbors"])
        table = parts[which].reshape(-1)
        wild = [0, 1, len(parts["slots"]) - 1, len(parts["slots"]), 10**6, (1 << 31) - 1, 1 << 31, NONE - 1, NONE]
        share = pick.choice([1 / table.size, 0.01, 0.3, 1.0])
        chosen = np.flatnonzero(np.random.default_rng(pick.randrange(1 << 30)).random(table.size) < share)
        table[chosen] = pick.choice(wild) if pick.random() < 0.5 else pick.choices(wild, k=chosen.size)
        return f"rows: {chosen.size} of {which}"

    return rewrite(path, change)


def lie_in_codes(path: str, pick: random.Random) -> str:
    def change(parts: dict[str, Any]) -> str:
        noise = np.random.default_rng(pick.randrange(1 << 30)).integers(0, 256, parts["codes"].shape, dtype=np.uint8)
        parts["codes"] = pick.choice([noise, np.zeros_like(noise), np.full_like(noise, 255)])
        return "codes"

    return rewrite(path, change)


def lie_in_block(path: str, pick: random.Random) -> str:
    """Any word of any of a graph's blocks, sealed again."""
    data = bytearray(cases.read(path))
    of_graph = [block for block in blocks_of(bytes(data)) if block.kind in keys.GRAPH_KINDS]
    block = pick.choice(of_graph)
    content = np.frombuffer(bytes(data[block.start : block.start + block.length]), dtype=np.uint8).copy()
    said = lie_in_payload(content, pick) if content[HEAD_BYTES:].any() else "nothing"
    seal(content, int.from_bytes(content[16:24].tobytes(), "little"))
    data[block.start : block.start + block.length] = content.tobytes()
    with open(path, "wb") as opened:
        opened.write(data)
    return f"{block.name}: {said}"[:80]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    builds.prepare()
    path = os.path.join(options.folder, "lies.vec")
    builds.fill(path, 3, 600)
    with vecstore.open(path, threads=1) as collection:
        model = workload.state_of(collection)
        assert collection.stats()["nodes"] == 600
    base = Base(cases.read(path), model, builds.vectors(4, 2))
    outcome = cases.Outcome()
    chosen = list(lies(base, path, options.files, random.Random(options.seed)))
    cases.run_all(options.folder, chosen, outcome)
    for failure in outcome.failures:
        print("FAILED", failure[:600])
    print(f"lies: {outcome.cases} files, {outcome.noticed} noticed, {len(outcome.failures)} failures")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
