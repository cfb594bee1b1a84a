"""Images and texts to vectors; uses vecstore only through its public names."""

from __future__ import annotations

from .asking import search
from .decode import Picture, decode
from .errors import ImageError, ModelError
from .folder import Report, index_folder
from .hashes import Hashes, differing_bits, hashes
from .ledger import Failure, failures
from .model import Model
from .registry import load

__all__ = [
    "Failure",
    "Hashes",
    "ImageError",
    "Model",
    "ModelError",
    "Picture",
    "Report",
    "decode",
    "differing_bits",
    "failures",
    "hashes",
    "index_folder",
    "load",
    "search",
]
