"""Checks everything in a state: every block, and that the tables agree with each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vecstore.errors import CorruptionError
from vecstore.storage import keys
from vecstore.storage.ids import lookup
from vecstore.storage.slots import live_mask, read_slots
from vecstore.storage.state import Checked, State
from vecstore.storage.store import batches, hashes_of, live_slots, read_stored
from vecstore.types import VerifyReport

_BATCH = 10_000
_MOST_PROBLEMS = 100


def verify(state: State) -> VerifyReport:
    """Read the whole file, believing nothing that was checked before."""
    state.checked = Checked()
    problems: list[str] = []
    blocks = 0
    for kind in keys.KINDS:
        try:
            numbers = np.flatnonzero(state.present(kind)).tolist()
        except CorruptionError as error:
            problems.append(str(error))
            continue
        for number in numbers:
            blocks += 1
            try:
                state.block(kind, number)
            except CorruptionError as error:
                problems.append(str(error))
    problems += _unlisted(state)
    records = 0
    if not problems:
        for problem, count in _disagreements(state):
            records += count
            if problem is not None:
                problems.append(problem)
            if len(problems) >= _MOST_PROBLEMS:
                break
    return VerifyReport(blocks=blocks, records=records, problems=tuple(problems[:_MOST_PROBLEMS]))


def _unlisted(state: State) -> Iterator[str]:
    """Blocks that are in the file and in no catalog: space lost, unless a staged write left them."""
    if state.header.staged:
        return
    try:
        for leaf in state.pages.leaves():
            for order in leaf.keys.tolist():
                kind, number = order >> 32, order & keys.MAX_NUMBER
                if kind in (keys.HEADER, keys.CATALOG):
                    continue
                if kind not in state.header.counts or number >= state.header.counts[kind]:
                    yield f"block {keys.NAMES.get(kind, kind)} {number} is in the file, and nothing names it"
    except CorruptionError as error:
        yield str(error)


def _disagreements(state: State) -> Iterator[tuple[str | None, int]]:
    """(problem, records looked at): every live slot has its record, its row and its id."""
    try:
        live_mask(state)
        present = state.present(keys.VECTORS)
        entries_of_ids = sum(
            int.from_bytes(state.block(keys.IDS, number)[28:32].tobytes(), "little")
            for number in np.flatnonzero(state.present(keys.IDS)).tolist()
        )
        if entries_of_ids != state.header.records:
            yield f"the table of ids has {entries_of_ids} entries for {state.header.records} records", 0
        for slots in batches(live_slots(state), _BATCH):
            entries = read_slots(state, slots)
            read_stored(state, entries)
            if not present[slots // state.layout.rows].all():
                yield "a live slot lies in a block of vectors that is missing", 0
            places, found = lookup(state, hashes_of(state, entries))
            reached = np.zeros(slots.size, dtype=bool)
            reached[places[found == slots[places]]] = True
            for slot in slots[~reached].tolist()[:10]:
                yield f"the record in slot {slot} cannot be found by its id", 0
            yield None, slots.size
    except CorruptionError as error:
        yield str(error), 0
