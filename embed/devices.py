"""Where networks run, and with how many bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vecstore import DeviceError

CHOICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """A torch device and the type that networks compute in there."""

    name: str
    dtype: Any

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"


def device(torch: Any, wanted: str = "auto") -> Device:
    """The GPU in half precision where there is one; otherwise the processor.

    The processor computes in bfloat16 if it multiplies it in hardware (AMX, AVX-512 BF16), where that took half to
    two thirds of the time, and in float32 elsewhere, where bfloat16 is slower. It is decided by what the processor
    can, never by a clock: two runs on one machine give the same vectors.
    """
    if wanted not in CHOICES:
        raise DeviceError(f"device must be one of {', '.join(CHOICES)}, not {wanted!r}")
    there = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise DeviceError(
            "device='cuda' was asked for, and torch finds no CUDA GPU: use device='auto' or 'cpu'"
        )
    if there:
        return Device("cuda", torch.float16)
    return Device("cpu", torch.bfloat16 if multiplies_bfloat16(torch) else torch.float32)


def multiplies_bfloat16(torch: Any) -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
