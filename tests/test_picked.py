"""Fields that are picked out of packed records by a kernel: the same values as by unpacking them all."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import vecstore
from vecstore.query import fields as fields_module
from vecstore.query.columns import Column
from vecstore.query.picked import pick
from vecstore.storage.fetch import Fetched
from vecstore.storage.values import MISSING, extract, located, plainly

NAMES = ["a", "b", "a.b", "a.b.c", "é", "", ".", "a.", "long" * 20]
texts = st.sampled_from([*NAMES, "x", "x" * 31, "x" * 32, "y" * 300, "ü" * 40])
numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, -1, 127, 128, -32, -33, 255, 256, 2**16, 2**32, 2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 2**63]),
    st.floats(allow_nan=False, allow_infinity=True),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)),
    max_leaves=12,
)
records = st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=5), min_size=1, max_size=12)


def fetched(packed: list[bytes], ids: list[bool]) -> Fetched:
    data = np.frombuffer(b"".join(packed), dtype=np.uint8)
    ends = np.cumsum([len(each) for each in packed])
    text = np.array(ids, dtype=np.uint8)
    return Fetched(np.zeros(len(packed), np.int64), text if text.any() else None, ends, data)


def same(found: object, wanted: object) -> bool:
    return repr(found) == repr(wanted) or (found is MISSING and wanted is MISSING)


@settings(max_examples=300, deadline=None)
@given(records, st.sampled_from(NAMES), st.integers(0, 3))
@example([{"a": {"b": 1}}, {"a.b": 2, "a": {"b": 3}}, {"a": [1]}, {"a": {"b": {"c": None}}}], "a.b", 0)
@example([{"a": 1.5}, {"a": 2**60}, {"a": "x"}, {"a": [1, 2]}, {"a": True}, {"a": None}, {}], "a", 1)
def test_the_same_values_are_picked(metadata: list[dict[str, Any]], field: str, every: int) -> None:
    ids = [every > 0 and place % every == 0 for place in range(len(metadata))]
    packed = [
        msgpack.packb([f"id {place}", data] if has_id else data)
        for place, (data, has_id) in enumerate(zip(metadata, ids, strict=True))
    ]
    picked = pick(fetched(packed, ids), field)
    assert picked is not None
    plain, kernel = Column(len(metadata) + 2), Column(len(metadata) + 2)
    wanted = [extract(data, field) for data in metadata]
    slots = np.arange(len(metadata), dtype=np.int64) + 1
    plain.put(slots, wanted)
    kernel.put_picked(slots, picked)
    assert (plain.exists() == kernel.exists()).all()
    for value in [*(each for each in wanted if each is not MISSING), None, True, False, 0, "x"]:
        if isinstance(value, float) and value != value:
            continue
        assert (plain.equals(value) == kernel.equals(value)).all(), value
        assert (plain.contains(value) == kernel.contains(value)).all(), value
        if isinstance(value, (int, float, str)):
            for order in ("$lt", "$lte", "$gt", "$gte"):
                assert (plain.compare(order, value) == kernel.compare(order, value)).all(), (order, value)
    # Written over by others, either column has those.
    plain.put(slots, wanted[::-1])
    kernel.put(slots, wanted[::-1])
    assert (plain.exists() == kernel.exists()).all()
    assert all((plain.equals(each) == kernel.equals(each)).all() for each in wanted if each is not MISSING)


@pytest.mark.parametrize("single", [False, True])
def test_numbers_of_either_width(single: bool) -> None:
    packed = [msgpack.packb({"a": value}, use_single_float=single) for value in (1.5, -0.1, 1e30, np.inf)]
    picked = pick(fetched(packed, [False] * 4), "a")
    assert picked is not None
    wide = [struct.unpack("f", struct.pack("f", value))[0] if single else value for value in (1.5, -0.1, 1e30, np.inf)]
    assert picked.numbers.tolist() == wide


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["a", "a.b"]), st.booleans())
def test_what_is_no_record_is_left_to_the_plain_path(data: bytes, field: str, has_id: bool) -> None:
    picked = pick(fetched([data], [has_id]), field)
    try:
        whole = msgpack.unpackb(data, strict_map_key=False)
    except Exception:
        if picked is not None:  # well-formed as far as lengths go; no value of it is read then
            assert len(picked.kinds) == 1
        return
    content = whole[1] if has_id and isinstance(whole, list) and len(whole) == 2 else whole
    if picked is not None and isinstance(content, dict) and all(isinstance(key, str) for key in content):
        assert (extract(content, field) is MISSING) == (picked.kinds[0] == 0)


@settings(max_examples=300, deadline=None)
@given(records, st.sampled_from(NAMES), st.integers(0, 3))
@example([{"a": 2**53 - 1}, {"a": 2**53}, {"a": -(2**53) + 1}, {"a": -(2**53)}, {"a": 2**64 - 1}, {"a": -(2**63)}], "a", 0)
@example([{"a": 0.0}, {"a": -0.0}, {"a": float("nan")}, {"a": 0}, {"a": False}, {"a": None}, {"a": {}}, {"a": []}], "a", 2)
def test_indexes_hold_the_same_by_kernel_and_plainly(metadata: list[dict[str, Any]], field: str, every: int) -> None:
    ids = [every > 0 and place % every == 0 for place in range(len(metadata))]
    packed = [
        msgpack.packb([f"id {place}", data] if has_id else data)
        for place, (data, has_id) in enumerate(zip(metadata, ids, strict=True))
    ]
    whole = fetched(packed, ids)
    by_kernel = located(whole.packed, whole.ends, whole.text, field)
    assert by_kernel is not None
    by_hand = plainly(metadata, field)
    assert by_kernel.tags.tolist() == by_hand.tags.tolist()
    assert by_kernel.words(b"key").tolist() == by_hand.words(b"key").tolist()
    assert by_hand.words(b"key").tolist() != by_hand.words(b"other").tolist() or not by_hand.distinct


def test_cut_off_anywhere_it_is_no_record() -> None:
    whole = msgpack.packb({"b": [1, {"x": "y" * 40}], "a": {"b": 2**40}, "c": 1.5})
    assert pick(fetched([whole], [False]), "a.b") is not None
    for length in range(len(whole)):
        assert pick(fetched([whole[:length]], [False]), "a.b") is None


def test_through_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By kernels and without: the same filters choose the same records, while these come, change and go."""
    pick_random = np.random.default_rng(3)
    kinds = ["sea", "wood", "town", None, 3, 4.5, True, ["sea", "x"], {"deep": 1}, 2**60]
    with vecstore.open(tmp_path / "c.vec", dim=2, metric="l2") as c, vecstore.open(tmp_path / "c.vec", mode="r") as plain:
        monkeypatch.setattr(fields_module, "_PICKED_FROM", 1)
        for step in range(6):
            metadata = [{"kind": kinds[int(i)], "n": int(n), "in": {"side": float(n) / 2}} for i, n in pick_random.integers(0, 10, (50, 2))]
            ids = [f"{step}-{i}" if i % 2 else 1000 * step + i for i in range(50)]
            c.add(ids, pick_random.random((50, 2)), metadata)
            if step:
                c.delete([f"{step - 1}-{i}" for i in range(1, 20, 2)])
                c.update([1000 * (step - 1) + 40], [{"kind": "moved", "n": None}])
            for where in (
                {"kind": "sea"}, {"kind": {"$in": [3, True, None]}}, {"n": {"$gte": 5}}, {"in.side": {"$lt": 2}},
                {"kind": {"$contains": "sea"}}, {"kind": {"$ne": 2**60}}, {"kind.deep": 1}, {"kind": "moved"}, {"n": {"$exists": False}},
            ):  # fmt: skip
                found = {record.id for record in c.scan(where=where)}
                with monkeypatch.context() as slow:
                    slow.setattr("vecstore.query.fields.dispatch.fetch_kernels", lambda: None)
                    slow.setattr(fields_module, "_PICKED_FROM", 1 << 60)
                    assert found == {record.id for record in plain.scan(where=where)}, where
