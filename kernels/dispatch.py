"""The only place that chooses a backend and looks at what the machine can do. Importing it is cheap."""

from __future__ import annotations

import functools
import importlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from . import reference


@dataclass(frozen=True)
class CpuTarget:
    """What the compiled kernels need to know of the processor they are compiled for."""

    vector_floats: int
    """float32 numbers in one vector register."""
    tile_rows: int
    tile_vectors: int
    """The register tile of the batch scan: rows times vectors of queries, kept in registers throughout."""
    native_half: bool
    """Whether one instruction turns float16 into float32."""

    @property
    def lanes(self) -> int:
        return self.vector_floats * self.tile_vectors


_CPU = (
    "among", "beam", "bundles", "checksum", "chosen", "distance", "ends", "gram", "join", "knit", "later", "leaf", "merge",
    "order", "packing", "pick", "prune", "scan", "select", "tile",
)  # fmt: skip
# Loaded with whichever kernel is first, and with it Numba.
_COMPILE = f"{__package__}.cpu.compile"
_CUDA = ("beam", "card", "coder", "gram", "leaf", "norms", "prune", "scan", "select", "tile")


@functools.cache
def cpu() -> ModuleType:
    """The Numba kernels, a module each: `cpu().beam`, `.scan` and so on. Imports Numba now."""
    for name in _CPU:
        importlib.import_module(f"{__package__}.cpu.{name}")
    return importlib.import_module(f"{__package__}.cpu")


@functools.cache
def cuda() -> ModuleType:
    """Their twins for graphics cards, a module each: `cuda().tile` and so on. No driver is asked for anything yet."""
    for name in _CUDA:
        importlib.import_module(f"{__package__}.cuda.{name}")
    return importlib.import_module(f"{__package__}.cuda")


@functools.cache
def cpu_features() -> frozenset[str]:
    """The features that Numba compiles for, as LLVM names them; NUMBA_CPU_FEATURES overrides the host's."""
    import llvmlite.binding as llvm
    from numba.core import config

    text = config.CPU_FEATURES
    if text is None:
        try:
            text = llvm.get_host_cpu_features().flatten()
        except RuntimeError:
            text = ""
    return frozenset(part[1:] for part in text.split(",") if part.startswith("+"))


@functools.cache
def cpu_target() -> CpuTarget:
    """The shape of the kernels for this processor. Tiles leave registers free for operands."""
    features = cpu_features()
    if platform.machine().lower() in ("arm64", "aarch64"):
        return CpuTarget(vector_floats=4, tile_rows=6, tile_vectors=4, native_half=True)
    half = "f16c" in features
    if "avx512f" in features and "avx512vl" in features:
        return CpuTarget(vector_floats=16, tile_rows=24, tile_vectors=1, native_half=half)
    if "avx2" in features and "fma" in features:
        return CpuTarget(vector_floats=8, tile_rows=6, tile_vectors=2, native_half=half)
    return CpuTarget(vector_floats=4, tile_rows=6, tile_vectors=2, native_half=False)


def _checksum_kernels() -> ModuleType | None:
    """The compiled checksums, where something else has paid for importing Numba already."""
    return sys.modules.get(f"{__package__}.cpu.checksum")


def fetch_kernels() -> ModuleType | None:
    """The kernel that copies records, where something else has paid for importing Numba already."""
    return _import_fetch() if _COMPILE in sys.modules else None


@functools.cache
def _import_fetch() -> ModuleType:
    return importlib.import_module(f"{__package__}.cpu.fetch")


def mark_kernels() -> ModuleType | None:
    """The kernel that makes masks of slots, where something else has paid for importing Numba already."""
    return _import_marks() if f"{__package__}.cpu.compile" in sys.modules else None


@functools.cache
def _import_marks() -> ModuleType:
    return importlib.import_module(f"{__package__}.cpu.marks")


def expect_many_checksums() -> None:
    """Import the compiled checksums now: a write that is large enough earns that back."""
    importlib.import_module(f"{__package__}.cpu.checksum")


def packing_kernels(*, many: bool = False) -> ModuleType | None:
    """Those for the records of bulk loads: imported for many, or where something else has paid for Numba already."""
    if not many and _COMPILE not in sys.modules:
        return None
    return importlib.import_module(f"{__package__}.cpu.packing")


def block_checksum(block: NDArray[np.uint8]) -> int:
    """The checksum of one block."""
    kernels = _checksum_kernels()
    if kernels is None:
        return reference.block_checksum(block)
    weights = reference.checksum_weights(block.size // 4)
    return int(kernels.block_checksum()(block.ctypes.data, block.size, weights))


def checksums_are_loaded() -> bool:
    """Whether the compiled ones are at hand."""
    return _checksum_kernels() is not None


def first_bad_block(addresses: NDArray[np.uint64], length: int) -> int:
    """The first of these blocks whose bytes don't match its checksum, or -1."""
    kernels = _checksum_kernels() or importlib.import_module(f"{__package__}.cpu.checksum")
    return int(kernels.first_bad_block()(addresses, length, reference.checksum_weights(length // 4)))


def page_sums(blocks: Sequence[NDArray[np.uint8]], page_bytes: int) -> NDArray[np.uint32]:
    """`(n, pages)`: the sums of all pages of some blocks of one length."""
    kernels = _checksum_kernels()
    if kernels is None or not blocks:
        return reference.page_sums(blocks, page_bytes)
    addresses = np.array([block.ctypes.data for block in blocks], dtype=np.uint64)
    sums = np.empty((len(blocks), (blocks[0].size + reference.PAGE_HEAD_BYTES) // page_bytes), dtype=np.uint32)
    kernels.page_sums()(addresses, page_bytes, reference.checksum_weights(page_bytes // 4), sums)
    return sums


def fill_blocks(
    rows: NDArray[np.uint8],
    row_start: int,
    page_bytes: int,
    blocks: NDArray[np.uint8],
    sums: NDArray[np.uint32],
) -> None:
    """Put rows into blocks that have their headers, seal them, and give the sums of their pages."""
    kernels = _checksum_kernels() or importlib.import_module(f"{__package__}.cpu.checksum")
    weights = reference.checksum_weights(max(blocks.shape[1], page_bytes) // 4)
    kernels.fill_blocks()(rows, row_start, page_bytes, weights, blocks, sums)


def seal_blocks(blocks: Sequence[NDArray[np.uint8]], generation: int) -> None:
    """Stamp the generation and the checksum of all these blocks."""
    kernels = _checksum_kernels() or importlib.import_module(f"{__package__}.cpu.checksum")
    addresses = np.array([block.ctypes.data for block in blocks], dtype=np.uint64)
    lengths = np.array([block.size for block in blocks], dtype=np.int64)
    kernels.seal_blocks()(addresses, lengths, generation, reference.checksum_weights(int(lengths.max()) // 4))
