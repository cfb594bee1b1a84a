"""Images and texts to vectors; uses vecstore only through its public names."""

from __future__ import annotations

from .asking import search
from .clearing import Moved, move_copies, removal_script
from .decode import Picture, decode
from .duplicates import Copy, Duplicates, Group, dedupe
from .errors import ImageError, ModelError
from .evaluation import Evaluation, Measure, evaluate
from .folder import Report, index_folder
from .hashes import Hashes, differing_bits, hashes
from .ledger import Failure, failures
from .model import Model
from .registry import load

__all__ = [
    "Copy",
    "Duplicates",
    "Evaluation",
    "Failure",
    "Group",
    "Hashes",
    "ImageError",
    "Measure",
    "Model",
    "ModelError",
    "Moved",
    "Picture",
    "Report",
    "decode",
    "dedupe",
    "differing_bits",
    "evaluate",
    "failures",
    "hashes",
    "index_folder",
    "load",
    "move_copies",
    "removal_script",
    "search",
]
