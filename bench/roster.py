"""Who takes part in bench/graph.py: every peer with every set of build options, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import contenders
import stores
from contenders import Peer


class Variant(NamedTuple):
    peer: type[Peer]
    options: dict[str, Any]
    sets: tuple[str, ...] = ("sift", "text")


VARIANTS = {
    "vecstore": Variant(stores.Vecstore, {}),
    "faiss-flat": Variant(contenders.Faiss, {"kind": "flat"}),
    "faiss-hnsw": Variant(contenders.Faiss, {"kind": "hnsw"}),
    "faiss-fastscan": Variant(contenders.Faiss, {"kind": "fastscan"}),
    "faiss-ivfpq": Variant(contenders.Faiss, {"kind": "ivfpq"}),
    "faiss-lsh": Variant(contenders.Faiss, {"kind": "lsh"}),
    "hnswlib-16": Variant(contenders.Hnswlib, {"m": 16}),
    "hnswlib-32": Variant(contenders.Hnswlib, {"m": 32}),
    "usearch-16": Variant(contenders.Usearch, {}),
    "usearch-32": Variant(contenders.Usearch, {"connectivity": 32}),
    "diskann-memory": Variant(stores.Diskann, {"kind": "memory"}),
    "diskann-dynamic": Variant(stores.Diskann, {"kind": "dynamic"}),
    "diskann-disk": Variant(stores.Diskann, {"kind": "disk"}),
    "svs-float32": Variant(contenders.Svs, {"kind": "float32"}),
    "svs-float16": Variant(contenders.Svs, {"kind": "float16"}),
    "svs-lvq8": Variant(contenders.Svs, {"kind": "lvq8"}),
    "svs-lvq4x8": Variant(contenders.Svs, {"kind": "lvq4x8"}),
    "svs-leanvec": Variant(contenders.Svs, {"kind": "leanvec"}, ("text",)),
    "vsag-sq8": Variant(contenders.Vsag, {"kind": "sq8_uniform"}),
    "vsag-fp32": Variant(contenders.Vsag, {"kind": "fp32"}),
    "vsag-rabitq": Variant(contenders.Vsag, {"kind": "rabitq"}, ("text",)),
    "pynndescent": Variant(contenders.Pynndescent, {}),
    "zvec-hnsw": Variant(stores.Zvec, {"kind": "hnsw"}),
    "zvec-hnsw-8": Variant(stores.Zvec, {"kind": "hnsw-8"}),
    "zvec-vamana": Variant(stores.Zvec, {"kind": "vamana"}),
    "zvec-vamana-8": Variant(stores.Zvec, {"kind": "vamana-8"}),
    "zvec-diskann": Variant(stores.Zvec, {"kind": "diskann"}),
    "lancedb-ivfpq": Variant(stores.Lancedb, {"kind": "ivfpq"}),
    "lancedb-hnswsq": Variant(stores.Lancedb, {"kind": "hnswsq"}),
    "hannoy": Variant(stores.Hannoy, {}),
    "ckdtree": Variant(contenders.Tree, {}),
}


def chosen(names: str | None, among: dict[str, Variant] = VARIANTS) -> list[str]:
    """`faiss,hnswlib-16`: a peer (or its package) with all its variants, or one of them; all if nothing is said."""
    if not names:
        return list(among)
    picked: dict[str, None] = {}
    for name in names.split(","):
        mine = [key for key, one in among.items() if name in (key, key.split("-")[0], one.peer.package)]
        if not mine:
            raise SystemExit(f"no peer is called {name!r}: {', '.join(among)}")
        picked |= dict.fromkeys(mine)
    return list(picked)
