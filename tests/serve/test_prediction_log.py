"""The prediction log: complete files by day, without delaying or failing any request."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prometheus_client import generate_latest
from pyarrow import parquet
from running import as_base64, fetch, score, serve_in_thread, wait_until

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA
from landuse.serve import prediction_log
from landuse.serve.metrics import Metrics
from landuse.serve.prediction_log import PredictionLog
from landuse.serve.predictor import Predictor


def row(day: int = 1) -> prediction_log.Row:
    return {"time": datetime(2026, 1, day, tzinfo=UTC), "version": "v", "label": "a", "confidence": 0.5}


def lost(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("landuse_log_lost_total")


def test_every_prediction_is_a_row_with_embedding_and_digest_written_on_close(
    trained: Path, predictor: Predictor, tmp_path: Path
) -> None:
    metrics = Metrics()
    log = PredictionLog(tmp_path / "new" / "log", metrics)
    paths = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    with serve_in_thread(Predictor(predictor.model, metrics, log, str(DATA.resolve())), log) as url:
        predictions = score(url, *map(as_base64, paths[:2])).content["predictions"]
        predictions += score(url, "forest/07.png").content["predictions"]
        fetch(url, "/predict", b"garbage")
        assert not list(log.folder.rglob("*.parquet"))
    (file,) = log.folder.glob(f"day={datetime.now(UTC):%Y-%m}-*/*")
    rows = parquet.read_table(file, partitioning=None).to_pylist()
    by_digest = {row["sha256"]: row for row in rows}
    assert len(rows) == len(by_digest) == 3 and lost(metrics) == 0
    for path, expected in zip(paths, predictions, strict=True):
        row = by_digest[hashlib.sha256(path.read_bytes()).hexdigest()]
        assert row["version"] == predictor.model.version and row["time"].tzinfo
        assert {key: row[key] for key in ("label", "unsure")} == {key: expected[key] for key in ("label", "unsure")}
        assert row["confidence"] == pytest.approx(expected["confidence"])
        embedding = predictor.model.classifier.predict_with_embedding(path)[1]
        assert np.allclose(np.array(row["embedding"], np.float32), embedding, atol=0.01)
    assert set(pd.read_parquet(log.folder).columns) == {*prediction_log.SCHEMA.names, "day"}


def test_a_named_file_deleted_during_prediction_is_still_logged(
    trained: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes((DATA / "forest" / "07.png").read_bytes())
    predict, log = predictor.model.classifier.predict_with_embedding, PredictionLog(tmp_path / "log", Metrics())
    monkeypatch.setattr(
        predictor.model.classifier, "predict_with_embedding", lambda file: (predict(file), image.unlink())[0]
    )
    with image.open("rb") as file:
        prediction, _ = Predictor(predictor.model, Metrics(), log, None).predict(predictor.model, file)
    assert prediction.label == "forest" and not image.exists() and log.rows.qsize() == 1


def test_a_full_batch_is_written_at_once_in_a_folder_per_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BATCH_ROWS", 4)
    log = PredictionLog(tmp_path, Metrics())
    log.start()
    for day in (1, 1, 2, 2, 2):
        log.add(row(day))
    wait_until(lambda: len(list(tmp_path.glob("day=*/[!.]*.parquet"))) == 2)
    log.close()
    counts = {
        folder.name: [parquet.read_metadata(file).num_rows for file in folder.iterdir()]
        for folder in tmp_path.iterdir()
    }
    assert counts.keys() == {"day=2026-01-01", "day=2026-01-02"}
    assert counts["day=2026-01-01"] == [2] and sorted(counts["day=2026-01-02"]) == [1, 2]


def test_a_partial_batch_is_written_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BATCH_SECONDS", 0.05)
    log = PredictionLog(tmp_path, Metrics())
    log.start()
    log.add(row())
    wait_until(lambda: list(tmp_path.glob("day=*/[!.]*.parquet")))
    log.close()


def test_rows_that_cannot_be_written_are_counted_as_lost_and_nothing_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    metrics = Metrics()
    log = PredictionLog(tmp_path / "log", metrics)
    (tmp_path / "log").rmdir()
    (tmp_path / "log").touch()
    log.start()
    log.add(row())
    log.close()
    assert lost(metrics) == 1 and "1 predictions are not in" in capfd.readouterr().err


def test_rows_are_dropped_instead_of_blocking_if_writing_is_too_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "QUEUE_ROWS", 2)
    metrics = Metrics()
    log = PredictionLog(tmp_path, metrics)
    for _ in range(5):
        log.add(row())
    assert lost(metrics) == 3 and b"landuse_log_lost_total 3.0" in generate_latest(metrics.registry)


def test_a_folder_that_cannot_be_created_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LanduseError, match=r"serve.log = .*/file/log: .*; name another folder, or null"):
        PredictionLog(tmp_path / "file" / "log", Metrics())
