"""The peers of bench/filters.py that keep records in files and evaluate filters themselves, and vecstore itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import stores
from contenders import WIDTHS, K, Vectors, ladder
from filter_cells import Narrow
from filter_peers import Filtering

_BATCH = 1_000


def mongo(narrow: Narrow) -> dict[str, Any]:
    """As MongoDB writes it; so do vecstore and Chroma."""
    asked: dict[str, Any] = {}
    if narrow.limit is not None:
        asked["r"] = {"$lt": narrow.limit}
    if narrow.clusters is not None:
        asked["cluster"] = {"$in": list(narrow.clusters)}
    return asked


def sql(narrow: Narrow) -> str:
    asked = [] if narrow.limit is None else [f"r < {narrow.limit!r}"]
    if narrow.clusters is not None:
        asked.append(f"cluster in ({', '.join(map(str, narrow.clusters))})")
    return " and ".join(asked)


class Vecstore(Filtering):
    package = "vecstore-db"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.default = {}
        targets = ladder("recall", (0.97, 0.98, 0.99, 0.995, 0.999))
        self.ladders = [[*ladder("recall", (0.8, 0.9)), {}, *targets]]
        self.knob: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        return self.folder / "filters.vec"

    def build(self, base: Vectors) -> None:
        import vecstore

        with vecstore.open(self.path, dim=self.dim, metric=self.metric, threads=2) as store:
            store.extend(self._batches(base))

    def _batches(self, base: Vectors) -> Iterator[Any]:
        for first in range(0, len(base), 20 * _BATCH):
            rows = base[first : first + 20 * _BATCH]
            ids = np.arange(first, first + len(rows))
            both = zip(self.r[ids].tolist(), self.cluster[ids].tolist(), strict=True)
            yield ids, rows, [{"r": r, "cluster": cluster} for r, cluster in both]

    def open(self) -> None:
        import vecstore

        self.store = vecstore.open(self.path, mode="r")

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def ask(self, narrow: Narrow) -> Any:
        return mongo(narrow)

    def one(self, query: Vectors, asked: Any = None) -> Any:
        return self.store.search(query, k=K, where=asked, threads=1, **self.knob).ids

    def close(self) -> None:
        self.store.close()


class Lancedb(Filtering):
    """A B-tree over r and a bitmap over clusters, of which there are few; the filter comes before the search.

    A search that a narrow filter leaves with fewer than k goes on to further partitions.
    """

    package = "lancedb"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kind = options["kind"]
        if self.kind == "ivfpq":
            probes = [2**power for power in range(20) if 2**power < self.rows**0.5] + [int(self.rows**0.5)]
            self.ladders = [
                ladder("minimum_nprobes", probes, maximum_nprobes=0, refine_factor=factor)
                for factor in (10, 30)
            ]
        else:
            widths = [*WIDTHS, 1_600, 3_200]
            self.ladders = [
                ladder("ef", [width for width in widths if width >= factor * K], refine_factor=factor)
                for factor in (1, 3)
            ]

    def build(self, base: Vectors) -> None:
        import lancedb
        import pyarrow as pa
        from lancedb.index import Bitmap, BTree, HnswSq, IvfPq

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base.reshape(-1)), self.dim)
        rows = {"id": pa.array(range(len(base))), "vector": vectors, "r": self.r, "cluster": self.cluster}
        table = lancedb.connect(self.folder).create_table("filters", pa.table(rows))
        if self.kind == "ivfpq":
            parts = int(len(base) ** 0.5)
            index: Any = IvfPq(distance_type=self.metric, num_partitions=parts, num_sub_vectors=self.dim // 8)
        else:
            index = HnswSq(distance_type=self.metric, num_partitions=1, m=20, ef_construction=300)
        table.create_index("vector", config=index)
        table.create_index("r", config=BTree())
        table.create_index("cluster", config=Bitmap())

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).open_table("filters")

    def set(self, **knob: Any) -> None:
        self.knob = knob

    def ask(self, narrow: Narrow) -> Any:
        return sql(narrow)

    def one(self, query: Vectors, asked: Any = None) -> Any:
        search = self.table.search(query).distance_type(self.metric).limit(K).select(["id", "_distance"])
        for name, value in self.knob.items():
            search = getattr(search, name)(value)
        return (search if asked is None else search.where(asked, prefilter=True)).to_arrow()

    def ids(self, answer: Any) -> Any:
        return answer["id"].to_numpy()


class Chroma(Filtering):
    """ef is a setting of the collection, and holds from when the collection is opened next."""

    package = "chromadb"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("ef_search", (10, 40, 160, 640, 2_560, 10_240))]
        self.client: Any = None

    def _client(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(path=str(self.folder / "chroma"), settings=settings)

    def build(self, base: Vectors) -> None:
        space = {"space": self.metric, "ef_construction": 200, "max_neighbors": 16, "num_threads": 2}
        client = self._client()
        made = client.create_collection("filters", configuration={"hnsw": space}, embedding_function=None)
        size = client.get_max_batch_size()
        for first in range(0, len(base), size):
            rows = range(first, min(first + size, len(base)))
            fields = [{"r": float(self.r[row]), "cluster": int(self.cluster[row])} for row in rows]
            made.add(
                ids=[str(row) for row in rows], embeddings=base[rows.start : rows.stop], metadatas=fields
            )
        self._leave(client)

    @staticmethod
    def _leave(client: Any) -> None:
        from chromadb.api.shared_system_client import SharedSystemClient

        client.close()
        SharedSystemClient.clear_system_cache()

    def set(self, **knob: Any) -> None:
        if self.client is not None:
            if self.knob == knob:
                return
            self._leave(self.client)
        client = self._client()
        client.get_collection("filters", embedding_function=None).modify(configuration={"hnsw": knob})
        self._leave(client)
        self.client, self.knob = self._client(), knob
        self.table = self.client.get_collection("filters", embedding_function=None)

    def ask(self, narrow: Narrow) -> Any:
        asked = [{name: value} for name, value in mongo(narrow).items()]
        return asked[0] if len(asked) == 1 else {"$and": asked}

    def one(self, query: Vectors, asked: Any = None) -> Any:
        return self.table.query(query_embeddings=[query], n_results=K, where=asked, include=[])

    def ids(self, answer: Any) -> Any:
        return [int(id_) for id_ in answer["ids"][0]]

    def close(self) -> None:
        if self.client is not None:
            self._leave(self.client)


class Zvec(stores.Zvec, Filtering):
    """Inverted indexes on both fields, the one on r with ranges optimized."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        [name] = self.ladders[0][0]
        self.ladders = [ladder(name, (*WIDTHS, 1_600))]

    def build(self, base: Vectors) -> None:
        vectors, zvec = self.vectors(), self.zvec
        ranges, equals = zvec.InvertIndexParam(enable_range_optimization=True), zvec.InvertIndexParam()
        fields = [
            zvec.FieldSchema("r", zvec.DataType.DOUBLE, index_param=ranges),
            zvec.FieldSchema("cluster", zvec.DataType.INT64, index_param=equals),
        ]
        schema = zvec.CollectionSchema(name="filters", fields=fields, vectors=[vectors])
        self.fill(zvec.create_and_open(str(self.folder / "zvec"), schema), self._documents(base))

    def _documents(self, base: Vectors) -> Iterator[Any]:
        for row, vector in enumerate(base):
            fields = {"r": float(self.r[row]), "cluster": int(self.cluster[row])}
            yield self.zvec.Doc(id=str(row), vectors={"v": vector}, fields=fields)

    def open(self) -> None:
        self.vectors()
        self.read()

    def ask(self, narrow: Narrow) -> Any:
        return sql(narrow)

    def one(self, query: Vectors, asked: Any = None) -> Any:
        what = self.zvec.Query("v", vector=query, param=self.how)
        return self.store.query_internal_ids(what, topk=K, filter=asked)


class Qdrant(Filtering):
    """Qdrant Edge: payload indexes first, so that the graph gets links for them; ACORN as a second way to walk."""

    package = "qdrant-edge-py"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [ladder("hnsw_ef", (*WIDTHS, 1_600), acorn=acorn) for acorn in (False, True)]
        self.plain = self.ladders[:1]

    def _settings(self) -> Any:
        import qdrant_edge as qdrant

        self.qdrant = qdrant
        distance = qdrant.Distance.Euclid if self.metric == "l2" else qdrant.Distance.Cosine
        return qdrant.EdgeConfig(
            vectors={"v": qdrant.EdgeVectorParams(size=self.dim, distance=distance)},
            hnsw_config=qdrant.HnswIndexConfig(
                m=16, ef_construct=200, full_scan_threshold=10_000, max_indexing_threads=2
            ),
            optimizers=qdrant.EdgeOptimizersConfig(
                default_segment_number=1, indexing_threshold=1_000, max_segment_size=1 << 30
            ),
            max_search_threads=1,
        )

    @property
    def path(self) -> str:
        return str(self.folder / "qdrant")

    def build(self, base: Vectors) -> None:
        settings, operation = self._settings(), self.qdrant.UpdateOperation
        shard = self.qdrant.EdgeShard.create(self.path, settings)
        shard.update(operation.create_field_index("r", self.qdrant.PayloadSchemaType.Float))
        shard.update(operation.create_field_index("cluster", self.qdrant.PayloadSchemaType.Integer))
        for first in range(0, len(base), _BATCH):
            rows = enumerate(base[first : first + _BATCH].tolist(), first)
            shard.update(
                operation.upsert_points(
                    [self.qdrant.Point(row, {"v": vector}, self._payload(row)) for row, vector in rows]
                )
            )
        shard.optimize()
        shard.flush()
        shard.close()

    def _payload(self, row: int) -> dict[str, Any]:
        return {"r": float(self.r[row]), "cluster": int(self.cluster[row])}

    def open(self) -> None:
        self.shard = None
        settings = self._settings()
        self.shard = self.qdrant.EdgeShard.load(self.path, settings)

    def set(self, **knob: Any) -> None:
        acorn = self.qdrant.AcornSearchParams(enable=True) if knob["acorn"] else None
        self.how = self.qdrant.SearchParams(hnsw_ef=knob["hnsw_ef"], acorn=acorn)

    def ask(self, narrow: Narrow) -> Any:
        qdrant, must = self.qdrant, []
        if narrow.limit is not None:
            must.append(qdrant.FieldCondition("r", range=qdrant.RangeFloat(lt=narrow.limit)))
        if narrow.clusters is not None:
            must.append(qdrant.FieldCondition("cluster", match=qdrant.MatchAny(list(narrow.clusters))))
        return qdrant.Filter(must=must)

    def one(self, query: Vectors, asked: Any = None) -> Any:
        nearest = self.qdrant.Query.Nearest(query.tolist(), using="v")
        return self.shard.query(
            self.qdrant.QueryRequest(limit=K, query=nearest, filter=asked, params=self.how)
        )

    def ids(self, answer: Any) -> Any:
        return [point.id for point in answer]

    def close(self) -> None:
        self.shard.close()


class SqliteVec(Filtering):
    """Exact: metadata columns, which are looked at while vectors are compared."""

    package = "sqlite-vec"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ladders = [[{}]]

    def open(self) -> None:
        import sqlite_vec

        try:  # many Pythons come with an SQLite that takes no extensions
            import pysqlite3 as sqlite3
        except ImportError:
            import sqlite3
        self.db = sqlite3.connect(self.folder / "filters.db")
        self.db.enable_load_extension(True)
        sqlite_vec.load(self.db)

    def build(self, base: Vectors) -> None:
        self.open()
        vectors = f"v float[{self.dim}] distance_metric={'l2' if self.metric == 'l2' else 'cosine'}"
        with self.db:
            self.db.execute(f"create virtual table t using vec0({vectors}, r float, cluster integer)")
            rows = zip(range(len(base)), base, self.r.tolist(), self.cluster.tolist(), strict=True)
            self.db.executemany(
                "insert into t(rowid, v, r, cluster) values (?, ?, ?, ?)",
                ((row, vector.tobytes(), r, cluster) for row, vector, r, cluster in rows),
            )
        self.db.close()

    def ask(self, narrow: Narrow) -> Any:
        return f"select rowid from t where v match ? and k = {K} and {sql(narrow)}"

    def one(self, query: Vectors, asked: Any = None) -> Any:
        text = asked or f"select rowid from t where v match ? and k = {K}"
        return self.db.execute(text, (query.tobytes(),)).fetchall()

    def ids(self, answer: Any) -> Any:
        return [row for (row,) in answer]

    def close(self) -> None:
        self.db.close()
