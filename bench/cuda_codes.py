"""Codes on the card: training and encoding against the CPU on all cores, and each kernel by itself."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cuda_build import vectors
from cuda_card import Bench

from vecstore.index import books, on_card
from vecstore.index.codec import KINDS
from vecstore.index.steps import OnCpu
from vecstore.kernels import reference_codes as layout

SAMPLE = 50_000


def run(bench: Bench) -> None:
    base, _ = vectors(bench)
    threads = os.cpu_count() or 1
    if bench.simulate:
        on_card._SCALARS_FROM_BYTES = 0
    kinds = ["scalar4", "product4"] if bench.simulate else list(KINDS)
    with ThreadPoolExecutor(threads) as pool:
        cpu = OnCpu(threads, pool)
        card = on_card.OnCard(bench.card, cpu)
        for kind in kinds:
            compare(bench, kind, base, cpu, card)


def compare(bench: Bench, kind: str, base: np.ndarray, cpu: OnCpu, card: on_card.OnCard) -> None:
    name = f"{kind}, {len(base):,} × {base.shape[1]}"
    sample = base[:: max(1, len(base) // SAMPLE)][:SAMPLE]
    product = KINDS[kind] in layout.PRODUCTS
    codec = cpu.train(sample, kind, 1)
    mine, other = card.encode(codec, base), cpu.encode(codec, base)
    if product:
        numbers = [books.numbers_of(codec.number, each) for each in (mine[:10_000], other[:10_000])]
        differ = float((numbers[0] != numbers[1]).mean())
        bench.line(f"{name}: numbers that differ from the CPU's", f"{differ:.2e}", "≤ 1e-4", differ <= 1e-4)
    else:
        equal = bool((mine == other).all())
        bench.line(f"{name}: codes are the CPU's to the bit", "yes" if equal else "NO", "yes", equal)
    reach, need = ("≥ 20×", 20.0) if product else ("–", 0.0)
    both = []
    for steps in (cpu, card):
        trained = bench.median(lambda steps=steps: steps.train(sample, kind, 1)) if product else 0.0
        both.append((trained, bench.median(lambda steps=steps: steps.encode(codec, base))))
    (trained_there, there), (trained, here) = both
    if product:
        bench.line(
            f"{name}: training", f"CPU {trained_there * 1e3:,.1f} ms, card {trained * 1e3:,.1f} ms; "
            f"{trained_there / trained:.1f}×", reach, trained_there >= need * trained,
        )  # fmt: skip
    bench.line(
        f"{name}: encoding, from the host and back", f"CPU {there * 1e3:,.1f} ms, card {here * 1e3:,.1f} ms; "
        f"{there / here:.1f}×", reach, there >= need * here if product else None,
    )  # fmt: skip
    on_the_card(bench, name, codec, base, there, reach, need)


def on_the_card(
    bench: Bench, name: str, codec: object, base: np.ndarray, there: float, reach: str, need: float
) -> None:
    """The kernel alone, where vectors are on the card already."""
    from vecstore.index.codec import Codec
    from vecstore.kernels import dispatch

    assert isinstance(codec, Codec)
    card, coder = bench.card, dispatch.cuda().coder
    _, scale, mean, turns, books_ = codec.parameters
    rows, codes = card.put(base), card.empty((len(base), codec.code_bytes), np.uint8)
    middle, other = card.put(mean), card.put(books_ if need else turns)
    begun = time.perf_counter()

    def encode() -> None:
        if need:
            coder.encode_product(codec.number, rows, middle, other, codes)
        else:
            coder.encode_scalar(codec.number, rows, middle, other, scale[0], scale[1], codes)

    seconds = bench.median(encode)
    assert time.perf_counter() > begun
    width = codec.width
    each = (
        3.0 * width * layout.centroids(codec.number) if need else 2.0 * width * (2 + np.log2(max(2, width)))
    )
    bench.kernel(name, seconds, float(rows.nbytes + codes.nbytes), each * len(base))
    bench.line(
        f"{name}: encoding, the kernel alone",
        f"{seconds * 1e3:,.2f} ms; {there / seconds:.0f}×",
        reach,
        there >= need * seconds,
    )
