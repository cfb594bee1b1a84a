"""The peers of bench/graph.py that keep their index in memory, each tuned as its own documentation says.

A peer is built once; then, for each value of its search knob, `set` is called, and `one` and `many` are timed.
What they return is whatever the library gives its user; `ids` turns it into row numbers, untimed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Knob = dict[str, Any]
K = 10
WIDTHS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 240, 400, 800)


def ladder(name: str, values: Iterable[Any], **fixed: Any) -> list[Knob]:
    return [{name: value, **fixed} for value in values]


class Peer:
    """`ladders` are climbed from the fastest knob to the surest, each until its recall no longer grows."""

    package = ""  # as pip knows it
    threads = True  # whether a batch takes a number of threads
    batches = True  # whether there is a call for many queries

    def __init__(self, rows: int, dim: int, metric: str, folder: Path, **options: Any) -> None:
        self.rows, self.dim, self.metric, self.folder, self.options = rows, dim, metric, folder, options
        self.ladders: list[list[Knob]] = []

    def warm(self, some: Vectors) -> None:
        """Untimed, before the build: what is compiled once for all."""

    def build(self, base: Vectors) -> None:
        raise NotImplementedError

    def set(self, **knob: Any) -> None:
        """Take a value of the search knob."""

    def use(self, threads: int) -> None:
        """Where threads are a setting, not an argument."""

    def one(self, query: Vectors) -> Any:
        raise NotImplementedError

    def many(self, queries: Vectors, threads: int) -> Any:
        raise NotImplementedError

    def ids(self, answer: Any) -> Any:
        return answer

    def distances(self, queries: Vectors) -> float | None:
        """How many distances a query computes, from the peer's own count. hnswlib counts too
        (`metric_distance_computations`), but in C++ alone; SVS, diskannpy in memory and VSAG show nothing."""
        return None

    def close(self) -> None:
        pass


class Faiss(Peer):
    package = "faiss-cpu"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        kind = self.kind = options["kind"]
        # The guidelines of faiss: between 4√n and 16√n lists; np: no training for polysemous codes, unused here.
        lists = round(4 * self.rows**0.5)
        self.factory = {
            "flat": "Flat",
            "hnsw": "HNSW32,Flat",
            "lsh": f"LSH{8 * self.dim}r,RFlat",
            "ivfpq": f"IVF{lists},PQ{self.dim // 2}np",
            "fastscan": f"IVF{lists},PQ{self.dim // 2}x4fs,RFlat",
        }[kind]
        probes = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512)
        self.ladders = {
            "flat": lambda: [[{}]],
            "hnsw": lambda: [ladder("efSearch", WIDTHS)],
            "lsh": lambda: [ladder("k_factor_rf", (1, 4, 16, 64, 256, 1024))],
            "ivfpq": lambda: [ladder("nprobe", probes)],
            "fastscan": lambda: [ladder("nprobe", probes, k_factor_rf=factor) for factor in (4, 10, 30)],
        }[kind]()

    def build(self, base: Vectors) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(2)
        # Many vectors against many, in training and in batches: by matrix products.
        faiss.cvar.distance_compute_blas_threshold = 20
        # LSH knows l2 alone: between unit vectors the same order.
        l2 = self.metric == "l2" or self.kind == "lsh"
        metric = faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
        self.index = faiss.index_factory(self.dim, self.factory, metric)
        if self.kind == "hnsw":
            self.index.hnsw.efConstruction = 200
        self.index.train(base)
        self.index.add(base)
        self.space = faiss.ParameterSpace()

    def set(self, **knob: Any) -> None:
        for name, value in knob.items():
            if name == "efSearch":
                self.index.hnsw.efSearch = value
            elif name == "k_factor_rf":
                self.index.k_factor = value
            else:
                self.space.set_index_parameter(self.index, name, value)

    def use(self, threads: int) -> None:
        self.faiss.omp_set_num_threads(threads)

    def one(self, query: Vectors) -> Any:
        return self.index.search(query[None], K)[1][0]

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.search(queries, K)[1]

    def distances(self, queries: Vectors) -> float | None:
        if self.kind == "flat":
            return float(self.rows)
        if self.kind != "hnsw":
            return None
        stats = self.faiss.cvar.hnsw_stats
        stats.reset()
        self.many(queries, 1)
        return stats.ndis / len(queries)


class Hnswlib(Peer):
    package = "hnswlib"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("ef", WIDTHS)]

    def build(self, base: Vectors) -> None:
        import hnswlib

        self.index = hnswlib.Index("l2" if self.metric == "l2" else "cosine", self.dim)
        self.index.init_index(len(base), M=self.options["m"], ef_construction=200, random_seed=100)
        self.index.add_items(base, np.arange(len(base)), num_threads=2)

    def set(self, **knob: Any) -> None:
        self.index.set_ef(knob["ef"])

    def one(self, query: Vectors) -> Any:
        return self.index.knn_query(query, K, num_threads=1)[0][0]

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.knn_query(queries, K, num_threads=threads)[0]


class Usearch(Peer):
    package = "usearch"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("expansion", WIDTHS)]

    def build(self, base: Vectors) -> None:
        from usearch.index import Index

        # The type of the stored numbers is left to usearch, which takes what the processor does best.
        metric = "l2sq" if self.metric == "l2" else "cos"
        self.index = Index(ndim=self.dim, metric=metric, **self.options)
        self.index.add(np.arange(len(base)), base, threads=2)

    def set(self, **knob: Any) -> None:
        self.index.expansion_search = knob["expansion"]

    def one(self, query: Vectors) -> Any:
        return self.index.search(query, K, threads=1).keys

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.search(queries, K, threads=threads).keys

    def distances(self, queries: Vectors) -> float | None:
        return self.index.search(queries, K, threads=1).computed_distances / len(queries)


class Svs(Peer):
    """Intel's Scalable Vector Search. LVQ and LeanVec are closed source and refuse other makers' processors."""

    package = "scalable-vs"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("window", WIDTHS)]

    def build(self, base: Vectors) -> None:
        import svs

        # Cosine by products of unit vectors, with the alpha that its documentation gives for products.
        l2 = self.metric == "l2"
        how = svs.VamanaBuildParameters(alpha=1.2 if l2 else 0.95, graph_max_degree=64, window_size=200)
        kind = self.options["kind"]
        data: Any = base
        if kind == "float16":
            data = base.astype(np.float16)
        elif kind != "float32":
            path = self.folder / "base.fvecs"
            svs.write_vecs(base, str(path))
            data = svs.VectorDataLoader(str(path), svs.DataType.float32)
            if kind == "leanvec":
                data = svs.LeanVecLoader(data, leanvec_dims=self.dim // 2)
            else:
                data = svs.LVQLoader(data, *{"lvq8": (8, 0), "lvq4x8": (4, 8)}[kind])
        metric = svs.DistanceType.L2 if l2 else svs.DistanceType.MIP
        self.index = svs.Vamana.build(how, data, metric, num_threads=2)

    def set(self, **knob: Any) -> None:
        self.index.search_window_size = knob["window"]

    def use(self, threads: int) -> None:
        self.index.num_threads = threads

    def one(self, query: Vectors) -> Any:
        return self.index.search(query, K)[0][0]

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.search(queries, K)[0]


class Vsag(Peer):
    """HGraph. Its wheel answers one query a call, on one thread."""

    package = "pyvsag"
    threads = batches = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("ef_search", WIDTHS)]

    def build(self, base: Vectors) -> None:
        import pyvsag

        # As in its own benchmarks: 32 links and a list of 400 for SIFT, 96 for text; reordered by float32.
        kind = self.options["kind"]
        how = {
            "base_quantization_type": kind,
            "max_degree": 32 if self.metric == "l2" else 96,
            "ef_construction": 400,
            "build_thread_count": 2,
        }
        if kind != "fp32":
            how |= {"use_reorder": True, "precise_quantization_type": "fp32"}
        if kind == "rabitq":
            how |= {"rabitq_use_fht": True}
        settings = {"dtype": "float32", "metric_type": self.metric, "dim": self.dim, "index_param": how}
        self.index = pyvsag.Index("hgraph", json.dumps(settings))
        self.index.build(vectors=base, ids=np.arange(len(base)), num_elements=len(base), dim=self.dim)

    def set(self, **knob: Any) -> None:
        self.how = json.dumps({"hgraph": knob})

    def one(self, query: Vectors) -> Any:
        return self.index.knn_search(query, K, self.how)[0]


class Pynndescent(Peer):
    package = "pynndescent"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("epsilon", (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4))]

    def warm(self, some: Vectors) -> None:
        # A minute of compiling after its installation, and still a third of that in each process.
        self.build(some)
        for threads in (2, 1):
            self.use(threads)
            self.index.query_indices(some[:10], K)

    def build(self, base: Vectors) -> None:
        from pynndescent import NNDescent

        metric = "euclidean" if self.metric == "l2" else "cosine"
        self.index = NNDescent(base, metric=metric, n_jobs=2, random_state=1)
        self.index.prepare()

    def use(self, threads: int) -> None:
        # Said once, when the index is made, and bad for single queries: so prepared anew for each.
        if (threads > 1) != self.index.parallel_batch_queries:
            self.index.parallel_batch_queries = threads > 1
            del self.index._search_function
            self.index.prepare()

    def set(self, **knob: Any) -> None:
        self.epsilon = knob["epsilon"]

    def one(self, query: Vectors) -> Any:
        return self.index.query_indices(query[None], K, self.epsilon)[0].copy()

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.query_indices(queries, K, self.epsilon)


class Tree(Peer):
    """scipy's k-d tree: what a textbook would take."""

    package = "scipy"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("eps", (30, 10, 5, 3, 2, 1, 0.5, 0))]

    def build(self, base: Vectors) -> None:
        from scipy.spatial import cKDTree

        self.index = cKDTree(base)

    def set(self, **knob: Any) -> None:
        self.eps = knob["eps"]

    def one(self, query: Vectors) -> Any:
        return self.index.query(query, K, eps=self.eps)[1]

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.query(queries, K, eps=self.eps, workers=threads)[1]
