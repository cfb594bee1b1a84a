"""How good a collection's answers are by what its pictures are labelled as: the embedder and the index apart."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vecstore

from .asking import opened
from .errors import ModelError, shown

Floats = NDArray[np.float64]

_RESAMPLED = 1000
# Distances that are held at once: queries are taken in so many parts that these stay within 128 MB.
_HELD = 32 << 20
_CHUNK = 1000


@dataclass(frozen=True)
class Measure:
    """A mean over queries, and the interval that holds 95 of 100 means of resampled queries.

    >>> Measure.of(np.array([1.0, 1.0, 1.0]))
    Measure(value=1.0, low=1.0, high=1.0)
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats) -> Measure:
        """The mean of one value a query, with a bootstrap interval.

        >>> measure = Measure.of(np.array([0.0, 1.0] * 50))
        >>> measure.value, 0.35 < measure.low < 0.45 < 0.55 < measure.high < 0.65
        (0.5, True)
        """
        random = np.random.default_rng(0)
        means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLED)]
        low, high = np.quantile(means, (0.025, 0.975))
        return cls(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured. All of it leaves the picture that is asked for out of its own answers.

    ``embedder`` holds, by exact search: "mAP", and for each k "hit@k" (one right among the first k), "precision@k" (the share of
    the first k that is right) and "recall@k" (the share of all right ones that is among the first k). ``index`` holds
    the same but mAP as the graph finds it, and ``loss`` what it loses, query by query, and "neighbours@k" (the share of
    the true neighbours that it missed); both are None where no graph was built, so that every search is exact, and where some
    records have no label.
    """

    pictures: int
    queries: int
    labels: int
    model: str | None
    embedder: dict[str, Measure]
    index: dict[str, Measure] | None
    loss: dict[str, Measure] | None
    # mAP of each label's queries, and how many there were.
    by_label: dict[str, tuple[float, int]]


def evaluate(
    path: str | os.PathLike[str] | vecstore.Collection,
    *,
    label: str = "folder",
    k: Sequence[int] = (1, 5, 10),
    sample: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Ask for a sample of a collection's own pictures, and count answers that have the same label as right.

    ``label`` names the field of metadata; ``index_folder`` puts a picture's folder there. Pictures whose label no
    other one has are not asked for. Every figure comes with a 95% bootstrap interval over the queries.

    >>> with vecstore.open("labelled.vec", dim=2) as pictures:
    ...     rows = [[1, 0], [1, 0.1], [0, 1], [0.1, 1]]
    ...     _ = pictures.add(["a", "b", "c", "d"], rows, [{"folder": name} for name in "xxyy"])
    ...     evaluate(pictures, k=[1]).embedder["hit@1"].value
    1.0
    """
    ks = sorted({int(number) for number in k})
    if not ks or ks[0] < 1 or sample < 1:
        raise ModelError("k and sample must be numbers from 1 on")
    with opened(path) as pictures:
        if pictures.dtype == "binary":
            raise ModelError(f"{shown(pictures.path)} holds bits, and evaluate compares vectors of numbers")
        asked = _Asked.of(pictures, label, sample, seed)
        precision, exact = _exact(pictures, asked, label, ks)
        values = {"mAP": precision} | _counted(exact, asked.right, ks)
        index, loss = _of_graph(pictures, asked, label, ks, values)
        first = next(
            iter(pictures.scan(where={"model": {"$exists": True}}, batch_size=1, vectors=False)), None
        )
    by_label = {
        name: (float(precision[asked.labels == name].mean()), int((asked.labels == name).sum()))
        for name in sorted(set(asked.labels.tolist()))
    }
    return Evaluation(
        pictures=asked.pictures,
        queries=len(asked.ids),
        labels=asked.label_count,
        model=None if first is None else str(first.metadata["model"]),
        embedder={name: Measure.of(value) for name, value in values.items()},
        index=None if index is None else {name: Measure.of(value) for name, value in index.items()},
        loss=None if loss is None else {name: Measure.of(value) for name, value in loss.items()},
        by_label=by_label,
    )


@dataclass(frozen=True)
class _Asked:
    """The pictures that are asked for, their labels, and how many other pictures have each one's label."""

    ids: list[Any]
    labels: NDArray[Any]
    right: NDArray[np.int64]
    vectors: NDArray[np.float32]
    pictures: int
    label_count: int

    @classmethod
    def of(cls, pictures: vecstore.Collection, label: str, sample: int, seed: int) -> _Asked:
        """A sample that one pass draws, whatever the collection's size."""
        random = np.random.default_rng(seed)
        counts: Counter[str] = Counter()
        kept: list[tuple[Any, str]] = []
        for seen, record in enumerate(pictures.scan(where={label: {"$exists": True}}, vectors=False), 1):
            name = str(record.metadata[label])
            counts[name] += 1
            if len(kept) < sample:
                kept.append((record.id, name))
            elif (other := int(random.integers(0, seen))) < sample:
                kept[other] = record.id, name
        kept = [(id_, name) for id_, name in kept if counts[name] > 1]
        if not kept:
            raise ModelError(
                f"{shown(pictures.path)} has no two pictures with the same label: evaluate needs pictures in folders "
                f"named by what they show, or label= with the field of metadata that says it (it was {label!r})"
            )
        if len(counts) == 1:
            raise ModelError(
                f"every labelled picture of {shown(pictures.path)} has the label {shown(kept[0][1])!r}, so that no answer could "
                f"be wrong: put kinds into folders of their own, or name another field (label=, --label; it was {label!r})"
            )
        ids = [id_ for id_, _ in kept]
        records = pictures.get(ids)
        vectors = np.stack(
            [np.asarray(record.vector, np.float32) for record in records if record is not None]
        )
        labels = np.array([name for _, name in kept])
        right = np.array([counts[name] - 1 for _, name in kept])
        return cls(ids, labels, right, vectors, counts.total(), len(counts))


def _exact(
    pictures: vecstore.Collection, asked: _Asked, label: str, ks: list[int]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Average precision over the whole ranking, and which of the first answers are right, by comparing everything."""
    most = min(ks[-1], max(1, asked.pictures - 1))
    precision = np.empty(len(asked.ids))
    first = np.zeros((len(asked.ids), ks[-1]), bool)
    step = max(1, _HELD // asked.pictures)
    for start in range(0, len(asked.ids), step):
        part = slice(start, start + step)
        distances, right = _compared(pictures, asked, label, part)
        order = np.argsort(distances, axis=1, kind="stable")[:, :-1]
        ranked = np.take_along_axis(right, order, axis=1)
        found = np.cumsum(ranked, axis=1)
        precision[part] = (found / np.arange(1, ranked.shape[1] + 1) * ranked).sum(axis=1) / asked.right[part]
        first[part, :most] = ranked[:, :most]
    return precision, first


def _compared(
    pictures: vecstore.Collection, asked: _Asked, label: str, part: slice
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Distances of all that is labelled from some queries, each query's own infinite, and which have its label."""
    queries, labels, own = asked.vectors[part], asked.labels[part], asked.ids[part]
    place_of = {id_: place for place, id_ in enumerate(own)}
    distances, right = [], []
    for ids, names, rows in _chunks(pictures, label):
        apart = _distances(pictures.metric, queries, rows)
        for column, id_ in enumerate(ids):
            if id_ in place_of:
                apart[place_of[id_], column] = np.inf
        distances.append(apart)
        right.append(labels[:, None] == names[None, :])
    return np.concatenate(distances, axis=1), np.concatenate(right, axis=1)


def _chunks(
    pictures: vecstore.Collection, label: str
) -> Iterator[tuple[list[Any], NDArray[Any], NDArray[np.float32]]]:
    records: list[vecstore.Record] = []
    for record in pictures.scan(where={label: {"$exists": True}}, batch_size=_CHUNK):
        records.append(record)
        if len(records) == _CHUNK:
            yield _columns(records, label)
            records = []
    if records:
        yield _columns(records, label)


def _columns(
    records: list[vecstore.Record], label: str
) -> tuple[list[Any], NDArray[Any], NDArray[np.float32]]:
    names = np.array([str(record.metadata[label]) for record in records])
    rows = np.stack([np.asarray(record.vector, np.float32) for record in records])
    return [record.id for record in records], names, rows


def _distances(metric: str, queries: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What orders answers as the metric does."""
    nearness: NDArray[np.float32] = queries @ rows.T
    lengths = np.einsum("ij,ij->i", rows, rows)
    if metric == "cosine":
        nearness /= np.sqrt(np.maximum(lengths, np.finfo(np.float32).tiny))
    elif metric == "l2":
        nearness -= lengths / 2
    return -nearness


def _counted(right: NDArray[np.bool_], of_all: NDArray[np.int64], ks: list[int]) -> dict[str, Floats]:
    """hit, precision and recall at each k, a value a query."""
    found: dict[str, Floats] = {}
    for k in ks:
        count = right[:, :k].sum(axis=1)
        found |= {
            f"hit@{k}": (count > 0).astype(float),
            f"precision@{k}": count / k,
            f"recall@{k}": count / of_all,
        }
    return found


def _of_graph(
    pictures: vecstore.Collection, asked: _Asked, label: str, ks: list[int], exact: dict[str, Floats]
) -> tuple[dict[str, Floats] | None, dict[str, Floats] | None]:
    """The same by the collection's own search, and what that loses against exact search."""
    if not pictures.stats()["nodes"]:
        return None, None
    where = {label: {"$exists": True}}
    answers = pictures.search(asked.vectors, ks[-1] + 1)
    # Records without a label are no answers here, and a filter would have everything compared.
    if any(label not in hit.metadata for hits in answers for hit in hits):
        return None, None
    truth = pictures.search(asked.vectors, ks[-1] + 1, where=where, exact=True)
    right = np.zeros((len(asked.ids), ks[-1]), bool)
    missed = {k: np.zeros(len(asked.ids)) for k in ks}
    for place, (id_, name) in enumerate(zip(asked.ids, asked.labels.tolist(), strict=True)):
        hits = [hit for hit in answers[place] if hit.id != id_][: ks[-1]]
        right[place, : len(hits)] = [str(hit.metadata[label]) == name for hit in hits]
        nearest = [hit for hit in truth[place] if hit.id != id_]
        for k in ks:
            farthest = nearest[:k][-1].distance + 1e-6
            missed[k][place] = 1 - sum(hit.distance <= farthest for hit in hits[:k]) / len(nearest[:k])
    index = _counted(right, asked.right, ks)
    loss = {f"neighbours@{k}": missed[k] for k in ks} | {name: exact[name] - index[name] for name in index}
    return index, loss
