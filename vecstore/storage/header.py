"""The header block: the settings, the counts, and the generation of every part of the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from vecstore.config import (
    DTYPES,
    FORMAT_VERSION,
    MAX_FIELD_BYTES,
    METRICS_BY_DTYPE,
    MOST_INDEXES,
    Settings,
    check_settings,
)
from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError
from vecstore.storage import keys
from vecstore.storage.blocks import (
    HEAD_BYTES,
    PAGE_HEAD_BYTES,
    Bytes,
    Layout,
    count_of,
    damaged,
    new_block,
    set_count,
)

MAX_DEGREE = 255
MAX_CODEC_LENGTH = 32
# What a number of the graph's part may be at most; the others are numbers of nodes, slots and blocks.
_MOST = {"degree": MAX_DEGREE, "code_bytes": 1 << 20, "index_bytes": 1 << 30}
_MOST |= dict.fromkeys(("seed", "stamp", "owed", "changes"), (1 << 64) - 1)
_MOST |= {"named": 1}


@dataclass(frozen=True)
class GraphHeader:
    """What the graph in the file is: its shape, and the first block of each of its parts."""

    nodes: int
    # Neighbours that a row has room for.
    degree: int
    code_bytes: int
    codec: str
    # Nodes that a walk may begin at.
    entries: int
    index_bytes: int
    # Live records when it was built, and how many slots its tables have a place for.
    built: int
    slots: int
    seed: int
    # Another number for every graph that was ever written: what a reader keeps of one goes by it.
    stamp: int
    graph_first: int = 0
    codes_first: int = 0
    index_first: int = 0
    # Since format 4. Slots name their nodes; before, the slots of all nodes followed the parameters.
    named: int = 0
    # Edges that came after the rows, and how many of them a sweep has met that began at the first node.
    edges_first: int = 0
    edges: int = 0
    edges_before: int = 0
    # How many came before the first of these: rows tell which they have by counting all that ever came.
    edges_origin: int = 0
    # The node that the sweep goes on from, and the rows that it is behind with; nodes that were put behind those that
    # were built; and changes since the walks were calibrated.
    swept: int = 0
    owed: int = 0
    appended: int = 0
    changes: int = 0

    @property
    def index_length(self) -> int:
        return self.index_bytes if self.named else self.index_bytes + 4 * self.nodes

    def blocks(self, layout: Layout) -> dict[int, tuple[int, int]]:
        """Kind -> (first block, blocks) of each part, and of the bits that say which slots are linked."""
        return {
            keys.GRAPH: (self.graph_first, -(-self.nodes // layout.graph_rows(self.degree))),
            keys.CODES: (self.codes_first, -(-self.nodes // layout.code_rows(self.code_bytes))),
            keys.INDEX: (self.index_first, -(-self.index_length // layout.data_payload)),
            keys.LINKED: (0, -(-self.slots // (layout.table_payload * 8))),
            keys.NODES: (0, -(-self.slots // layout.slot_nodes) if self.named else 0),
            keys.EDGES: (self.edges_first, -(-self.edges // layout.pairs)),
        }


@dataclass(frozen=True)
class FieldIndex:
    """What index of a field there is."""

    # Which of the indexes' blocks are its own.
    place: int
    # It has the rows of the slots below this one.
    covered: int
    # Whether somebody asked for it, or it was made by itself.
    asked: bool

    def blocks(self, layout: Layout) -> NDArray[np.int64]:
        """The numbers of its blocks."""
        return self.place + MOST_INDEXES * np.arange(-(-self.covered // layout.field_rows), dtype=np.int64)


@dataclass
class Header:
    """What a snapshot knows before it reads anything else."""

    settings: Settings
    uuid: bytes
    # The hash of ids is keyed, so that nobody can choose ids that collide.
    seed: int
    created: float
    slots: int = 0
    records: int = 0
    text_ids: int = 0
    depth: int = 0
    # The record block that still has room.
    tail: int | None = None
    # Rows of vectors begin where the fewest of them cross pages; in a file before format 3, behind the header.
    aligned: bool = True
    # A large write was staged and not published: its blocks are dropped by the next writer.
    staged: bool = False
    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(keys.KINDS, 0))
    catalog: dict[int, list[int]] = field(default_factory=lambda: {kind: [] for kind in keys.KINDS})
    version: int = FORMAT_VERSION
    graph: GraphHeader | None = None
    # Since format 5. The indexes of fields by the fields' names; how many processes read a field that has none out of all
    # records; and the fields whose indexes were dropped, which get none by themselves. Replaced, never changed in place.
    fields: dict[str, FieldIndex] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    unwanted: tuple[str, ...] = ()

    def copy(self) -> Header:
        return replace(
            self,
            counts=dict(self.counts),
            catalog={kind: list(parts) for kind, parts in self.catalog.items()},
        )


def write_header(header: Header, page_bytes: int) -> Bytes:
    """The header as a block, not yet sealed."""
    content: dict[str, Any] = {
        "version": header.version,
        "dim": header.settings.dim,
        "metric": header.settings.metric,
        "dtype": header.settings.dtype,
        "uuid": header.uuid,
        "seed": header.seed,
        "created": header.created,
        "slots": header.slots,
        "records": header.records,
        "text_ids": header.text_ids,
        "depth": header.depth,
        "tail": header.tail,
        "aligned": header.aligned,
        "staged": header.staged,
        "counts": {chr(kind): count for kind, count in header.counts.items()},
        "catalog": {chr(kind): parts for kind, parts in header.catalog.items()},
        "graph": None if header.graph is None else vars(header.graph),
        "fields": {name: list(vars(index).values()) for name, index in header.fields.items()},
        "asked": header.asked,
        "unwanted": header.unwanted,
    }
    packed = msgpack.packb(content)
    pages = -(-(len(packed) + HEAD_BYTES + PAGE_HEAD_BYTES) // page_bytes)
    block = new_block(keys.HEADER, 0, pages * page_bytes - PAGE_HEAD_BYTES)
    block[HEAD_BYTES : HEAD_BYTES + len(packed)] = np.frombuffer(packed, dtype=np.uint8)
    set_count(block, len(packed))
    return block


def read_header(block: Bytes, most_blocks: int) -> Header:
    """Read a header whose checksum was found right; still believes no number in it."""
    try:
        content = msgpack.unpackb(
            block[HEAD_BYTES : HEAD_BYTES + count_of(block)].tobytes(), strict_map_key=True
        )
        version = content["version"]
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise damaged(keys.HEADER, 0, f"it cannot be read ({error})") from None
    if not isinstance(version, int) or version < 1:
        raise damaged(keys.HEADER, 0, f"format version {version!r}")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"the file has format {version}, and this vecstore reads up to {FORMAT_VERSION}: upgrade vecstore-db"
        )
    try:
        return _checked(content, most_blocks)
    except (KeyError, TypeError, ValueError, AttributeError, InvalidArgumentError) as error:
        raise damaged(keys.HEADER, 0, f"it makes no sense ({error})") from None


def _checked(content: dict[str, Any], most_blocks: int) -> Header:
    dtype, metric = content["dtype"], content["metric"]
    if dtype not in DTYPES or metric not in METRICS_BY_DTYPE[dtype]:
        raise ValueError(f"metric {metric!r} with dtype {dtype!r}")
    content = _upgraded(content)
    counts = {kind: _number(content["counts"][chr(kind)], most_blocks * 64) for kind in keys.KINDS}
    catalog = {}
    for kind in keys.KINDS:
        parts = content["catalog"][chr(kind)]
        if not isinstance(parts, list) or len(parts) > most_blocks:
            raise ValueError("catalog")
        catalog[kind] = [_number(part, 1 << 62) for part in parts]
    uuid = content["uuid"]
    if not isinstance(uuid, bytes) or len(uuid) != 16:
        raise ValueError("uuid")
    header = Header(
        settings=check_settings(content["dim"], metric, dtype),
        uuid=uuid,
        seed=_number(content["seed"], (1 << 64) - 1),
        created=float(content["created"]),
        slots=_number(content["slots"], keys.MAX_NUMBER),
        records=_number(content["records"], keys.MAX_NUMBER),
        text_ids=_number(content["text_ids"], keys.MAX_NUMBER),
        depth=_number(content["depth"], 32),
        tail=None if content["tail"] is None else _number(content["tail"], keys.MAX_NUMBER),
        aligned=bool(content["aligned"]),
        staged=bool(content["staged"]),
        counts=counts,
        catalog=catalog,
        version=content["version"],
        graph=None if content["graph"] is None else _graph(content["graph"]),
        fields={_name(name): _field(index) for name, index in content["fields"].items()},
        asked={_name(name): _number(times, 255) for name, times in content["asked"].items()},
        unwanted=tuple(_name(name) for name in content["unwanted"]),
    )
    if not header.text_ids <= header.records <= header.slots:
        raise CorruptionError(f"{header.records} records in {header.slots} slots")
    if header.graph is not None and not header.graph.slots <= header.slots:
        raise CorruptionError(f"a graph of {header.graph.slots} slots, of which there are {header.slots}")
    if len({index.place for index in header.fields.values()}) != len(header.fields):
        raise CorruptionError("two indexes of fields in one place")
    if any(index.covered > header.slots for index in header.fields.values()):
        raise CorruptionError(f"an index of more than the {header.slots} slots")
    return header


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """A header of an older format in today's form; its version stays what it is until the next write."""
    version = content["version"]
    if version < 3:
        content = {"aligned": False} | content
    if version in keys.NEW_KINDS:
        names = [chr(kind) for kind in keys.NEW_KINDS[version]]
        content = content | {
            "counts": content["counts"] | dict.fromkeys(names, 0),
            "catalog": content["catalog"] | {name: [] for name in names},
        }
    if version == 1:
        content = content | {"graph": None}
    if version < 4 and content["graph"] is not None:
        newer = ("named", "edges_first", "edges", "edges_before", "edges_origin", "swept", "owed", "appended", "changes")
        content = content | {"graph": content["graph"] | dict.fromkeys(newer, 0)}
    if version < 5:
        content = content | {"fields": {}, "asked": {}, "unwanted": []}
    return content


def _graph(content: dict[str, Any]) -> GraphHeader:
    """The graph's part, each number within its own bounds; ``check_graph`` compares it with the blocks."""
    codec = content["codec"]
    if not isinstance(codec, str) or not 1 <= len(codec) <= MAX_CODEC_LENGTH:
        raise ValueError("codec")
    numbers = {
        each.name: _number(content[each.name], _MOST.get(each.name, keys.MAX_NUMBER))
        for each in fields(GraphHeader)
        if each.name != "codec"
    }
    graph = GraphHeader(codec=codec, **numbers)
    if min(graph.degree, graph.index_bytes, graph.slots, graph.code_bytes) < 1 or graph.code_bytes % 16:
        raise ValueError("graph")
    if not 1 <= graph.entries <= graph.nodes or graph.swept > graph.nodes or graph.appended > graph.nodes:
        raise ValueError(f"{graph.entries} entries of {graph.nodes} nodes")
    if graph.edges_before > graph.edges or (graph.edges and not graph.named):
        raise ValueError(f"{graph.edges_before} of {graph.edges} edges")
    return graph


def _field(content: list[Any]) -> FieldIndex:
    place, covered, asked = content
    if not isinstance(asked, bool):
        raise ValueError(f"{asked!r} where true or false belongs")
    return FieldIndex(_number(place, MOST_INDEXES - 1), _number(covered, keys.MAX_NUMBER), asked)


def _name(name: object) -> str:
    if not isinstance(name, str) or len(name.encode()) > MAX_FIELD_BYTES:
        raise ValueError("a name of a field")
    return name


def check_fields(header: Header, layout: Layout) -> None:
    """Compare what the indexes of fields cover with the blocks that there are."""
    for index in header.fields.values():
        parts = -(-index.covered // layout.field_rows)
        if parts and index.place + MOST_INDEXES * (parts - 1) >= header.counts[keys.FIELDS]:
            raise damaged(keys.HEADER, 0, "an index of a field needs more than its blocks hold")


def check_graph(header: Header, layout: Layout) -> None:
    """Compare the graph's numbers with what its blocks can hold."""
    graph = header.graph
    if graph is None:
        return
    if graph.code_bytes > layout.data_payload:
        raise damaged(keys.HEADER, 0, f"it speaks of codes of {graph.code_bytes} bytes")
    for kind, (first, blocks) in graph.blocks(layout).items():
        if first + blocks > header.counts[kind]:
            raise damaged(keys.HEADER, 0, f"its graph needs more than its {keys.NAMES[kind]} blocks hold")


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} where a number up to {most} belongs")
    return value
