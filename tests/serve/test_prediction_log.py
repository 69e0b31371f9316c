"""The log of predictions: whole files by day, and never a request that waits or fails for it."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prometheus_client import generate_latest
from pyarrow import parquet
from running import ask, in_this_process, score, sent, wait_until

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA
from landuse.serve import prediction_log
from landuse.serve.metrics import Metrics
from landuse.serve.prediction_log import Log
from landuse.serve.predictor import Answers


def row(day: int = 1) -> prediction_log.Row:
    return {"time": datetime(2026, 1, day, tzinfo=UTC), "version": "v", "label": "a", "confidence": 0.5}


def lost(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("landuse_log_lost_total")


def test_every_prediction_is_a_row_with_embedding_and_digest_and_is_written_at_the_end(
    trained: Path, answers: Answers, tmp_path: Path
) -> None:
    metrics = Metrics()
    kept = Log(tmp_path / "new" / "log", metrics)
    paths = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    with in_this_process(Answers(answers.model, metrics, kept, str(DATA.resolve())), kept) as place:
        said = score(place, *map(sent, paths[:2])).content["predictions"]
        said += score(place, "forest/07.png").content["predictions"]
        ask(place, "/look", b"rubbish")
        assert not list(kept.folder.rglob("*.parquet"))
    (file,) = kept.folder.glob(f"day={datetime.now(UTC):%Y-%m}-*/*")
    rows = parquet.read_table(file, partitioning=None).to_pylist()
    by_digest = {row["sha256"]: row for row in rows}
    assert len(rows) == len(by_digest) == 3 and lost(metrics) == 0
    for path, expected in zip(paths, said, strict=True):
        found = by_digest[hashlib.sha256(path.read_bytes()).hexdigest()]
        assert found["version"] == answers.model.version and found["time"].tzinfo
        assert {key: found[key] for key in ("label", "unsure")} == {key: expected[key] for key in ("label", "unsure")}
        assert found["confidence"] == pytest.approx(expected["confidence"])
        embedding = answers.model.classifier.look(path)[1]
        assert np.allclose(np.array(found["embedding"], np.float32), embedding, atol=0.01)
    assert set(pd.read_parquet(kept.folder).columns) == {*prediction_log.SCHEMA.names, "day"}


def test_a_named_file_that_is_deleted_while_it_is_looked_at_is_answered_and_logged(
    trained: Path, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes((DATA / "forest" / "07.png").read_bytes())
    looked, kept = answers.model.classifier.look, Log(tmp_path / "log", Metrics())
    monkeypatch.setattr(answers.model.classifier, "look", lambda file: (looked(file), image.unlink())[0])
    with image.open("rb") as file:
        said, _ = Answers(answers.model, Metrics(), kept, None).answer(answers.model, file)
    assert said.label == "forest" and not image.exists() and kept.rows.qsize() == 1


def test_a_full_batch_is_written_at_once_and_each_day_has_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "BATCH", 4)
    kept = Log(tmp_path, Metrics())
    kept.start()
    for day in (1, 1, 2, 2, 2):
        kept.add(row(day))
    wait_until(lambda: len(list(tmp_path.glob("day=*/[!.]*.parquet"))) == 2)
    kept.close()
    counts = {
        folder.name: [parquet.read_metadata(file).num_rows for file in folder.iterdir()]
        for folder in tmp_path.iterdir()
    }
    assert counts.keys() == {"day=2026-01-01", "day=2026-01-02"}
    assert counts["day=2026-01-01"] == [2] and sorted(counts["day=2026-01-02"]) == [1, 2]


def test_what_waits_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BATCH_SECONDS", 0.05)
    kept = Log(tmp_path, Metrics())
    kept.start()
    kept.add(row())
    wait_until(lambda: list(tmp_path.glob("day=*/[!.]*.parquet")))
    kept.close()


def test_where_nothing_can_be_written_rows_are_counted_as_lost_and_nothing_else_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    metrics = Metrics()
    kept = Log(tmp_path / "log", metrics)
    (tmp_path / "log").rmdir()
    (tmp_path / "log").touch()
    kept.start()
    kept.add(row())
    kept.close()
    assert lost(metrics) == 1 and "1 predictions are not in" in capfd.readouterr().err


def test_where_writing_is_too_slow_a_row_is_lost_and_no_request_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "WAITING", 2)
    metrics = Metrics()
    kept = Log(tmp_path, metrics)
    for _ in range(5):
        kept.add(row())
    assert lost(metrics) == 3 and b"landuse_log_lost_total 3.0" in generate_latest(metrics.registry)


def test_a_folder_that_cannot_be_made_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LanduseError, match=r"serve.log = .*/file/log: .*; name another folder, or null"):
        Log(tmp_path / "file" / "log", Metrics())
