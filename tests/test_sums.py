"""Sums of pages: what they are, that every write keeps them right, and that rows are checked by them alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from vecstore import config
from vecstore.errors import CorruptionError
from vecstore.kernels import dispatch, reference
from vecstore.storage import keys
from vecstore.storage.blocks import HEAD_BYTES, payload
from vecstore.storage.session import Session

FIXTURES = Path(__file__).parent / "fixtures"
PAGE = 4096


def change(collection: vecstore.Collection, do: Callable[[Session], Any], stage_bytes: int = 1 << 30) -> None:
    with collection._file.writing(5.0):
        session = Session(collection._file, stage_bytes)
        try:
            do(session)
            session.commit()
        finally:
            session.close()


def check(collection: vecstore.Collection, *, all_of: bool = True) -> int:
    """Every block of vectors has its sums, every other row is empty; gives the number of blocks."""
    with collection._file.snapshot() as state:
        sums, present = state.sums(), state.present(keys.VECTORS)
        assert sums.shape == (present.size, state.layout.data_pages)
        for number in range(present.size):
            if not present[number]:
                assert not sums[number].any()
            elif all_of or sums[number].any():
                block = state.block(keys.VECTORS, number)
                np.testing.assert_array_equal(sums[number], reference.page_sums([block], state.layout.page_bytes)[0])
        tables = state.present(keys.SUMS)
        for number in range(tables.size):
            first = number * state.layout.sum_rows
            assert tables[number] == bool(sums[first : first + state.layout.sum_rows].any())
        return int(present.sum())


# -- what they are


def random_blocks(count: int, pages: int, page_bytes: int = PAGE) -> list[Any]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, pages * page_bytes - 16, dtype=np.uint8) for _ in range(count)]


def compiled(blocks: list[Any], page_bytes: int) -> Any:
    dispatch.expect_many_checksums()
    return dispatch.page_sums(blocks, page_bytes)


@pytest.mark.parametrize("sums_of", [reference.page_sums, compiled])
@pytest.mark.parametrize(("pages", "page_bytes"), [(1, 4096), (8, 4096), (3, 16384)])
def test_a_sum_is_the_upper_half_of_a_pages_checksum(sums_of: Any, pages: int, page_bytes: int) -> None:
    blocks = random_blocks(3, pages, page_bytes)
    sums = sums_of(blocks, page_bytes)
    assert sums.dtype == np.uint32
    assert sums.shape == (3, pages)
    for block, row in zip(blocks, sums.tolist(), strict=True):
        file = np.concatenate((np.zeros(16, dtype=np.uint8), block)).reshape(pages, page_bytes)
        assert row == [reference.checksum(page) >> 32 for page in file]
    assert sums_of([], page_bytes).size == 0


@pytest.mark.parametrize("page_bytes", [4096, 8192, 16384, 32768])
def test_no_single_bit_can_be_lost(page_bytes: int) -> None:
    """A flipped bit changes the checksum by its weight, shifted: never by so little that the upper half stays."""
    weights = reference.checksum_weights(page_bytes // 4)
    for bit in range(32):
        change = weights << np.uint64(bit)
        assert (np.minimum(change, ~change + np.uint64(1)) >= np.uint64(1 << 32)).all()


def test_every_bit_of_a_page_is_seen() -> None:
    (block,) = random_blocks(1, 2)
    (right,) = compiled([block], PAGE)
    for place in range(PAGE - 16 - 8, PAGE - 16 + 64):
        for bit in range(8):
            block[place] ^= 1 << bit
            wrong = compiled([block], PAGE)[0] != right
            assert wrong.tolist() == [place < PAGE - 16, place >= PAGE - 16]
            block[place] ^= 1 << bit


# -- what writes do to them


def test_every_sort_of_write_keeps_them(opened: Any, path: str) -> None:
    collection = opened(dim=64, metric="l2", durability="none")
    random = np.random.default_rng(0)
    collection.add(range(3000), random.standard_normal((3000, 64)))
    blocks = check(collection)
    assert blocks > 30
    collection.upsert([5, 6, 2999], random.standard_normal((3, 64)))
    collection.update(7, {"only": "metadata"})
    assert check(collection) == blocks
    collection.delete(range(2500, 3000))
    assert check(collection) < blocks
    collection.delete(np.arange(0, 2500, 2))  # and a purge
    check(collection)
    with pytest.raises(vecstore.errors.DuplicateIdError), collection.transaction():
        collection.add([9000, 1], np.ones((2, 64)))
    check(collection)
    collection.compact()
    blocks = check(collection)
    collection.backup(path + ".copy")
    assert check(opened(path + ".copy", mode="r")) == blocks
    collection.delete([record.id for record in collection])
    assert check(collection) == 0
    collection.add(range(10), np.ones((10, 64)))
    assert check(collection) == 1
    assert collection.verify(raise_on_error=True).ok


@pytest.mark.parametrize("seed", range(4))
def test_random_writes_keep_them(opened: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    dim = [3, 64, 700, 5000][seed]  # of many rows a block, and of one
    collection = opened(dim=dim, metric="l2", durability="none")
    most = 600 if dim < 5000 else 40
    for _ in range(30):
        ids = random.permutation(most)[: random.integers(1, most)].tolist()
        draw = random.integers(6)
        if draw < 3:
            collection.upsert(ids, random.standard_normal((len(ids), dim)))
        elif draw == 3:
            collection.delete(ids)
        elif draw == 4:
            with collection.transaction():
                collection.delete(ids[: len(ids) // 2])
                collection.upsert(ids, random.standard_normal((len(ids), dim)))
        else:
            collection.compact()
        check(collection)
    assert collection.verify(raise_on_error=True).ok


def test_staged_blocks_have_theirs_from_the_commit_on(opened: Any) -> None:
    from vecstore.storage.ids import hash_ids
    from vecstore.storage.store import delete, find, insert

    collection = opened(dim=64, metric="l2", durability="none")
    rows = np.random.default_rng(0).standard_normal((9000, 64)).astype(np.float32).view(np.uint8)

    def do(session: Session) -> None:
        for start in range(0, 9000, 1500):
            ids = hash_ids(list(range(start, start + 1500)), session.header.seed)
            insert(session, ids, rows[start : start + 1500], [b"\x80"] * 1500)
        assert session._staged
        # One that was staged is freed, and one is changed.
        ids = hash_ids([*range(200), 800], session.header.seed)
        delete(session, find(session, ids))

    change(collection, do, stage_bytes=1 << 18)
    assert len(collection) == 8799
    assert check(collection) > 100
    assert collection.verify(raise_on_error=True).ok


def test_what_was_written_without_numba_is_the_same(opened: Any, path: str) -> None:
    code = (
        "import sys, numpy, vecstore\n"
        f"with vecstore.open({path!r}, dim=64, metric='l2') as c:\n"
        "    c.add(range(500), numpy.random.default_rng(0).standard_normal((500, 64)))\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    collection = opened(path)
    assert check(collection) > 5
    dispatch.expect_many_checksums()
    assert collection.verify(raise_on_error=True).ok


def test_a_file_of_format_1_gets_them_block_by_block(tmp_path: Path) -> None:
    path = tmp_path / "old.vec"
    shutil.copy(FIXTURES / "format-1" / "l2-float32.vec", path)
    with vecstore.open(path) as old:
        with old._file.snapshot() as state:
            assert not state.sums().any()
        old.update("img-1", {"later": 1})
        assert check(old, all_of=False) == 1
        with old._file.snapshot() as state:
            assert not state.sums().any()
        assert old.verify(raise_on_error=True).ok
        old.upsert("img-1", np.ones(5))
        check(old)
        assert old.verify(raise_on_error=True).ok
        old.compact()
        check(old)


# -- what is wrong with them


def filled(opened: Any) -> vecstore.Collection:
    collection: vecstore.Collection = opened(dim=64, metric="l2", durability="none")
    collection.add(range(2000), np.random.default_rng(0).standard_normal((2000, 64)))
    return collection


def test_sums_that_contradict_are_found(opened: Any) -> None:
    collection = filled(opened)

    def lie(session: Session) -> None:
        payload(session.edit(keys.SUMS, 0))[4 * session.layout.data_pages * 3] ^= 1

    change(collection, lie)
    assert collection.verify().problems == ("block vectors 3 is not what the sums of its pages say",)
    collection.compact()
    assert collection.verify().ok


def test_sums_of_a_missing_block_are_found(opened: Any) -> None:
    collection = filled(opened)
    with collection._file.snapshot() as state:
        number = state.header.counts[keys.VECTORS] - 1
    change(collection, lambda session: session.free(keys.VECTORS, number))
    check(collection)

    def lie(session: Session) -> None:
        payload(session.edit(keys.SUMS, 0))[4 * session.layout.data_pages * number] ^= 1

    change(collection, lie)
    with collection._file.snapshot() as state:
        from vecstore.storage.sums import wrong_sums

        assert list(wrong_sums(state)) == [(number, "is missing, and has sums of its pages")]


def test_damage_of_the_table_is_told_and_not_written_over(opened: Any, path: str) -> None:
    with filled(opened) as collection, collection._file.snapshot() as state:
        start = state._place(keys.SUMS, 0) * state.layout.page_bytes
    data = bytearray(Path(path).read_bytes())
    data[start + 16 + HEAD_BYTES + 9] ^= 4
    Path(path).write_bytes(data)
    with opened(path) as damaged:
        assert any("block sums 0 is damaged" in problem for problem in damaged.verify().problems)
        with pytest.raises(CorruptionError, match="block sums 0 is damaged"):
            damaged.upsert(3, np.ones(64))
        assert len(damaged.search(np.ones(64), exact=True)) == 10
        damaged.compact()
        assert damaged.verify().ok
        check(damaged)


# -- rows are checked by them


DIM, COUNT = 128, 500


@pytest.fixture
def walked(opened: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> vecstore.Collection:
    """A collection with a graph, in blocks of 63 rows and 8 pages."""
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    collection: vecstore.Collection = opened(dim=DIM, metric="l2", durability="none")
    collection.add(range(COUNT), np.random.default_rng(0).standard_normal((COUNT, DIM)))
    assert collection.explain(QUERY)["plan"] == "graph"
    collection.close()
    reopened: vecstore.Collection = opened(path)  # it has read nothing yet
    return reopened


QUERY = np.random.default_rng(1).standard_normal(DIM)


def search(collection: vecstore.Collection) -> list[Any]:
    return list(collection.search(QUERY, k=1, search_list=8).ids)


def touched(collection: vecstore.Collection) -> set[tuple[int, int]]:
    """The (block, page) of vectors that were checked alone."""
    with collection._file.snapshot() as state:
        table = state.lazy(keys.VECTORS, 0, state.header.counts[keys.VECTORS], gaps=True)
        found = table.pages_seen == table.generations[:, None]
        return {(int(block), int(page)) for block, page in np.argwhere(found)}


def pages_of(collection: vecstore.Collection) -> dict[tuple[int, int], int]:
    """Where each page of each block of vectors lies in the file."""
    with collection._file.snapshot() as state:
        present = np.flatnonzero(state.present(keys.VECTORS)).tolist()
        return {
            (block, page): (state._place(keys.VECTORS, block) + page) * state.layout.page_bytes
            for block in present
            for page in range(state.layout.data_pages)
        }


def copy_with(path: str, copy: Path, changes: dict[int, bytes]) -> Path:
    data = bytearray(Path(path).read_bytes())
    for place, new in changes.items():
        data[place : place + len(new)] = new
    copy.write_bytes(data)
    return copy


def flip(path: str, place: int) -> dict[int, bytes]:
    return {place: bytes([Path(path).read_bytes()[place] ^ 0x10])}


def test_a_search_reads_the_pages_of_its_rows_and_no_others(
    walked: vecstore.Collection, path: str, tmp_path: Path
) -> None:
    answer, read = search(walked), touched(walked)
    assert 0 < len(read) <= 8
    pages = pages_of(walked)
    walked.close()
    for number, (page, place) in enumerate(pages.items()):
        copy = copy_with(path, tmp_path / f"{number}.vec", flip(path, place + 100 + 37 * number))
        with vecstore.open(copy, mode="r") as damaged:
            if page in read:
                name = f"block vectors {page[0]} is damaged: its checksum does not match its bytes"
                with pytest.raises(CorruptionError, match=name):
                    search(damaged)
            else:
                assert search(damaged) == answer
            assert not damaged.verify().ok
            with pytest.raises(CorruptionError):
                damaged.search(QUERY, exact=True)


def test_every_byte_of_a_rows_page_counts(walked: vecstore.Collection, path: str, tmp_path: Path) -> None:
    search(walked)
    pages = pages_of(walked)
    first = next((page for page in touched(walked) if page[1] == 0), None)
    other = next(page for page in touched(walked) if page[1] > 0)
    walked.close()
    for page in filter(None, (first, other)):
        begin = 16 if page[1] == 0 else 0
        for offset in [*range(begin, begin + 64, 5), *range(begin + 64, PAGE, 61), PAGE - 1]:
            copy = copy_with(path, tmp_path / "flipped.vec", flip(path, pages[page] + offset))
            with vecstore.open(copy, mode="r") as damaged, pytest.raises(CorruptionError, match="block vectors"):
                search(damaged)


def test_a_page_of_another_time_is_noticed(walked: vecstore.Collection, path: str, tmp_path: Path) -> None:
    search(walked)
    block, page = next(page for page in touched(walked) if page[1] > 0)
    before, data = pages_of(walked), Path(path).read_bytes()
    inside = page * PAGE - 16 + 8  # of a row that is on this page

    def write(session: Session) -> None:
        session.edit(keys.VECTORS, block)[inside] ^= 1

    change(walked, write)
    search(walked)
    read = touched(walked)
    check(walked)
    after = pages_of(walked)
    walked.close()
    for stale in range(8):
        begin = 16 if stale == 0 else 0  # LMDB's header says where the page is
        old = data[before[block, stale] + begin : before[block, stale] + PAGE]
        copy = copy_with(path, tmp_path / "stale.vec", {after[block, stale] + begin: old})
        with vecstore.open(copy, mode="r") as damaged:
            if (block, stale) in read and stale in (0, page):
                with pytest.raises(CorruptionError, match=f"block vectors {block} is damaged"):
                    search(damaged)
            else:
                search(damaged)
            # Only this page was changed, and the first, which has the generation.
            assert damaged.verify().ok == (stale not in (0, page))


def test_a_swapped_page_is_noticed(walked: vecstore.Collection, path: str, tmp_path: Path) -> None:
    search(walked)
    pages = pages_of(walked)
    page = next(page for page in touched(walked) if page[1] > 0)
    walked.close()
    data = Path(path).read_bytes()
    for other in ((page[0], 1 + page[1] % 7), ((page[0] + 1) % 7, page[1])):
        swapped = {pages[page]: data[pages[other] : pages[other] + PAGE]}
        with (
            vecstore.open(copy_with(path, tmp_path / "swapped.vec", swapped), mode="r") as damaged,
            pytest.raises(CorruptionError, match=f"block vectors {page[0]} is damaged"),
        ):
            search(damaged)


def test_what_is_read_alone_is_not_believed_as_a_whole(
    walked: vecstore.Collection, path: str, tmp_path: Path
) -> None:
    search(walked)
    read, pages = touched(walked), pages_of(walked)
    block = next(iter(read))[0]
    page = next(page for page in pages if page[0] == block and page not in read)
    walked.close()
    with vecstore.open(copy_with(path, tmp_path / "damaged.vec", flip(path, pages[page] + 1000))) as damaged:
        search(damaged)
        with pytest.raises(CorruptionError, match=f"block vectors {block} is damaged"):
            damaged.upsert(block * 63, QUERY)
        with pytest.raises(CorruptionError, match=f"block vectors {block} is damaged"):
            damaged.get(block * 63)


def test_a_block_that_was_read_whole_needs_no_sums(walked: vecstore.Collection) -> None:
    walked.search(QUERY, exact=True)
    search(walked)
    assert not touched(walked)


def test_a_verification_ends_what_was_believed_of_pages(walked: vecstore.Collection) -> None:
    search(walked)
    read = touched(walked)
    walked.verify(raise_on_error=True)
    assert not touched(walked)
    search(walked)
    assert touched(walked) <= read


def test_without_sums_whole_blocks_are_read(walked: vecstore.Collection, path: str, tmp_path: Path) -> None:
    answer = search(walked)
    read = touched(walked)
    change(walked, lambda session: session.free(keys.SUMS, 0))
    assert search(walked) == answer
    pages = pages_of(walked)
    walked.close()
    with vecstore.open(path) as sound:
        assert search(sound) == answer
        assert not touched(sound)
        assert sound.verify(raise_on_error=True).ok
    for page, place in list(pages.items())[:24]:
        with vecstore.open(copy_with(path, tmp_path / "damaged.vec", flip(path, place + 999)), mode="r") as damaged:
            if page[0] in {block for block, _ in read}:
                with pytest.raises(CorruptionError, match=f"block vectors {page[0]} is damaged"):
                    search(damaged)
            else:
                assert search(damaged) == answer


def test_a_walk_without_whole_sums_is_refused(walked: vecstore.Collection, path: str) -> None:
    with walked._file.snapshot() as state:
        start = state._place(keys.SUMS, 0) * state.layout.page_bytes
    walked.close()
    data = bytearray(Path(path).read_bytes())
    data[start + 200] ^= 1
    Path(path).write_bytes(data)
    with vecstore.open(path, mode="r") as damaged, pytest.raises(CorruptionError, match="block sums 0 is damaged"):
        search(damaged)


def test_sums_that_lie_are_told_of(walked: vecstore.Collection) -> None:
    search(walked)
    block, page = next(iter(touched(walked)))

    def lie(session: Session) -> None:
        payload(session.edit(keys.SUMS, 0))[4 * (8 * block + page)] ^= 1

    change(walked, lie)
    walked.close()
    with vecstore.open(walked.path, mode="r") as lying:
        name = f"block vectors {block} is damaged: one of its pages is not what its sum says"
        with pytest.raises(CorruptionError, match=name):
            search(lying)
