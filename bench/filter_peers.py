"""The peers of bench/filters.py that keep their index in memory, tuned for filters as their documentation says.

They take a set of row numbers, not a condition: evaluating it is left to their user. That is counted where a filter is
evaluated anew, and not where the set is kept from before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from contenders import K, Knob, Peer, Vectors, ladder
from filter_cells import Narrow

# Matches are looked for among all that a walk meets, so rare ones want wide walks.
WIDTHS = (10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_240, 20_480)


class Filtering(Peer):
    """A peer that filters. `ask` writes a filter in its language, `keep` gives what may be kept of one, both untimed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.r = self.cluster = np.zeros(0)
        # What is measured in any case, besides the least effort that is enough.
        self.default: Knob | None = None
        # For searches without a filter, where other knobs are wanted.
        self.plain: list[list[Knob]] | None = None

    def open(self) -> None:
        """Take up what was built, in this process or in another."""

    def ask(self, narrow: Narrow) -> Any:
        return narrow

    def keep(self, asked: Any) -> Any:
        return asked

    def one(self, query: Vectors, asked: Any = None) -> Any:
        raise NotImplementedError


class Faiss(Filtering):
    """`IDSelectorBitmap` for its graph and lists; its exact search is quickest with an array of ids."""

    package = "faiss-cpu"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        kind = self.kind = options["kind"]
        lists = round(4 * self.rows**0.5)
        self.factory = {"flat": "Flat", "hnsw": "HNSW32,Flat", "ivf": f"IVF{lists},Flat"}[kind]
        probes = [2**power for power in range(20) if 2**power < lists]
        self.ladders = {
            "flat": lambda: [[{}]],
            "hnsw": lambda: [ladder("efSearch", [width for width in WIDTHS if width < 2 * self.rows])],
            "ivf": lambda: [ladder("nprobe", [*probes, lists])],
        }[kind]()

    @property
    def path(self) -> str:
        return str(self.folder / "index.faiss")

    def build(self, base: Vectors) -> None:
        import faiss

        faiss.omp_set_num_threads(2)
        faiss.cvar.distance_compute_blas_threshold = 20
        metric = faiss.METRIC_L2 if self.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(self.dim, self.factory, metric)
        if self.kind == "hnsw":
            index.hnsw.efConstruction = 200
        index.train(base)
        index.add(base)
        faiss.write_index(index, self.path)

    def open(self) -> None:
        import faiss

        self.faiss, self.index = faiss, faiss.read_index(self.path)
        faiss.omp_set_num_threads(1)
        self.knob: Knob = {}

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def keep(self, asked: Narrow) -> Any:
        mask = asked.mask(self.r, self.cluster)
        if self.kind == "flat":
            return self._how(self.faiss.IDSelectorArray(np.flatnonzero(mask)))
        return self._how(self.faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little")))

    def _how(self, selector: Any) -> Any:
        kinds = {"flat": "SearchParameters", "hnsw": "SearchParametersHNSW", "ivf": "SearchParametersIVF"}
        return getattr(self.faiss, kinds[self.kind])(**({"sel": selector} if selector else {}), **self.knob)

    def one(self, query: Vectors, asked: Any = None) -> Any:
        if asked is None:
            how = self._how(None)
        else:
            how = self.keep(asked) if isinstance(asked, Narrow) else asked
        return self.index.search(query[None], K, params=how)[1][0]


class Hnswlib(Filtering):
    """Its filter is a function that is called for every candidate: the quickest there is looks into a list."""

    package = "hnswlib"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("ef", [width for width in WIDTHS if width < 2 * self.rows])]

    @property
    def path(self) -> str:
        return str(Path(self.folder, "index.hnswlib"))

    def _index(self) -> Any:
        import hnswlib

        return hnswlib.Index("l2" if self.metric == "l2" else "cosine", self.dim)

    def build(self, base: Vectors) -> None:
        index = self._index()
        index.init_index(len(base), M=16, ef_construction=200, random_seed=100)
        index.add_items(base, np.arange(len(base)), num_threads=2)
        index.save_index(self.path)

    def open(self) -> None:
        self.index = self._index()
        self.index.load_index(self.path)

    def set(self, **knob: Any) -> None:
        self.index.set_ef(knob["ef"])

    def keep(self, asked: Narrow) -> Any:
        mask = asked.mask(self.r, self.cluster)
        return mask.tolist().__getitem__, min(K, int(mask.sum()))

    def one(self, query: Vectors, asked: Any = None) -> Any:
        if asked is None:
            asked = None, K
        allowed, k = self.keep(asked) if isinstance(asked, Narrow) else asked
        try:
            return self.index.knn_query(query, k, num_threads=1, filter=allowed)[0][0] if k else ()
        except RuntimeError:  # it found fewer than it was asked for, and gives none of them
            return ()
