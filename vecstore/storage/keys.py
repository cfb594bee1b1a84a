"""Keys come only from here: a kind and a number, in an order that keeps a kind's blocks together.

>>> key(VECTORS, 7)
b'V\\x00\\x00\\x00\\x07'
"""

from __future__ import annotations

HEADER = ord("H")  # one: settings, counts, generations of the catalog
CATALOG = ord("C")  # generation of every other block
CODES = ord("Q")  # the graph's coded vectors, node by node
DIRECTORY = ord("D")  # hash prefix -> id bucket
EDGES = ord("E")  # edges of the graph that came after their node's row was written
FIELDS = ord("F")  # indexes of fields: a tag and eight bytes for each slot
GRAPH = ord("G")  # the graph's rows: a node's slot and its neighbours
IDS = ord("I")  # buckets of (hash, slot)
INDEX = ord("N")  # the graph's parameters, one string of bytes; in format 2 the slots of its nodes as well
LINKED = ord("P")  # one bit a slot: its record is in the graph
LIVE = ord("L")  # one bit a slot
NODES = ord("O")  # slot -> node of the graph
RECORDS = ord("R")  # ids and metadata, packed
SLOTS = ord("S")  # slot -> place of its record
SUMS = ord("W")  # a checksum for each page of each block of vectors
VECTORS = ord("V")  # rows, slot by slot
LONG = ord("X")  # pieces of records too long for a block

# Those that the catalog lists.
KINDS = (
    *(CODES, DIRECTORY, EDGES, FIELDS, GRAPH, IDS, INDEX, LINKED, LIVE, LONG),
    *(NODES, RECORDS, SLOTS, SUMS, VECTORS),
)
GRAPH_KINDS = (CODES, EDGES, GRAPH, INDEX, LINKED, NODES)
# What a format did not have yet.
NEW_KINDS = {
    1: (*GRAPH_KINDS, SUMS, FIELDS),
    2: (EDGES, NODES, FIELDS),
    3: (EDGES, NODES, FIELDS),
    4: (FIELDS,),
}

NAMES = {
    HEADER: "header",
    CATALOG: "catalog",
    CODES: "codes",
    DIRECTORY: "directory",
    EDGES: "edges",
    FIELDS: "fields",
    GRAPH: "graph",
    IDS: "ids",
    INDEX: "index",
    LINKED: "linked",
    LIVE: "live",
    NODES: "nodes",
    LONG: "long record",
    RECORDS: "records",
    SLOTS: "slots",
    SUMS: "sums",
    VECTORS: "vectors",
}

KEY_BYTES = 5
MAX_NUMBER = (1 << 32) - 1
# Catalog blocks of one kind are numbered from its kind shifted by this.
CATALOG_SHIFT = 24


def key(kind: int, number: int) -> bytes:
    """The LMDB key of a block."""
    return bytes((kind,)) + number.to_bytes(4, "big")


def order(kind: int, number: int) -> int:
    """The key as an integer that sorts as LMDB sorts the bytes."""
    return (kind << 32) | number


def catalog_number(kind: int, part: int) -> int:
    """The number of the catalog block that lists this part of a kind's blocks."""
    return (kind << CATALOG_SHIFT) | part
