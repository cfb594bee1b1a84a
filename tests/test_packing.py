"""Records of bulk loads are packed many at a time: the same bytes, and the same refusals, as one by one."""

from __future__ import annotations

import datetime
import string
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore import inputs
from vecstore.errors import InvalidMetadataError
from vecstore.kernels import dispatch
from vecstore.storage import ids as id_table
from vecstore.storage.packed import Packed


class Mine(str):
    """A text of a type of its own."""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner, max_size=20),
    max_leaves=40,
)
METADATA = st.dictionaries(st.text(max_size=40), VALUES, max_size=20)
MANY = [{}, {"a": 1, "b": [1.5, None, True]}, {"deep": {"er": [[{}], "x" * 70_000]}}] * 6


def at_once(values: list[Any], metadata: Any) -> Packed | None:
    return inputs._packed_at_once(values, metadata)


@settings(max_examples=200, deadline=None)
@given(st.lists(METADATA, min_size=1, max_size=30), st.sampled_from(["text", "integer"]))
def test_many_are_packed_as_one_by_one(metadata: list[Any], kind: str) -> None:
    values: list[Any] = [f"{place}é" if kind == "text" else place for place in range(len(metadata))]
    packed = at_once(values, metadata)
    assert packed is not None
    assert packed.records() == inputs.pack_records(values, inputs.check_metadata(metadata, len(values)))


def test_portions_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inputs.pack_records(list(range(18)), MANY)
    for size in (1, 5, 18):
        monkeypatch.setattr(inputs, "_AT_ONCE", size)
        packed = at_once(list(range(18)), MANY)
        assert packed is not None
        assert packed.records() == expected


UNUSUAL: list[Any] = [
    {1: 2},
    {"a": {1: 2}},
    {"a": [{"b": {None: 2}}]},
    {"a": b"bytes"},
    {"a": [bytearray(b"bytes")]},
    {"a": (1, 2)},
    {"a": np.int64(1)},
    {"a": Mine("x")},
    {Mine("x"): 1},
    {"a": datetime.date(2026, 1, 1)},
    {"a": msgpack.ExtType(1, b"1234")},
    {"a": msgpack.Timestamp(1)},
    {"a": 1 << 64},
    {"a": "\ud800"},
    None,
    [("a", 1)],
    "text",
]


@pytest.mark.parametrize("item", UNUSUAL, ids=repr)
def test_what_is_unusual_is_looked_at_one_by_one(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = [{"n": 1}, item, {"n": 3}]
    assert at_once([1, 2, 3], metadata) is None

    def outcome() -> Any:
        try:
            return inputs.pack([1, 2, 3], metadata, single=False).records()
        except InvalidMetadataError as error:
            return str(error)

    expected = outcome()
    monkeypatch.setattr(inputs, "_MANY", 1)
    assert outcome() == expected


def test_nesting_up_to_the_bound_is_taken_and_beyond_it_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MANY", 1)

    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return {"a": value}

    for levels in (0, 10, 30, 31, 32, 33, 63):
        assert msgpack.unpackb(inputs.pack([1], [nested(levels)], single=False).record(0)) == nested(levels)
    with pytest.raises(InvalidMetadataError, match="deeper"):
        inputs.pack([1], [nested(65)], single=False)


def test_the_kernel_reads_nothing_behind_the_end() -> None:
    """Whatever it is given: cut short at every byte, and noise."""
    kernels = dispatch.packing_kernels(many=True)
    assert kernels is not None
    whole = msgpack.packb(
        {"a" * 40: ["b" * 300, {"c": 1.5, "d": list(range(20))}], "e": {str(n): n for n in range(20)}}
    )
    out, ends = np.empty(1 << 16, np.uint8), np.empty(1, np.int64)
    none = np.zeros(0, np.uint8)
    join = kernels.join_records()
    assert join(none, 0, np.frombuffer(whole, np.uint8), 0, out, ends) == len(whole) == ends[0]
    for length in range(len(whole)):
        assert join(none, 0, np.frombuffer(whole[:length], np.uint8), 0, out, ends) == -1
    assert join(none, 0, np.frombuffer(whole, np.uint8), 0, out[: len(whole) - 1], ends) == -1
    assert join(np.frombuffer(b"\xa5abcd", np.uint8), 0, np.frombuffer(whole, np.uint8), 0, out, ends) == -1
    rng = np.random.default_rng(0)
    for _ in range(5000):
        noise = rng.integers(0, 256, int(rng.integers(0, 60)), dtype=np.uint8)
        used = join(none, 0, noise, 0, out, ends)
        assert used == -1 or (
            used <= noise.size
            and isinstance(msgpack.unpackb(noise[:used].tobytes(), strict_map_key=False), dict)
        )


def test_texts_of_one_byte_a_character_hash_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch.packing_kernels(many=True)
    rng = np.random.default_rng(0)
    texts: list[str | int] = [
        "".join(rng.choice(list(string.printable), size=int(length))) for length in rng.integers(0, 80, 500)
    ]
    texts.append("\0")
    quick = id_table.hash_ids(texts, 7).hashes
    monkeypatch.setattr(dispatch, "packing_kernels", lambda **_: None)
    assert (id_table.hash_ids(texts, 7).hashes == quick).all()
    assert (id_table.hash_ids([*texts, "é"], 7).hashes[:-1] == quick).all()
