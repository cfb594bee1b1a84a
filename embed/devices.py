"""Where networks run, and with how many bits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from vecstore import DeviceError

from .errors import shown

CHOICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Device:
    """A torch device and the type that networks compute in there; ``asked`` where it was named, and no other will do."""

    name: str
    dtype: Any
    asked: bool = False

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
    if wanted == "cpu":
        return processor(torch)
    there, reason = _looked(torch)
    if there:
        return Device("cuda", torch.float16, wanted == "cuda")
    if wanted == "cuda":
        why = f" ({reason})" if reason else ""
        raise DeviceError(
            f"device='cuda' was asked for, and torch finds no CUDA GPU{why}: use device='auto' or 'cpu'"
        )
    if reason:
        warnings.warn(
            f"the graphics card is not used, networks run on the processor: {reason}", RuntimeWarning, stacklevel=2
        )
    return processor(torch)


def processor(torch: Any) -> Device:
    """The processor, with as many bits as are quickest there."""
    return Device("cpu", torch.bfloat16 if multiplies_bfloat16(torch) else torch.float32)


def multiplies_bfloat16(torch: Any) -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def _looked(torch: Any) -> tuple[bool, str]:
    """Whether torch finds a card; where there is one that it cannot use, what it says of it (a driver too old)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        there = bool(torch.cuda.is_available())
    return there, " ".join(shown(" ".join(str(warning.message).split())) for warning in told)[:300]
