"""Memory on the card, copies to and from it, and its budget."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from vecstore.kernels import dispatch
from vecstore.kernels.cuda import card as cards
from vecstore.kernels.cuda.card import Card, CardError


def test_there_is_one_card_for_a_process(card: Card) -> None:
    assert cards.find() is card
    assert dispatch.cuda().card is cards
    assert card.name
    assert card.total_bytes > 0
    assert card.multiprocessors > 0


def test_copies_come_back(card: Card) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(6, 4)
    there = card.put(rows)
    np.testing.assert_array_equal(card.get(there), rows)
    stream = card.stream()
    waiting = card.pinned((2, 4), np.float32)
    waiting[:] = 7
    card.copy(waiting, there[1:3], stream)
    back = card.pinned((6, 4), np.float32)
    assert card.get(there, back, stream) is back
    stream.synchronize()
    rows[1:3] = 7
    np.testing.assert_array_equal(back, rows)
    # Not contiguous, and empty.
    turned = card.put(rows.T)
    np.testing.assert_array_equal(card.get(turned), rows.T)
    nothing = card.put(rows[:0])
    assert card.get(nothing).shape == (0, 4)
    card.release(there, turned, nothing)


def test_memory_is_counted_until_it_is_given_back_or_collected(card: Card) -> None:
    before, room = card.held, card.room()
    first, second = card.empty((10, 100), np.float32), card.empty(100, np.uint8)
    assert card.held == before + 4100
    assert card.room() <= room - 4100
    card.release(first, None)
    card.release(first)
    assert card.held == before + 100
    del second
    gc.collect()
    assert card.held == before


def test_more_than_the_budget_is_refused(card: Card) -> None:
    card.budget = card.held + 1000
    kept = card.empty(900, np.uint8)
    with pytest.raises(CardError, match="VECSTORE_CUDA_MEMORY"):
        card.empty(200, np.uint8)
    card.release(kept)
    card.release(card.empty(1000, np.uint8))
