"""The header block: the settings, the counts, and the generation of every part of the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import numpy as np

from vecstore.config import DTYPES, FORMAT_VERSION, METRICS_BY_DTYPE, Settings, check_settings
from vecstore.errors import CorruptionError, FormatVersionError, InvalidArgumentError
from vecstore.storage import keys
from vecstore.storage.blocks import (
    HEAD_BYTES,
    PAGE_HEAD_BYTES,
    Bytes,
    count_of,
    damaged,
    new_block,
    set_count,
)


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
    # A large write was staged and not published: its blocks are dropped by the next writer.
    staged: bool = False
    counts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(keys.KINDS, 0))
    catalog: dict[int, list[int]] = field(default_factory=lambda: {kind: [] for kind in keys.KINDS})
    version: int = FORMAT_VERSION

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
        "staged": header.staged,
        "counts": {chr(kind): count for kind, count in header.counts.items()},
        "catalog": {chr(kind): parts for kind, parts in header.catalog.items()},
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
        staged=bool(content["staged"]),
        counts=counts,
        catalog=catalog,
        version=content["version"],
    )
    if not header.text_ids <= header.records <= header.slots:
        raise CorruptionError(f"{header.records} records in {header.slots} slots")
    return header


def _number(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} where a number up to {most} belongs")
    return value
