"""Packed bits as their own codes: nothing is lost, and counting bits is as quick as any code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

KINDS = {"hamming bits": 6, "jaccard bits": 7}

_Floats: TypeAlias = NDArray[np.float32]
_GROUP = 16


@dataclass(frozen=True)
class Bits:
    """What ``Codec`` is for numbers. Codes are whole groups of 16 bytes, filled up with zeros.

    >>> bits = Bits("hamming bits", 12)
    >>> bits.encode(np.array([[1.0] * 12], dtype=np.float32))[0, :3].tolist()
    [255, 240, 0]
    """

    kind: str
    width: int

    @property
    def number(self) -> int:
        """The kind as kernels know it."""
        return KINDS[self.kind]

    @property
    def code_bytes(self) -> int:
        return -(-self.width // (8 * _GROUP)) * _GROUP

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Codes of bits that were made numbers: all above zero are set."""
        filled = np.zeros((len(vectors), self.code_bytes), dtype=np.uint8)
        packed = np.packbits(vectors > 0, axis=1)
        filled[:, : packed.shape[1]] = packed
        return filled

    @property
    def state_bytes(self) -> int:
        """The bytes of a prepared query: itself, filled up."""
        return self.code_bytes

    @property
    def parameters(self) -> tuple[NDArray[np.int64], _Floats, _Floats, _Floats, _Floats]:
        """None of a codec's, in the form that kernels take them."""
        none = np.zeros(0, dtype=np.float32)
        return np.zeros(2, dtype=np.int64), none, none, np.zeros((0, 0), dtype=np.float32), none

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "width": self.width}

    @classmethod
    def from_dict(cls, content: object) -> Bits:
        """What ``to_dict`` gave; anything else is a ValueError."""
        if not isinstance(content, dict) or content.get("kind") not in KINDS:
            raise ValueError("codes of bits of an unknown kind")
        if type(content.get("width")) is not int or content["width"] < 1:
            raise ValueError("codes of bits of no width")
        return cls(content["kind"], content["width"])
