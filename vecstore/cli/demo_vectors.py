"""The demo with vectors: a collection of generated ones, what it takes, and whether the answers are right."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore
from vecstore.cli.output import (
    Clock,
    CommandError,
    duration,
    emit,
    megabytes,
    pairs,
    plural,
)

_RECORDS = 100_000
_DIM = 128
_SEED = 7
_BATCH = 10_000
_QUERIES = 256
_CHECKED = 32
_K = 10
_WHERE = {"year": {"$gte": 2020}, "tags": {"$contains": "beach"}}
_TAGS = ("beach", "city", "forest", "snow", "night")


def demo(options: argparse.Namespace) -> int:
    """Build, search, check, and say what was measured."""
    records, dim = options.records or _RECORDS, options.dim or _DIM
    vectors, metadata, queries = _generated(records, dim)
    with _place(options.file) as path:
        clock = Clock()
        with vecstore.open(path, dim=dim, metric="cosine", mode="x") as made:
            parts = [slice(start, start + _BATCH) for start in range(0, records, _BATCH)]
            made.extend(
                ([f"img-{row}" for row in range(records)[part]], vectors[part], metadata[part])
                for part in parts
            )
        build = clock.read()
        with vecstore.open(path, mode="r") as collection:
            found = _measured(collection, vectors, metadata, queries)
        size = os.path.getsize(path)
    document = {
        "records": records,
        "dim": dim,
        "metric": "cosine",
        "file": options.file,
        "build_seconds": build,
        "records_per_second": records / build,
        "file_bytes": size,
        "file_bytes_over_vector_bytes": size / vectors.nbytes,
        **{key: value for key, value in found.items() if key != "answer"},
    }
    emit(options, document, _lines(document, found["answer"]))
    if not document["answers_match_numpy"]:
        raise CommandError("an answer differs from NumPy's: please report this, with the output above")
    return 0


@contextlib.contextmanager
def _place(file: str | None) -> Iterator[str]:
    if file is not None:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="vecstore-demo-") as folder:
        yield os.path.join(folder, "demo.vec")


def _generated(
    records: int, dim: int
) -> tuple[NDArray[np.float32], list[dict[str, Any]], NDArray[np.float32]]:
    """Clusters of unequal size, as embeddings of photos form them, and queries from the same clusters."""
    random = np.random.default_rng(_SEED)
    centres = random.standard_normal((max(1, min(1000, records // 50)), dim), dtype=np.float32)
    weights = random.gamma(1.0, size=len(centres)) + 0.05
    member = random.choice(len(centres), size=records + _QUERIES, p=weights / weights.sum())
    points = random.standard_normal((records + _QUERIES, dim), dtype=np.float32)
    points *= np.float32(0.5)
    for start in range(0, len(points), _BATCH):
        points[start : start + _BATCH] += centres[member[start : start + _BATCH]]
    years = random.integers(2000, 2026, records).tolist()
    tags = random.integers(0, len(_TAGS), (records, 2)).tolist()
    metadata = [
        {"year": year, "tags": [_TAGS[one], _TAGS[other]]}
        for year, (one, other) in zip(years, tags, strict=True)
    ]
    return points[:records], metadata, points[records:]


def _measured(
    collection: vecstore.Collection,
    vectors: NDArray[np.float32],
    metadata: list[dict[str, Any]],
    queries: NDArray[np.float32],
) -> dict[str, Any]:
    clock = Clock()
    answer = collection.search(queries[0], _K)
    first = clock.read()
    single = [_timed(clock, lambda row=row: collection.search(row, _K)) for row in queries[:_CHECKED]]
    filtered_first = _timed(clock, lambda: collection.search(queries[0], _K, where=_WHERE))[0]
    filtered = [
        _timed(clock, lambda row=row: collection.search(row, _K, where=_WHERE)) for row in queries[:_CHECKED]
    ]
    collection.search(queries[:8], _K)
    seconds, batch = _timed(clock, lambda: collection.search(queries, _K))
    chosen = np.array([item["year"] >= 2020 and "beach" in item["tags"] for item in metadata])
    truth, truth_filtered = _truth(vectors, queries[:_CHECKED], chosen)
    right = all(map(_same, collection.search(queries[:_CHECKED], _K, exact=True), truth)) and all(
        map(_same, (hits for _, hits in filtered), truth_filtered)
    )
    found = [_share(hits, true) for hits, true in zip(batch[:_CHECKED], truth, strict=True)]
    return {
        "k": _K,
        "first_query_seconds": first,
        "query_seconds": float(np.median([passed for passed, _ in single])),
        "batch_queries": len(queries),
        "batch_queries_per_second": len(queries) / seconds,
        "where": _WHERE,
        "where_matches": int(chosen.sum()),
        "first_filtered_query_seconds": filtered_first,
        "filtered_query_seconds": float(np.median([passed for passed, _ in filtered])),
        "graph_nodes": collection.stats()["nodes"],
        "recall": float(np.mean(found)),
        "answers_checked": 2 * len(truth),
        "answers_match_numpy": right,
        "answer": answer,
    }


def _timed(clock: Clock, call: Any) -> tuple[float, Any]:
    clock.read()
    found = call()
    return clock.read(), found


def _truth(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """The k least cosine distances of each query, of all records and of the chosen ones, by NumPy in float64."""
    exact = queries.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    distances = np.empty((len(queries), len(vectors)))
    for start in range(0, len(vectors), _BATCH):
        part = vectors[start : start + _BATCH].astype(np.float64)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        distances[:, start : start + _BATCH] = 1 - exact @ part.T
    return [np.sort(row)[:_K] for row in distances], [np.sort(row[chosen])[:_K] for row in distances]


def _same(hits: vecstore.Hits, truth: NDArray[np.float64]) -> bool:
    return len(hits) == len(truth) and bool(np.allclose(hits.distances, truth, rtol=0, atol=1e-6))


def _share(hits: vecstore.Hits, truth: NDArray[np.float64]) -> float:
    """Of the true neighbours, how many are among the hits: those that are as near as the farthest of them."""
    return float(np.mean(hits.distances <= truth[-1] + 1e-6)) if len(truth) else 1.0


def _lines(found: dict[str, Any], answer: vecstore.Hits) -> Iterator[str]:
    yield f"{plural(found['records'])} of {found['dim']} numbers, metric cosine" + (
        f", kept in {found['file']}" if found["file"] else ""
    )
    yield ""
    yield "The nearest to the first query:"
    yield from (f"  {hit.distance:.4f}  {hit.id:<12} {hit.metadata}" for hit in answer[:3])
    yield ""
    yield from pairs(
        [
            ("written and linked, each commit durable", f"{found['records_per_second']:,.0f} records/s"),
            ("first query, kernels loaded or compiled", duration(found["first_query_seconds"])),
            (f"a query, k={found['k']} (median)", duration(found["query_seconds"])),
            (
                f"with a filter that {found['where_matches']:,} match",
                duration(found["filtered_query_seconds"]),
            ),
            (f"a batch of {found['batch_queries']}", f"{found['batch_queries_per_second']:,.0f} queries/s"),
            (
                "searched by",
                f"a graph, of the true neighbours it found {found['recall']:.1%}"
                if found["graph_nodes"]
                else "scanning all of it, which is exact",
            ),
            (
                "file",
                f"{megabytes(found['file_bytes'])}, {found['file_bytes_over_vector_bytes']:.2f} × the raw vectors",
            ),
            (
                f"{found['answers_checked']} exact answers against NumPy",
                "all equal" if found["answers_match_numpy"] else "NOT EQUAL",
            ),
        ]
    )
