"""Measures against their definitions, the embedder and the index apart."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pictures need Pillow")

from PIL import Image

import vecstore
from vecstore import cli, config, embed
from vecstore.embed.chart import chart


def average_precision(distances: np.ndarray, right: np.ndarray) -> float:
    order = np.argsort(distances)
    found, total = 0, 0.0
    for rank, place in enumerate(order, 1):
        if right[place]:
            found += 1
            total += found / rank
    return total / right.sum()


def labelled(path: Path, metric: str = "cosine", count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, count)
    rows = (random.normal(size=(4, 24))[labels] + random.normal(size=(count, 24)) * 2).astype(np.float32)
    with vecstore.open(path, dim=24, metric=metric) as c:
        c.add([f"{n}.jpg" for n in range(count)], rows, [{"folder": f"kind {label}"} for label in labels.tolist()])
    return rows, labels


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_figures_are_those_of_the_definitions(tmp_path: Path, metric: str, brute: type) -> None:
    rows, labels = labelled(tmp_path / "a.vec", metric)
    found = embed.evaluate(tmp_path / "a.vec", k=(1, 7), sample=500)
    precision, hit, share, of_all = [], [], [], []
    for place in range(len(rows)):
        distances = brute.distances(metric, rows, rows[place])
        others = np.arange(len(rows)) != place
        right = (labels == labels[place])[others]
        precision.append(average_precision(distances[others], right))
        first = right[np.argsort(distances[others])[:7]]
        hit.append(first.any())
        share.append(first.mean())
        of_all.append(first.sum() / right.sum())
    assert found.queries == found.pictures == 120
    assert found.labels == 4
    for name, values in {"mAP": precision, "hit@7": hit, "precision@7": share, "recall@7": of_all}.items():
        measure = found.embedder[name]
        assert measure.value == pytest.approx(np.mean(values), abs=1e-9), name
        assert measure.low < measure.value < measure.high or measure.low == measure.high
        # The bootstrap's interval is near that of the normal approximation.
        assert measure.high - measure.low == pytest.approx(3.92 * np.std(values) / np.sqrt(120), rel=0.2, abs=0.02)
    assert found.index is None
    assert found.loss is None
    mean = sum(value * count for value, count in found.by_label.values()) / 120
    assert mean == pytest.approx(found.embedder["mAP"].value)


def test_a_sample_is_of_the_size_that_was_asked_for(tmp_path: Path) -> None:
    labelled(tmp_path / "a.vec")
    found = embed.evaluate(tmp_path / "a.vec", sample=30)
    assert found.queries == 30
    assert found.embedder == embed.evaluate(tmp_path / "a.vec", sample=30).embedder
    assert found.embedder != embed.evaluate(tmp_path / "a.vec", sample=30, seed=1).embedder


def test_queries_in_parts_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelled(tmp_path / "a.vec")
    whole = embed.evaluate(tmp_path / "a.vec")
    monkeypatch.setattr("vecstore.embed.evaluation._HELD", 120 * 7)
    monkeypatch.setattr("vecstore.embed.evaluation._CHUNK", 11)
    assert embed.evaluate(tmp_path / "a.vec").embedder["mAP"].value == pytest.approx(whole.embedder["mAP"].value)


def test_the_index_is_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "GRAPH_FROM", 400)
    monkeypatch.setattr(config, "GRAPH_FROM_BYTES", 0)
    labelled(tmp_path / "a.vec", count=900)
    with vecstore.open(tmp_path / "a.vec") as c:
        assert c.stats()["nodes"]
        found = embed.evaluate(c, k=(1, 5))
        assert found.index is not None
        assert found.loss is not None
        assert "mAP" not in found.index
        assert found.loss["neighbours@5"].value < 0.2
        for name, measure in found.index.items():
            assert found.loss[name].value == pytest.approx(found.embedder[name].value - measure.value)
        # A graph that finds the wrong ones is the index's fault alone.
        plain = vecstore.Collection.search

        def poor(self: vecstore.Collection, query: np.ndarray, *rest: object, **more: object) -> object:
            return plain(self, query if more.get("exact") else -query, *rest, **more)

        monkeypatch.setattr(vecstore.Collection, "search", poor)
        worse = embed.evaluate(c, k=(1, 5))
        assert worse.embedder == found.embedder
        assert worse.loss is not None
        assert worse.loss["neighbours@5"].value > 0.5
        c.add("no label", np.ones(24))
        assert embed.evaluate(c, k=(1, 5)).pictures == 900


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "a.vec", dim=2) as c:
        c.add(["a", "b"], [[1, 0], [0, 1]], [{"folder": "x"}, {"folder": "y"}])
        with pytest.raises(embed.ModelError, match="no two pictures with the same label"):
            embed.evaluate(c)
        c.update("b", {"folder": "x"})
        with pytest.raises(embed.ModelError, match="has the label 'x', so that no answer could be wrong"):
            embed.evaluate(c)
        with pytest.raises(embed.ModelError, match="from 1 on"):
            embed.evaluate(c, k=[0])
    with vecstore.open(tmp_path / "b.vec", dim=8, metric="hamming", dtype="binary") as c, pytest.raises(embed.ModelError, match="bits"):
        embed.evaluate(c)


def test_the_picture_is_sound_and_names_are_text(tmp_path: Path) -> None:
    labelled(tmp_path / "a.vec")
    found = embed.evaluate(tmp_path / "a.vec")
    many = {f"<label> & '{n}'": (n / 40, 3) for n in range(40)}
    text = chart(embed.Evaluation(**{**vars(found), "by_label": many, "index": found.embedder}), "<title>&")
    root = ElementTree.fromstring(text)
    assert len([rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("class") == "bar"]) == 30
    assert "<title>&" in "".join(root.itertext())
    assert "the graph" in "".join(root.itertext())


def test_the_command_takes_a_collection_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for kind, colour in (("reds", (200, 30, 30)), ("blues", (30, 30, 200))):
        (tmp_path / "in" / kind).mkdir(parents=True)
        for number in range(6):
            shade = tuple(int(value) for value in np.clip(np.array(colour) + random.integers(-25, 25, 3), 0, 255))
            Image.new("RGB", (30, 20), shade).save(tmp_path / "in" / kind / f"{number}.png")
    picture = tmp_path / "q.svg"
    assert cli.main(["evaluate", str(tmp_path / "in"), "-k", "1,3", "--svg", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["embedder"]["hit@1"]["value"] == 1
    assert found["index"] is None
    assert found["by_label"]["reds"]["queries"] == 6
    ElementTree.parse(picture)
    assert cli.main(["evaluate", str(tmp_path / "in"), "-k", "1"]) == 0
    out = capsys.readouterr().out
    assert "precision@1  1.0000  1.0000 to 1.0000" in out
    assert "every search of this collection is exact" in out
    embed.index_folder(tmp_path / "in", tmp_path / "p.vec")
    assert cli.main(["evaluate", str(tmp_path / "p.vec"), "--label", "nothing"]) == 1
    assert "'nothing'" in capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path / "p.vec"), "--model", "classic"]) == 2
    assert cli.main(["evaluate", str(tmp_path / "p.vec"), "-k", "0"]) == 2
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert cli.main(["evaluate", str(tmp_path / "empty")]) == 1
    assert "no pictures" in capsys.readouterr().err
