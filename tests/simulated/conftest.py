"""What runs in Numba's simulator, or on a card: tests/test_cuda.py starts it; VECSTORE_TEST_CUDA=1 has it run on a card."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from vecstore.kernels.cuda import card as cards
from vecstore.kernels.cuda.card import Card

if not (cards.simulated() or os.environ.get("VECSTORE_TEST_CUDA")):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def card() -> Iterator[Card]:
    """The card; what a test put there must be given back."""
    found = cards.find()
    budget, held = found.budget, found.held
    yield found
    found.budget = budget
    gc.collect()
    assert found.held == held
