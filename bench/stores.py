"""The peers of bench/graph.py that keep their index in a file, and vecstore itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from contenders import WIDTHS, K, Peer, Vectors, ladder


class Vecstore(Peer):
    package = "vecstore-db"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        lists = (10, 12, 16, 20, 24, 32, 40, 50, 64, 80, 100, 130, 160, 200)
        targets = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
        self.ladders = [ladder("recall", targets), ladder("search_list", lists)]

    def warm(self, some: Vectors) -> None:
        import vecstore

        # Kernels are compiled once after the installation.
        settings = {"dim": self.dim, "metric": self.metric, "dtype": "float32", "threads": 2}
        with vecstore.open(self.folder / "warm.vec", **settings) as store:
            store.add(np.arange(len(some)), some)
            store.search(some[0], k=K), store.search(some[:2], k=K)

    def build(self, base: Vectors) -> None:
        import vecstore

        self.store = vecstore.open(
            self.folder / "graph.vec", dim=self.dim, metric=self.metric, dtype="float32", threads=2
        )
        self.store.add(np.arange(len(base)), base)

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def one(self, query: Vectors) -> Any:
        return self.store.search(query, k=K, threads=1, **self.knob).ids

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.store.search(queries, k=K, threads=threads, **self.knob).ids

    def distances(self, queries: Vectors) -> float | None:
        try:
            said = [self.store.explain(query, k=K, **self.knob) for query in queries[:100]]
        except TypeError:  # explain does not take the knob
            return None
        counts = [one["distances"] for one in said if "distances" in one]
        return float(np.mean(counts)) if counts else None

    def close(self) -> None:
        self.store.close()


class Diskann(Peer):
    """Microsoft's DiskANN, R = 64 and L = 100 as in its examples."""

    package = "diskannpy"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kind = options["kind"]
        self.ladders = [ladder("complexity", WIDTHS)]

    def build(self, base: Vectors) -> None:
        import diskannpy

        where, shape = str(self.folder), {"complexity": 100, "graph_degree": 64}
        self.index: Any = None
        if self.kind == "memory":
            diskannpy.build_memory_index(base, self.metric, where, num_threads=2, **shape)
            self.use(2)
        elif self.kind == "dynamic":
            self.index = diskannpy.DynamicMemoryIndex(
                self.metric, np.float32, self.dim, len(base) + 1, num_threads=2,
                initial_search_complexity=max(WIDTHS), search_threads=2, **shape,
            )  # fmt: skip
            # Its ids begin at 1.
            self.index.batch_insert(base, np.arange(1, len(base) + 1, dtype=np.uint32), 2)
        else:
            # On disk it knows no cosine: l2 between unit vectors is the same order. Codes in memory of a sixteenth
            # of the vectors' size, 32 bytes for SIFT, and a cache of a tenth of the nodes.
            diskannpy.build_disk_index(
                base, "l2", where, search_memory_maximum=base.nbytes / 16 / 2**30, build_memory_maximum=8,
                num_threads=2, **shape,
            )  # fmt: skip
            self.index = diskannpy.StaticDiskIndex(where, 2, len(base) // 10)

    def use(self, threads: int) -> None:
        # The index in memory takes its threads when it is opened, and goes by them in every batch.
        if self.kind == "memory":
            import diskannpy

            self.index = None
            self.index = diskannpy.StaticMemoryIndex(str(self.folder), threads, max(WIDTHS))

    def set(self, **knob: Any) -> None:
        self.complexity = knob["complexity"]

    def one(self, query: Vectors) -> Any:
        return self.index.search(query, K, self.complexity).identifiers

    def many(self, queries: Vectors, threads: int) -> Any:
        return self.index.batch_search(queries, K, self.complexity, threads).identifiers

    def ids(self, answer: Any) -> Any:
        found = np.asarray(answer).astype(np.int64)
        return found - 1 if self.kind == "dynamic" else found


class Zvec(Peer):
    """Alibaba's embedded database: rows inserted as documents, `optimize`, then opened again to be read.

    Its fast call for ids alone is timed; it answers one query a call.
    """

    package = "zvec"
    threads = batches = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kind = options["kind"]
        self.quantized = self.kind.endswith("8")
        name = {"diskann": "list_size", "vamana": "ef_search"}.get(self.kind.removesuffix("-8"), "ef")
        self.ladders = [ladder(name, WIDTHS)]

    def build(self, base: Vectors) -> None:
        vectors = self.vectors()
        path = str(self.folder / "zvec")
        store = self.zvec.create_and_open(path, self.zvec.CollectionSchema(name="graph", vectors=[vectors]))
        self.fill(store, (self.zvec.Doc(id=str(row), vectors={"v": vector}) for row, vector in enumerate(base)))
        self.read()

    def vectors(self) -> Any:
        """The field of vectors, with its index."""
        import zvec
        from zvec import DataType, MetricType, QuantizeType

        self.zvec = zvec
        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=2, optimize_threads=2)
        how: dict[str, Any] = {"metric_type": MetricType.L2 if self.metric == "l2" else MetricType.COSINE}
        if self.kind != "diskann":
            how |= {"use_contiguous_memory": True}
        if self.quantized:
            # One scale for all numbers is its fastest, and for l2 alone.
            kind = QuantizeType.UNIFORM_UINT8 if self.metric == "l2" else QuantizeType.INT8
            how |= {"quantize_type": kind, "use_flat_contiguous_memory": True}
        index = {
            "hnsw": lambda: zvec.HnswIndexParam(m=32, ef_construction=200, **how),
            "vamana": lambda: zvec.VamanaIndexParam(max_degree=64, search_list_size=100, **how),
            "diskann": lambda: zvec.DiskAnnIndexParam(max_degree=64, list_size=100, **how),
        }[self.kind.removesuffix("-8")]()
        return zvec.VectorSchema("v", DataType.VECTOR_FP32, self.dim, index_param=index)

    def fill(self, store: Any, rows: Iterator[Any]) -> None:
        while some := list(islice(rows, 1000)):
            for status in store.insert(some):
                assert status.ok(), status
        store.optimize(self.zvec.OptimizeOption(concurrency=2))
        store.close()

    def read(self) -> None:
        """Open it to be read, as its fast call wants it."""
        self.store = self.zvec.open(str(self.folder / "zvec"), self.zvec.CollectionOption(read_only=True))

    def set(self, **knob: Any) -> None:
        if self.kind == "diskann":
            self.how: Any = self.zvec.DiskAnnQueryParam(**knob)
            return
        asked = self.zvec.VamanaQueryParam if "vamana" in self.kind else self.zvec.HnswQueryParam
        self.how = asked(is_using_refiner=self.quantized, scale_factor=2.0 if self.quantized else 0.0, **knob)

    def one(self, query: Vectors) -> Any:
        return self.store.query_internal_ids(self.zvec.Query("v", vector=query, param=self.how), topk=K)

    def ids(self, answer: Any) -> Any:
        return [-1 if name is None else int(name) for name in self.store.resolve_internal_ids(answer)]

    def close(self) -> None:
        self.store.close()


class Lancedb(Peer):
    package = "lancedb"
    threads = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kind = options["kind"]
        if self.kind == "ivfpq":
            probes = (1, 2, 5, 10, 20, 40, 80, 160)
            self.ladders = [ladder("nprobes", probes, refine_factor=factor) for factor in (5, 20, 50)]
        else:
            # A list shorter than the candidates to refine is refused.
            self.ladders = [
                ladder("ef", [width for width in WIDTHS if width >= factor * K], refine_factor=factor)
                for factor in (1, 3)
            ]

    def build(self, base: Vectors) -> None:
        import lancedb
        import pyarrow as pa
        from lancedb.index import HnswSq, IvfPq

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.reshape(-1)), self.dim)
        rows = pa.table({"id": pa.array(np.arange(len(base))), "vector": vectors})
        self.table = lancedb.connect(self.folder).create_table("graph", rows)
        if self.kind == "ivfpq":
            parts = int(len(base) ** 0.5)
            index: Any = IvfPq(distance_type=self.metric, num_partitions=parts, num_sub_vectors=self.dim // 8)
        else:
            index = HnswSq(distance_type=self.metric, num_partitions=1, m=20, ef_construction=300)
        self.table.create_index("vector", config=index)

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def _ask(self, query: Vectors) -> Any:
        asked = self.table.search(query).distance_type(self.metric).limit(K).select(["id", "_distance"])
        for name, value in self.knob.items():
            asked = getattr(asked, name)(value)
        return asked.to_arrow()

    def one(self, query: Vectors) -> Any:
        return self._ask(query)

    def many(self, queries: Vectors, threads: int) -> Any:
        return self._ask(queries)

    def ids(self, answer: Any) -> Any:
        found = answer["id"].to_numpy()
        if "query_index" not in answer.column_names:
            return found
        asked = answer["query_index"].to_numpy()
        ids = np.full((asked.max() + 1, K), -1)
        for query in range(len(ids)):
            mine = found[asked == query][:K]
            ids[query, : len(mine)] = mine
        return ids


class Hannoy(Peer):
    """Meilisearch's graph in LMDB, with its default settings."""

    package = "hannoy"
    threads = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("ef_search", WIDTHS)]

    def build(self, base: Vectors) -> None:
        import hannoy

        metric = hannoy.Metric.EUCLIDEAN if self.metric == "l2" else hannoy.Metric.COSINE
        place = Path(self.folder, "hannoy")
        place.mkdir()
        self.store = hannoy.Database(place, metric, env_size=32 * 2**30)
        with self.store.writer(self.dim) as writer:
            writer.add_items(list(range(len(base))), base)
        self.reader = self.store.reader()

    def set(self, **knob: Any) -> None:
        self.width = knob["ef_search"]

    def _ask(self, queries: Vectors) -> Any:
        shape = (*queries.shape[:-1], K)
        found = np.empty(shape, np.uint32), np.empty(shape, np.float32)
        self.reader.by_array(queries, K, self.width, out=found)
        return found[0]

    def one(self, query: Vectors) -> Any:
        return self._ask(query)

    def many(self, queries: Vectors, threads: int) -> Any:
        return self._ask(queries)

    def ids(self, answer: Any) -> Any:
        found = answer.astype(np.int64)
        return np.where(found == np.iinfo(np.uint32).max, -1, found)
