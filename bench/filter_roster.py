"""Who takes part in bench/filters.py."""

from __future__ import annotations

import filter_peers
import filter_stores
from roster import Variant

FILTERING = {
    "vecstore": Variant(filter_stores.Vecstore, {}),
    "faiss-hnsw": Variant(filter_peers.Faiss, {"kind": "hnsw"}),
    "faiss-ivf": Variant(filter_peers.Faiss, {"kind": "ivf"}),
    "faiss-flat": Variant(filter_peers.Faiss, {"kind": "flat"}),
    "hnswlib": Variant(filter_peers.Hnswlib, {}),
    "zvec-hnsw": Variant(filter_stores.Zvec, {"kind": "hnsw"}),
    "zvec-hnsw-8": Variant(filter_stores.Zvec, {"kind": "hnsw-8"}),
    "qdrant-edge": Variant(filter_stores.Qdrant, {}),
    "lancedb-ivfpq": Variant(filter_stores.Lancedb, {"kind": "ivfpq"}),
    "lancedb-hnswsq": Variant(filter_stores.Lancedb, {"kind": "hnswsq"}),
    "chroma": Variant(filter_stores.Chroma, {}),
    "sqlite-vec": Variant(filter_stores.SqliteVec, {}),
}
