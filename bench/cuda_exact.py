"""Exact search on the card: checked against the CPU, timed whole and by kernel, streamed, and beside faiss and cuVS."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cuda_card import Bench
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def run(bench: Bench) -> None:
    for name, base, queries in sets(bench):
        exact(bench, name, base, queries)


def sets(bench: Bench) -> Iterator[tuple[str, Vectors, Vectors]]:
    """Real vectors in two widths; random ones in the simulator, whose times mean nothing anyway."""
    if bench.simulate:
        random = np.random.default_rng(0)
        for dim in (8, 20):
            yield (
                f"{bench.rows} × {dim}",
                random.random((bench.rows, dim), np.float32),
                random.random((bench.queries, dim), np.float32),
            )
        return
    from peers import DATA, sift

    queries = np.load(DATA / "sift-400k.npz")["query"].astype(np.float32)
    yield f"{bench.rows:,} × 128 (SIFT)", sift(bench.rows, "float32"), repeated(queries, bench.queries)
    text = np.load(DATA / "text-384.npz")
    base, asked = text["base"].astype(np.float32), text["query"].astype(np.float32)
    # Two sentences beside one another, no two pairs alike: real vectors of twice the width, as many as are wanted.
    first = np.arange(bench.rows) % len(base)
    second = (first + 1 + 7 * (np.arange(bench.rows) // len(base))) % len(base)
    yield (
        f"{bench.rows:,} × 768 (pairs of sentences)",
        np.concatenate([base[first], base[second]], axis=1),
        repeated(np.concatenate([asked, asked[::-1]], axis=1), bench.queries),
    )


def repeated(queries: Vectors, count: int) -> Vectors:
    return np.ascontiguousarray(np.resize(queries, (count, queries.shape[1])))


def exact(bench: Bench, name: str, base: Vectors, queries: Vectors) -> None:
    import vecstore

    path = bench.folder / "exact.vec"
    path.unlink(missing_ok=True)
    rows, dim = base.shape
    with vecstore.open(path, dim=dim, metric="l2", device="cpu", durability="none") as here, here.bulk():
        step = max(1, (256 << 20) // (4 * dim))
        for start in range(0, rows, step):
            here.add(range(start, min(start + step, rows)), base[start : start + step])
        with vecstore.open(path, mode="r", device="cuda") as there:
            found = there.search(queries, k=bench.k, exact=True)
            some = queries[:100]
            right = here.search(some, k=bench.k, exact=True)
            if found.ids[: len(some)].tolist() != right.ids.tolist():
                raise SystemExit(f"{name}: the card's answers are not the CPU's")
            bench.line(f"exact, {name}: same answers as the CPU", f"{len(some)} queries", "all", True)
            whole = bench.median(lambda: there.search(queries, k=bench.k, exact=True))
            bench.line(f"exact, {len(queries):,} queries, {name}: search()", f"{whole * 1e3:,.2f} ms")
            share = kernels(bench, name, there, queries)
            bench.line(f"exact, {name}: of the limit, kernels", f"{share:.2f}×", "≥ 0.7×", share >= 0.7)
            cpu = bench.median(lambda: here.search(queries, k=bench.k, exact=True))
            bench.line(
                f"exact, {name}: CPU, all threads", f"{cpu * 1e3:,.2f} ms; the card {cpu / whole:.1f}×"
            )
            pays(bench, name, there, here, queries)
            streamed(bench, name, path, queries, base.nbytes)
    for peer, make in {"faiss-gpu": faiss_gpu, "cuVS": cuvs}.items():
        with contextlib.suppress(ImportError):
            search = make(base, bench.k)
            seconds = bench.median(lambda search=search: search(queries))
            bench.line(
                f"exact, {name}: {peer}",
                f"{seconds * 1e3:,.2f} ms; ours {seconds / whole:.2f}×",
                "≥ 1×",
                seconds >= whole,
            )
    path.unlink()


def kernels(bench: Bench, name: str, there: Any, queries: Vectors) -> float:
    """What the card does of a search, without the way there and the comparing again; gives its share of the limit."""
    from vecstore.kernels import dispatch

    cuda, card, held = dispatch.cuda(), bench.card, there._device.kept["vectors"]
    rows, dim = len(there), queries.shape[1]
    mask, stream = card.put(np.ones(rows, np.uint8)), card.stream()

    def norms() -> None:
        cuda.norms.norms(card, held.rows[:rows], held.norms[:rows], stream)

    bench.kernel(f"norms, {name}", bench.median(norms), 4.0 * rows * (dim + 1), 2.0 * rows * dim)
    batch = cuda.scan.Batch(card, "l2", queries, 2 * bench.k + 16, stream)
    piece = cuda.tile.Piece(held.rows, held.norms, mask, 0)
    batch.add(piece, 0, rows)  # from here on limits are known, and hardly a value is written

    def tiles() -> None:
        cuda.tile.score(
            card, "l2", piece, 0, rows, batch._queries, len(queries), None, batch._limits, batch._hits, stream
        )

    moved, operations = 4.0 * rows * (dim + 1) + rows, 2.0 * rows * dim * len(queries)
    bench.kernel(f"tiles, {name}", bench.median(tiles), moved, operations)
    batch.close()

    def everything() -> None:
        fresh = cuda.scan.Batch(card, "l2", queries, 2 * bench.k + 16, stream)
        fresh.add(piece, 0, rows)
        fresh.result()
        fresh.close()

    share = bench.kernel(f"tiles and selection, {name}", bench.median(everything), moved, operations)
    card.release(mask)
    return share


def pays(bench: Bench, name: str, there: Any, here: Any, queries: Vectors) -> None:
    """From how many queries on the card is quicker, its rows being there already."""
    for count in (2,) if bench.simulate else (1, 4, 16, 64, 256):
        some = queries[:count]
        card = bench.median(lambda some=some: there.search(some, k=bench.k, exact=True))
        cpu = bench.median(lambda some=some: here.search(some, k=bench.k, exact=True))
        bench.line(f"exact, {count} of {name}", f"{card * 1e3:,.2f} ms; the CPU {cpu * 1e3:,.2f} ms")


def streamed(bench: Bench, name: str, path: Path, queries: Vectors, size: int) -> None:
    """As if the card had no room for the collection: all rows come from the mapped file, every time."""
    import vecstore
    from vecstore.query import on_card

    keep, on_card._held = on_card._held, lambda *_: None
    try:
        with vecstore.open(path, mode="r", device="cuda") as there:
            seconds = bench.median(lambda: there.search(queries, k=bench.k, exact=True))
    finally:
        on_card._held = keep
    rate = size / seconds
    bench.line(
        f"exact, {name}: streamed from the file",
        f"{seconds * 1e3:,.2f} ms; {rate / 1e9:,.1f} GB/s, {rate / bench.limits.bus:.2f}× of the bus",
    )


def faiss_gpu(base: Vectors, k: int) -> Callable[[Vectors], Any]:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this faiss is for CPUs")
    index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), base.shape[1])
    index.add(base)
    return lambda queries: index.search(queries, k)


def cuvs(base: Vectors, k: int) -> Callable[[Vectors], Any]:
    import cupy
    from cuvs.neighbors import brute_force

    index = brute_force.build(cupy.asarray(base), metric="sqeuclidean")

    def search(queries: Vectors) -> Any:
        found = brute_force.search(index, cupy.asarray(queries), k)
        cupy.cuda.runtime.deviceSynchronize()
        return found

    return search
