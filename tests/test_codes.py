"""Codes: the same from NumPy and from every kernel, on every processor, and near what they stand for."""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from vecstore.config import Settings
from vecstore.index import books, space
from vecstore.index.choice import choose, shares
from vecstore.index.codec import KINDS, Codec
from vecstore.kernels import reference_codes as layout
from vecstore.kernels.cpu import coder, rotate

DIMS = [1, 3, 17, 32, 100, 128, 384, 769, 4096]
PRODUCTS = [kind for kind, number in KINDS.items() if number in layout.PRODUCTS]
SCALARS = [kind for kind, number in KINDS.items() if number in layout.SCALARS]


def vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, dim])
    return (rng.standard_normal((n, dim)) * 3 + rng.standard_normal(dim)).astype(np.float32)


def far(queries: np.ndarray) -> np.ndarray:
    """Queries of all sorts: some so far away that they are clipped, or beyond all numbers."""
    result = queries.copy()
    result[1] *= 100
    result[2] *= -1e6
    result[3] = 0
    result[4] = np.finfo(np.float32).max
    return result


def state_of(kind: int, w: np.ndarray, n_bytes: int) -> np.ndarray:
    """A prepared query laid out from its whole numbers."""
    count, line = layout.planes(kind), layout.plane_bytes(n_bytes)
    planes = w.reshape(-1, count, 16).transpose(1, 0, 2).reshape(count, n_bytes)
    if kind == layout.SCALAR8:
        wide = np.zeros(line, np.int16)
        wide[:n_bytes] = planes[0]
        return wide.view(np.uint8)
    # What lies behind a plane's numbers is not to matter.
    result = np.full((count, line), 0xA5, np.uint8)
    result[:, :n_bytes] = planes.astype(np.uint8)
    return result.reshape(-1)


# --- rotation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 48, 96, 112, 128, 240, 384, 400, 992, 4096])
def test_the_rotation_is_the_same_everywhere_and_keeps_lengths(size: int) -> None:
    rows = vectors(5, size - 3)
    mean = rows.mean(axis=0)
    turns = layout.turns(size, 7)
    out = np.full((5, size), np.nan, np.float32)
    rotate.rotate_rows()(rows, mean, turns, 1, 5, out)
    expected = layout.rotate(layout.centred(rows, mean, size), turns)
    np.testing.assert_array_equal(out[1:], expected[1:])
    assert np.isnan(out[0]).all()
    norms = np.linalg.norm(rows - mean, axis=1)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), norms, rtol=1e-5)
    back = layout.rotate_back(expected, turns)
    np.testing.assert_allclose(back[:, : size - 3] + mean, rows, atol=2e-5)


def test_the_rotation_of_a_seed_never_changes() -> None:
    found = [
        zlib.crc32(np.signbit(layout.turns(size, seed)).tobytes()) for size, seed in ((128, 0), (400, 9))
    ]
    assert found == STABLE
    assert np.abs(layout.turns(128, 0)).max() == np.float32(128**-0.5)
    assert not np.array_equal(layout.turns(128, 0), layout.turns(128, 1))


STABLE = [1240204368, 747400891]


@pytest.mark.parametrize("size", [16, 112, 128, 240, 992])
def test_the_rotation_spreads_every_direction(size: int) -> None:
    spread = layout.rotate(np.eye(size, dtype=np.float32), layout.turns(size, 3)) * np.sqrt(size)
    np.testing.assert_allclose(spread @ spread.T / size, np.eye(size), atol=1e-5)
    assert np.abs(spread).max() < 6.5


# --- scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALARS)
def test_scores_are_those_of_the_reference(kind: str) -> None:
    number = KINDS[kind]
    low, high = layout.QUERY_RANGES[number]
    rng = np.random.default_rng(number)
    for n_bytes in (*range(16, 161, 16), 192, 208, 400, 1024):
        size = layout.coordinates(number, n_bytes)
        codes = rng.integers(0, 256, (12, n_bytes), dtype=np.uint8)
        codes[0], codes[1] = 0, 255
        queries = rng.integers(low, high + 1, (4, size))
        queries[0], queries[1] = low, high
        states = np.array([state_of(number, w, n_bytes) for w in queries])
        scores = np.empty((4, 12), np.int32)
        coder.score_all()(number, states, codes, scores)
        expected = [layout.scalar_scores(number, codes, w) for w in queries]
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("kind", SCALARS)
def test_the_longest_codes_stay_within_32_bits(kind: str) -> None:
    number = KINDS[kind]
    size = min(layout.MOST_COORDINATES[number], 65536 + 128)
    n_bytes = layout.code_bytes(number, size)
    codes = np.array([[0] * n_bytes, [255] * n_bytes], dtype=np.uint8)
    ends = [np.full(layout.coordinates(number, n_bytes), end) for end in layout.QUERY_RANGES[number]]
    states = np.array([state_of(number, w, n_bytes) for w in ends])
    scores = np.empty((2, 2), np.int32)
    coder.score_all()(number, states, codes, scores)
    np.testing.assert_array_equal(scores, [layout.scalar_scores(number, codes, w) for w in ends])


@pytest.mark.parametrize("kind", SCALARS)
def test_codes_and_queries_are_those_of_the_reference(kind: str) -> None:
    for dim in DIMS:
        rows = vectors(40, dim)
        codec = Codec.train(rows, kind, seed=dim)
        queries = far(vectors(8, dim, 1))
        codes = codec.encode(rows)
        number = codec.number
        assert codec.code_bytes == codes.shape[1] == layout.code_bytes(number, dim)
        turns = layout.turns(layout.coordinates(number, codec.code_bytes), dim)
        with np.errstate(all="ignore"):
            rotated = [
                layout.rotate(layout.centred(each, codec.mean, turns.shape[1]), turns)
                for each in (rows, queries)
            ]
            factor = float(np.float32(1) / np.float32(codec.step))
            numbers = layout.whole(rotated[0], codec.low, factor, 0, (1 << layout.BITS[number]) - 1)
            np.testing.assert_array_equal(codes, layout.pack(number, numbers))
            np.testing.assert_array_equal(layout.unpack(number, codes), numbers)
            w = layout.query_numbers(number, rotated[1], codec.low, codec.step)
        states, offsets = codec.prepare(queries)
        assert states.shape == (8, codec.state_bytes)
        expected = np.array([layout.scalar_scores(number, codes, each) for each in w])
        np.testing.assert_array_equal(codec.scores(states, codes), expected)
        if kind == "scalar8":
            assert not offsets.any()
        else:
            squares = (w**2).sum(axis=1) / (4 * layout.WEIGHTS[number])
            np.testing.assert_array_equal(offsets, np.floor(squares))
            assert (expected + squares[:, None] >= 0).all()


@pytest.mark.parametrize("kind", SCALARS)
def test_scores_order_as_distances_to_what_codes_stand_for(kind: str) -> None:
    rows = vectors(300, 64)
    codec = Codec.train(rows, kind, seed=2)
    queries = vectors(5, 64, 1)
    codes = codec.encode(rows)
    states, offsets = codec.prepare(queries)
    scores = codec.scores(states, codes) + offsets[:, None]
    difference = (codec.decode(codes)[None] - queries[:, None]).astype(np.float64)
    true = (difference**2).sum(axis=2)
    for score, distance in zip(scores, true, strict=True):
        assert np.corrcoef(score, distance)[0, 1] > (0.97 if kind == "scalar1" else 0.99)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_product_scores_are_those_of_the_reference(kind: str) -> None:
    rng = np.random.default_rng(5)
    for n_bytes in (16, 32, 48, 400):
        codes = rng.integers(0, 256, (12, n_bytes), dtype=np.uint8)
        codes[0], codes[1] = 0, 255
        tables = rng.integers(0, 1 << 16, (3, n_bytes, 256)).astype(np.uint16)
        tables[0] = 65535
        states = tables.view(np.uint8).reshape(3, -1)
        scores = np.empty((3, 12), np.int32)
        coder.score_all()(KINDS[kind], states, codes, scores)
        expected = [layout.product_scores(codes, table) for table in tables]
        np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_product_codes_are_the_nearest_centroids(kind: str) -> None:
    for dim in DIMS[:-1]:
        rows = vectors(400, dim)
        codec = Codec.train(rows, kind, seed=dim)
        codes = codec.encode(rows)
        assert codes.shape[1] == codec.code_bytes
        queries = vectors(6, dim, 1)
        states, offsets = codec.prepare(queries)
        scores = codec.scores(states, codes)
        bounds = layout.bounds(codec.number, codec.code_bytes, dim)
        centroids = layout.centroids(codec.number)
        parts = [
            codec.books[centroids * low : centroids * high].reshape(high - low, centroids).T
            for low, high in itertools.pairwise(bounds)
        ]

        def distances(vector: np.ndarray, bounds: Any = bounds, parts: Any = parts) -> np.ndarray:
            return np.array(
                [
                    ((book.astype(np.float64) - vector[low:high]) ** 2).sum(axis=1)
                    for (low, high), book in zip(itertools.pairwise(bounds), parts, strict=True)
                ]
            )

        numbers = books.numbers_of(codec.number, codes)
        for row, chosen in zip(rows[:20], numbers[:20], strict=True):
            apart = distances(row - codec.mean)
            np.testing.assert_allclose(
                apart[np.arange(len(chosen)), chosen], apart.min(axis=1), rtol=1e-4, atol=1e-4
            )
        for query, score, offset in zip(queries, scores, offsets, strict=True):
            apart = distances(query - codec.mean)
            reach = (apart.max(axis=1) - apart.min(axis=1)).reshape(codec.code_bytes, -1).sum(axis=1)
            true = apart[np.arange(numbers.shape[1]), numbers].sum(axis=1) * 65535 / reach.max()
            # Each entry of a table is rounded.
            np.testing.assert_allclose(score + float(offset), true, rtol=1e-4, atol=codec.code_bytes)
        np.testing.assert_allclose(
            ((codec.decode(codes) - rows) ** 2).sum(axis=1),
            [distances(row - codec.mean)[np.arange(len(n)), n].sum() for row, n in zip(rows, numbers, strict=True)],
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip


@pytest.mark.parametrize("kind", PRODUCTS)
def test_books_are_the_same_for_the_same_sample_and_seed(kind: str) -> None:
    rows = vectors(500, 40)
    first, second = (Codec.train(rows, kind, seed=3) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert first.to_dict() != Codec.train(rows, kind, seed=4).to_dict()
    assert first.distortion(rows) < (0.2 if kind == "product8" else 0.15)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "bound"), [("scalar8", 2e-4), ("scalar4", 0.013), ("scalar2", 0.125)])
def test_codes_stay_near_what_they_stand_for(kind: str, bound: float) -> None:
    for dim in (100, 128, 384, 769):
        rows = vectors(500, dim)
        codec = Codec.train(rows, kind, seed=1)
        assert codec.distortion(rows) < bound
        # Rotated, data of another form are not worse off.
        one_hot = np.eye(dim, dtype=np.float32)[:50]
        assert Codec.train(one_hot, kind, seed=1).distortion(one_hot) < 1.5 * bound


def test_other_data_are_told_by_their_distortion() -> None:
    codec = Codec.train(vectors(500, 64), "scalar4", seed=1)
    assert codec.distortion(vectors(500, 64)) < 0.02
    assert codec.distortion(5 * vectors(500, 64)) > 0.2


# --- data without much in it -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_data_without_spread_can_be_coded(kind: str) -> None:
    for rows in (
        np.zeros((5, 20)),
        np.ones((1, 20)),
        np.full((7, 20), 1e-42),
        np.full((7, 20), -3e38),
        np.repeat([[1e38], [-1e38]], 20, axis=1),
        np.eye(20) * 1e-20,
    ):
        table = rows.astype(np.float32)
        codec = Codec.train(table, kind, seed=1)
        assert 0 < codec.step < 3e38
        codes = codec.encode(table)
        states, _ = codec.prepare(table)
        codec.scores(states, codes)
        again = Codec.from_dict(codec.to_dict())
        np.testing.assert_array_equal(again.encode(table), codes)


# --- which kind ------------------------------------------------------------------------------------------


def test_the_usual_codes_are_chosen_unless_others_do_better() -> None:
    def chosen(dim: int) -> str:
        rows = vectors(3000, dim)
        return choose(rows[:2900], rows[2900:])

    assert chosen(1) == "scalar8"
    assert chosen(48) == "scalar4"
    # Not long, so it is not even tried with fewer bits.
    clusters = np.repeat(np.eye(40, dtype=np.float32), 20, axis=0)
    assert choose(clusters, clusters[:9]) == "scalar4"
    # Long, and with few dimensions of its own: a bit a coordinate tells it all.
    flat = (vectors(3000, 12) - vectors(1, 12).mean()) @ np.random.default_rng(0).standard_normal((12, 2048))
    assert choose(flat[:2900].astype(np.float32), flat[2900:].astype(np.float32)) in ("scalar1", "scalar2")


@pytest.mark.parametrize("kind", ["zeros", "ones", "one", "few"])
def test_a_kind_is_chosen_for_data_without_spread(kind: str) -> None:
    shapes = {"zeros": np.zeros((50, 6)), "ones": np.ones((50, 6)), "one": np.ones((1, 6)), "few": np.eye(6)}
    rows = shapes[kind].astype(np.float32)
    assert choose(rows, rows[:3]) in KINDS
    assert choose(rows, rows[:0]) in KINDS


def test_shares_count_every_neighbour_as_near_as_the_last() -> None:
    rows = np.repeat(vectors(4, 20), 30, axis=0)
    codec = Codec.train(rows, "scalar4", seed=1)
    assert shares(codec, rows, rows[:8], (5, 10, 500)) == [0.5, 1.0, 1.0]


# --- as stored -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_codec_comes_back_as_it_was_stored(kind: str) -> None:
    rows = vectors(60, 33)
    codec = Codec.train(rows, kind, seed=(1 << 64) - 1)
    again = Codec.from_dict(msgpack.unpackb(msgpack.packb(codec.to_dict())))
    assert again.to_dict() == codec.to_dict()
    np.testing.assert_array_equal(again.encode(rows), codec.encode(rows))
    np.testing.assert_array_equal(again.decode(codec.encode(rows)), codec.decode(codec.encode(rows)))


BAD = [
    ("kind", "scalar3"),
    ("kind", 4),
    ("kind", "scalar8"),
    ("width", 0),
    ("width", 34),
    ("width", 1 << 40),
    ("width", 33.0),
    ("width", True),
    ("code_bytes", 16),
    ("code_bytes", 48),
    ("code_bytes", -32),
    ("code_bytes", None),
    ("seed", -1),
    ("seed", 1 << 64),
    ("low", float("nan")),
    ("low", float("-inf")),
    ("low", "0"),
    ("step", 0.0),
    ("step", -1.0),
    ("step", 1e-40),
    ("step", float("inf")),
    ("step", float("nan")),
    ("step", 1e300),
    ("mean", b""),
    ("mean", b"\x00" * 131),
    ("mean", b"\x00" * 128),
    ("mean", b"\x00\x00\xc0\x7f" * 33),
    ("mean", [0.0] * 33),
    ("books", b"\x00" * 4),
    ("books", b"\x00"),
    ("books", None),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_hostile_codecs_are_refused(name: str, value: Any) -> None:
    content = Codec.train(vectors(60, 33), "scalar4", seed=1).to_dict()
    Codec.from_dict(content)
    with pytest.raises(ValueError):
        Codec.from_dict(content | {name: value})
    del content[name]
    with pytest.raises(ValueError):
        Codec.from_dict(content)


@pytest.mark.parametrize("kind", PRODUCTS)
def test_hostile_books_are_refused(kind: str) -> None:
    content = Codec.train(vectors(60, 33), kind, seed=1).to_dict()
    assert content["code_bytes"] == 16
    Codec.from_dict(content)
    whole = content["books"]
    for name, value in (
        ("books", whole[:-4]),
        ("books", whole + whole),
        ("books", b""),
        ("books", b"\x00\x00\x80\x7f" * (len(whole) // 4)),
        ("code_bytes", 32),
        ("code_bytes", 0),
        ("width", 32),
        ("kind", "scalar4"),
        ("kind", "product4" if kind == "product8" else "product8"),
    ):
        with pytest.raises(ValueError):
            Codec.from_dict(content | {name: value})


def test_what_is_no_map_is_no_codec() -> None:
    for content in (None, [], b"", {}, {1: 2}):
        with pytest.raises(ValueError):
            Codec.from_dict(content)


def test_calls_that_make_no_sense_are_refused() -> None:
    rows = vectors(60, 33)
    codec = Codec.train(rows, "scalar4", seed=1)
    other = Codec.train(rows, "scalar8", seed=1)
    for call in (
        lambda: Codec.train(rows, "scalar5"),
        lambda: Codec.train(rows[:0]),
        lambda: Codec.train(rows[0]),
        lambda: Codec.train(np.zeros((2, 8193), np.float32), "scalar8"),
        lambda: codec.encode(rows[:, 1:]),
        lambda: codec.encode(rows[0]),
        lambda: codec.prepare(rows[:, 1:]),
        lambda: codec.scores(codec.prepare(rows)[0], other.encode(rows)),
        lambda: codec.scores(other.prepare(rows)[0], codec.encode(rows)),
    ):
        with pytest.raises(ValueError):
            call()


# --- the space -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8"])
def test_order_by_the_metric_is_order_in_the_space(metric: str, dtype: str) -> None:
    settings = Settings(24, metric, dtype)
    rng = np.random.default_rng(3)
    stored = (rng.standard_normal((80, 24)) * 20 + 30).clip(0, 120).astype(dtype)
    stored[5] = 0
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(80, -1)
    limit = space.longest(settings, rows)
    prepared = space.prepare_rows(settings, rows, limit)
    queries = rng.standard_normal((6, 24)) * 20
    asked = space.prepare_queries(settings, queries, limit)
    assert prepared.dtype == asked.dtype == np.float32
    assert prepared.shape == (80, space.width(settings))
    assert asked.shape == (6, space.width(settings))
    np.testing.assert_array_equal(space.as_queries(settings, rows), stored.astype(np.float32))
    for query, vector in zip(queries, asked, strict=True):
        apart = ((prepared.astype(np.float64) - vector) ** 2).sum(axis=1)
        wide = stored.astype(np.float64)
        norms = np.linalg.norm(wide, axis=1)
        true = {
            "l2": ((wide - query) ** 2).sum(axis=1),
            "ip": -(wide @ query),
            "cosine": 1 - (wide @ query) / np.where(norms > 0, norms, 1) / np.linalg.norm(query),
        }[metric]
        assert np.corrcoef(apart[norms > 0], true[norms > 0])[0, 1] > 1 - 1e-6
    if metric == "ip":
        np.testing.assert_allclose(np.linalg.norm(prepared, axis=1), limit, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(asked, axis=1), limit, rtol=1e-5)
        assert not space.prepare_queries(settings, np.zeros((1, 24)), limit).any()
        # Rows that came later may be longer.
        assert np.isfinite(space.prepare_rows(settings, rows, limit / 2)).all()


# --- other processors ------------------------------------------------------------------------------------

X86 = platform.machine().lower() in ("x86_64", "amd64")
HASWELL = "+sse4.2,+popcnt,+lzcnt,+bmi,+bmi2,+avx,+avx2,+fma,+f16c"


def run(arguments: list[str], **settings: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | settings
    result = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def run_this(**settings: str) -> None:
    root = Path(__file__).parent.parent
    options = ["-p", "no:cacheprovider", "--rootdir", str(root), "-c", str(root / "pyproject.toml")]
    run(["-m", "pytest", "-q", "-x", "-k", "not elsewhere", *options, __file__], **settings)


def test_elsewhere_a_generic_processor_answers_the_same() -> None:
    run_this(NUMBA_CPU_NAME="generic")


def test_elsewhere_avx2_answers_the_same() -> None:
    from vecstore.kernels import dispatch

    if not X86 or not {"avx2", "fma", "f16c"} <= dispatch.cpu_features():
        pytest.skip("this processor has no AVX2")
    run_this(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=HASWELL)


# Numba compiles for this machine first, so what is for ARM alone is told to be there after that.
ARM = """
import platform
platform.machine = lambda: "aarch64"
import re, sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
try:
    target = llvm.Target.from_triple("aarch64-linux-gnu")
except RuntimeError:
    print("no target")
    raise SystemExit
from vecstore.kernels.cpu import coder, rotate
machine = target.create_target_machine(cpu="generic", features="+neon", opt=3, reloc="pic")
kernels = {
    "encode": coder.encode(), "prepare": coder.prepare_queries(), "score": coder.score_all(),
    "rotate": rotate.rotate_rows(),
}
for name, kernel in kernels.items():
    [text] = kernel.inspect_llvm().values()
    text = re.sub(r"tail call i8 @llvm.x86.atomic.sub.cc.*", "add i8 0, 0", text)
    text = re.sub(r"declare .*@llvm.x86.atomic.sub.cc.*", "", text)
    assert "llvm.x86" not in text, name
    text = re.sub(r"target (triple|datalayout) = .*", "", text)
    text = re.sub(r'"(target-cpu|target-features)"="[^"]*"', "", text)
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = "aarch64-linux-gnu", str(machine.target_data)
    module.verify()
    code = machine.emit_object(module)
    assert code[:4] == b"\\x7fELF" and int.from_bytes(code[18:20], "little") == 183, name
    for called in (b"fmaf", b"rintf", b"roundf", b"__popcount", b"lroundf"):
        assert called not in code, (name, called)
    print(name, len(code), machine.emit_assembly(module).count("mul"))
"""


@pytest.mark.skipif(not X86, reason="cross-compiles from x86-64")
def test_elsewhere_the_kernels_compile_for_arm(tmp_path: Path) -> None:
    features = "+sse4.2,+popcnt"
    settings = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = run(["-c", ARM], **settings)
    if "no target" in printed:
        pytest.skip("this llvmlite has no aarch64 target")
    assert len(printed.splitlines()) == 4


DOTS = """
import llvmlite.binding as llvm
from llvmlite import ir
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
try:
    target = llvm.Target.from_triple("aarch64-linux-gnu")
except RuntimeError:
    print("no target")
    raise SystemExit
from vecstore.kernels import reference_codes as layout
from vecstore.kernels.cpu import codes
codes.cpu_features = lambda: frozenset({"neon", "dotprod"})
machine = target.create_target_machine(cpu="generic", features="+neon,+dotprod", opt=3)
module = ir.Module()
for kind in layout.SCALARS:
    function = ir.Function(module, ir.FunctionType(ir.IntType(32), [ir.IntType(64)] * 3), f"score{kind}")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(codes._Scorer(builder, kind).score(*function.args))
parsed = llvm.parse_assembly(str(module))
parsed.triple, parsed.data_layout = "aarch64-linux-gnu", str(machine.target_data)
parsed.verify()
print(machine.emit_assembly(parsed).count("sdot"))
"""


def test_elsewhere_arm_has_instructions_for_products() -> None:
    printed = run(["-c", DOTS])
    if "no target" in printed:
        pytest.skip("this llvmlite has no aarch64 target")
    # One for each plane of 4, 2 and 1 bits.
    assert int(printed) == 2 + 4 + 8
