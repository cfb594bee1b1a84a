"""Flipped bits, lost writes, cut ends, and files made to harm: what is done to sound files, and to how many."""

from __future__ import annotations

import argparse
import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack
import numpy as np

from faults import cases, workload
from faults.cases import Base, Case
from faults.workload import SMALL, WIDE, Shape
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, PAGE_HEAD_BYTES, seal
from vecstore.storage.pages import META_BYTES, PageMap, read_meta

PAGE = 4096
WILD = [0, 1, 2, 7, 0x7F, 0xFF, 0x100, 0xFFFF, 0x10000, 1 << 24, 1 << 40]
WILD += [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]


@dataclass(frozen=True)
class Block:
    kind: int
    number: int
    start: int
    length: int

    @property
    def name(self) -> str:
        return f"block {keys.NAMES[self.kind]} {self.number} "


def blocks_of(data: bytes) -> list[Block]:
    """Every block of the newest state, and where it lies."""
    metas = [read_meta(data[page * PAGE :][:META_BYTES], page) for page in (0, 1)]
    newest = max(metas, key=lambda meta: meta.transaction)
    found = []
    for leaf in PageMap(np.frombuffer(data, dtype=np.uint8), newest).leaves():
        for order, page, size in zip(leaf.keys.tolist(), leaf.pages.tolist(), leaf.sizes.tolist(), strict=True):
            found.append(Block(order >> 32, order & keys.MAX_NUMBER, page * PAGE + PAGE_HEAD_BYTES, size))
    return found


def tree_pages(data: bytes) -> list[int]:
    """Pages that look like LMDB's own: branches and leaves, of the data and of the free list."""
    found = []
    for page in range(2, len(data) // PAGE):
        number, _, flags = struct.unpack_from("<QHH", data, page * PAGE)
        if number == page and flags in (1, 2):
            found.append(page)
    return found


# -- flipped bits


def flip(data: bytes, place: int, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[place] ^= 1 << bit
    return bytes(flipped)


def flips(base: Base, count: int, pick: random.Random) -> Iterator[Case]:
    """A third in vectors, records, indexes and the graph, a third in LMDB's own pages, the rest anywhere."""
    blocks = blocks_of(base.data)
    rows = [block for block in blocks if block.kind in (keys.VECTORS, keys.RECORDS, keys.FIELDS, *keys.GRAPH_KINDS)]
    own = [0, 1, *tree_pages(base.data)]
    for turn in range(count):
        if turn % 3 == 0:
            block = pick.choice(rows)
            place = block.start + pick.randrange(block.length)
        elif turn % 3 == 1:
            page = pick.choice(own)
            used = struct.unpack_from("<H", base.data, page * PAGE + 12)[0] if page > 1 else META_BYTES
            upper = struct.unpack_from("<H", base.data, page * PAGE + 14)[0] if page > 1 else PAGE
            inside = pick.choice([pick.randrange(max(used, 16)), pick.randrange(min(upper, PAGE - 1), PAGE)])
            place = page * PAGE + inside
        else:
            place = pick.randrange(len(base.data))
        bit = pick.randrange(8)
        data = flip(base.data, place, bit)
        inside_of = next((b for b in rows if b.start <= place < b.start + b.length), None)
        yield Case(
            f"flip bit {bit} of byte {place} (page {place // PAGE}, byte {place % PAGE})",
            base,
            data,
            earlier=turned_back(base, data),
            write=turn % 4 == 0,
            must_name=None if inside_of is None else inside_of.name,
        )


def turned_back(base: Base, data: bytes) -> bool:
    """Whether a meta page looks just like the one of before, whose state is whole: nothing tells this apart."""

    def numbers(of: bytes) -> list[int]:
        ends = [page * PAGE + META_BYTES for page in (0, 1)]
        return [int.from_bytes(of[end - 8 : end], "little") for end in ends]

    first, second = numbers(data)
    return abs(first - second) == 1 and [first, second] != numbers(base.data)


def meta_flips(base: Base, step: int) -> Iterator[Case]:
    """Every bit of both meta pages, or every so many."""
    for place in range(0, 2 * META_BYTES * 8, step):
        page, bit = divmod(place, META_BYTES * 8)
        data = flip(base.data, page * PAGE + bit // 8, bit % 8)
        yield Case(
            f"flip bit {bit % 8} of byte {bit // 8} of meta page {page}",
            base,
            data,
            write=True,
            earlier=turned_back(base, data),
        )


# -- lost writes


def stale(base: Base) -> Iterator[Case]:
    """An older image's page, or whole block, where a newer one belongs."""
    old, new = base.older, base.data
    for page in range(min(len(old), len(new)) // PAGE):
        start = page * PAGE
        if old[start : start + PAGE] != new[start : start + PAGE]:
            data = new[:start] + old[start : start + PAGE] + new[start + PAGE :]
            yield Case(f"page {page} of before", base, data, write=page % 3 == 0, earlier=page < 2)
    for block in blocks_of(new):
        start, end = block.start - PAGE_HEAD_BYTES, block.start + block.length
        if end <= len(old) and _used(old[start:end]) != _used(new[start:end]) and block.length > PAGE:
            data = new[:start] + old[start:end] + new[end:]
            # Where LMDB's own header differs, the error is about the page, and rightly so.
            same = _used(old[start : block.start]) == _used(new[start : block.start])
            yield Case(f"{block.name}of before", base, data, must_name=block.name if same else "damaged")


def _used(data: bytes) -> bytes:
    """Without the two bytes of LMDB's header that it fills with whatever was there."""
    return data[:8] + data[10:]


# -- cut ends


def cut(base: Base, random_places: int, pick: random.Random) -> Iterator[Case]:
    places = list(range(0, len(base.data), PAGE)) + [pick.randrange(len(base.data)) for _ in range(random_places)]
    for place in places:
        yield Case(f"cut to {place} of {len(base.data)} bytes", base, base.data[:place], whole=True)


# -- hostile files


def hostile(base: Base, pick: random.Random) -> Case:
    make = pick.choices([scatter, meta_field, tree_field, page_shuffle, crafted], [3, 2, 4, 1, 8])[0]
    return make(base, pick)


def wild_number(width: int, old: int, data: bytes, pick: random.Random) -> int:
    choices = [pick.choice(WILD), pick.getrandbits(8 * width), old + pick.choice([-2, -1, 1, 2]), len(data) // PAGE,
               pick.randrange(len(data) // PAGE + 2)]  # fmt: skip
    return pick.choice(choices) & ((1 << 8 * width) - 1)


def poke(data: bytearray, place: int, width: int, pick: random.Random) -> str:
    place = min(place, len(data) - width)
    old = int.from_bytes(data[place : place + width], "little")
    new = wild_number(width, old, data, pick)
    data[place : place + width] = new.to_bytes(width, "little")
    return f"{old:#x} -> {new:#x} ({width} bytes) at page {place // PAGE} byte {place % PAGE}"


def scatter(base: Base, pick: random.Random) -> Case:
    data = bytearray(base.data)
    for _ in range(pick.choice([1, 2, 4, 8, 16, 32, 64])):
        data[pick.randrange(len(data))] = pick.randrange(256)
    return Case("scattered bytes", base, bytes(data), write=True, earlier=turned_back(base, bytes(data)))


def meta_field(base: Base, pick: random.Random) -> Case:
    data = bytearray(base.data)
    words = []
    for _ in range(pick.choice([1, 1, 2, 3])):
        page, inside = pick.randrange(2), pick.randrange(META_BYTES)
        width = pick.choice([1, 2, 4, 8])
        words.append(poke(data, page * PAGE + inside // width * width, width, pick))
    return Case(f"meta: {'; '.join(words)}", base, bytes(data), write=True, earlier=turned_back(base, bytes(data)))


def tree_field(base: Base, pick: random.Random) -> Case:
    """Headers, node offsets, nodes, and the lists of free pages."""
    data = bytearray(base.data)
    words = []
    for _ in range(pick.choice([1, 1, 2, 4])):
        page = pick.choice(tree_pages(base.data)) * PAGE
        lower, upper = struct.unpack_from("<HH", base.data, page + 12)
        inside = pick.choice([pick.randrange(0, 16, 2), pick.randrange(16, max(lower, 18), 2), pick.randrange(min(upper, 4090), 4096)])
        words.append(poke(data, page + inside, pick.choice([1, 2, 4, 8]), pick))
    return Case(f"tree: {'; '.join(words)}", base, bytes(data), write=True)


def page_shuffle(base: Base, pick: random.Random) -> Case:
    """A page over another one, its own number mended or not."""
    data = bytearray(base.data)
    source, target = (pick.randrange(2, len(data) // PAGE) for _ in range(2))
    data[target * PAGE : (target + 1) * PAGE] = base.data[source * PAGE : (source + 1) * PAGE]
    mended = pick.random() < 0.5
    if mended:
        data[target * PAGE : target * PAGE + 8] = target.to_bytes(8, "little")
    return Case(f"page {source} over {target}, mended {mended}", base, bytes(data), write=True)


def crafted(base: Base, pick: random.Random) -> Case:
    """A block that lies, with a checksum that does not."""
    data = bytearray(base.data)
    by_kind: dict[int, list[Block]] = {}
    for block in blocks_of(base.data):
        by_kind.setdefault(block.kind, []).append(block)
    words = []
    for _ in range(pick.choice([1, 1, 1, 2, 3])):
        block = pick.choice(by_kind[pick.choice(sorted(by_kind))])
        content = np.frombuffer(bytes(data[block.start : block.start + block.length]), dtype=np.uint8).copy()
        generation = int.from_bytes(content[16:24].tobytes(), "little")
        how = pick.choice([lie_in_head, lie_in_payload, lie_in_payload])
        if block.kind == keys.HEADER and pick.random() < 0.8:
            how = lie_in_header
        if block.kind == keys.RECORDS and pick.random() < 0.4:
            how = bomb
        words.append(f"{block.name}{how(content, pick)}")
        seal(content, generation)
        data[block.start : block.start + block.length] = content.tobytes()
    return Case("crafted: " + "; ".join(words), base, bytes(data), write=True, strict=False)


def lie_in_head(content: np.ndarray, pick: random.Random) -> str:
    place, width = pick.choice([(28, 4), (28, 4), (32, 8), (24, 4), (4, 4), (8, 8)])
    return _lie(content, place, width, pick)


def lie_in_payload(content: np.ndarray, pick: random.Random) -> str:
    used = max(64, int(np.flatnonzero(content)[-1]) - HEAD_BYTES)
    words = []
    for _ in range(pick.choice([1, 1, 4, 32])):
        width = pick.choice([1, 2, 4, 8])
        place = HEAD_BYTES + pick.randrange(min(used, content.size - HEAD_BYTES - 8)) // width * width
        words.append(_lie(content, place, width, pick))
    return ", ".join(words[:3])


def _lie(content: np.ndarray, place: int, width: int, pick: random.Random) -> str:
    old = int.from_bytes(content[place : place + width].tobytes(), "little")
    new = wild_number(width, old, bytes(64 * PAGE), pick)
    content[place : place + width] = np.frombuffer(new.to_bytes(width, "little"), dtype=np.uint8)
    return f"{old:#x} -> {new:#x} at {place}"


def lie_in_header(content: np.ndarray, pick: random.Random) -> str:
    length = int.from_bytes(content[28:32].tobytes(), "little")
    try:
        fields = msgpack.unpackb(content[HEAD_BYTES : HEAD_BYTES + length].tobytes())
    except (ValueError, msgpack.UnpackException):
        return lie_in_payload(content, pick)  # a second lie about the same header
    name = pick.choice(sorted(fields))
    odd = [None, -1, 0, 1, 2, 3, 31, 32, 33, 64, 1000, 65_536, 10**6, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, 1.5, float("nan"),
           "", "l2", "binary", "float16", "hamming", b"", [], {}, [[]], True, [1 << 61] * 3]  # fmt: skip
    new = pick.choice(odd)
    if isinstance(fields[name], dict) and fields[name] and pick.random() < 0.8:
        kind = pick.choice(sorted(fields[name]))
        if isinstance(fields[name][kind], list) and pick.random() < 0.5:
            new = [pick.choice([0, 1, 5, 1 << 62]) for _ in range(pick.randrange(40))]
        fields[name][kind] = new
        name = f"{name}[{kind}]"
    else:
        fields[name] = new
    packed = msgpack.packb(fields)
    room = content.size - HEAD_BYTES
    if len(packed) <= room:
        content[HEAD_BYTES:] = 0
        content[HEAD_BYTES : HEAD_BYTES + len(packed)] = np.frombuffer(packed, dtype=np.uint8)
        content[28:32] = np.frombuffer(len(packed).to_bytes(4, "little"), dtype=np.uint8)
    return f"{name} = {new!r}"


BOMBS = {
    "nested arrays": b"\x91" * 5000,
    "nested maps": b"\x81\x01" * 5000,
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "a huge map": b"\xdf\xff\xff\xff\xff",
    "a huge string": b"\xdb\xff\xff\xff\xff",
    "huge bytes": b"\xc6\xff\xff\xff\xff",
    "many huge arrays": b"\xdd\x00\xff\xff\xff" * 50,
    "a date": b"\xd6\xff\xff\xff\xff\xff",
    "an extension": b"\xc9\xff\xff\xff\xff\x05",
    "not UTF-8": b"\xa4\xff\xfe\xff\xfe",
}


def bomb(content: np.ndarray, pick: random.Random) -> str:
    """Something that must not be unpacked carelessly, where a record's metadata are."""
    count = int.from_bytes(content[28:32].tobytes(), "little")
    heap = HEAD_BYTES + 6 * count
    name = pick.choice(sorted(BOMBS))
    place = heap + pick.randrange(0, 40)
    raw = np.frombuffer(BOMBS[name], dtype=np.uint8)[: content.size - place]
    content[place : place + raw.size] = raw
    return name


# -- the campaign


def bases(folder: str, pick: random.Random, count: int) -> list[Base]:
    tiny = Shape(dim=24, dtype="float32", metric="l2", rows=15)
    kinds = [(SMALL, 25), (tiny, 14), (WIDE, 15), (SMALL, 60)]
    return [
        cases.make_base(folder, pick.randrange(1 << 30), *kinds[place % 4], compact=place % 3 == 1)
        for place in range(count)
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--flips", type=int, default=1800)
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--meta-step", type=int, default=29, help="every so many bits of the meta pages")
    parser.add_argument("--bases", type=int, default=4)
    parser.add_argument("--parts", default="flips,meta,stale,cut,hostile")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=int, default=0)
    options = parser.parse_args()
    np.seterr(all="ignore")
    pick = random.Random(options.seed)
    workload.small_indexes()
    sound = bases(options.folder, pick, options.bases)
    status = 0
    for part in options.parts.split(","):
        chosen: list[Case] = []
        for base in sound:
            if part == "flips":
                chosen += flips(base, options.flips // len(sound), pick)
            elif part == "meta":
                chosen += meta_flips(base, options.meta_step)
            elif part == "stale":
                chosen += stale(base)
            elif part == "cut":
                chosen += cut(base, 40, pick)
            else:
                chosen += (hostile(base, pick) for _ in range(options.hostile // len(sound)))
        outcome = cases.Outcome()
        cases.run_all(options.folder, chosen, outcome, options.report)
        for failure in outcome.failures:
            print("FAILED", failure[:600])
        print(
            f"damage: {part}: {outcome.cases} files, {outcome.noticed} noticed, "
            f"{sum(case.must_name is not None for case in chosen)} in vectors, records, indexes and graphs, "
            f"{len(outcome.failures)} failures"
        )
        status |= bool(outcome.failures)
    return status


if __name__ == "__main__":
    sys.exit(main())
