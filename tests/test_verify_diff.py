"""Tests of comparing packages, split, metrics and predictions, then and now."""

import json
from pathlib import Path

import pandas as pd
import pytest

from landuse.core.errors import Refused
from landuse.registry.version_record import RunRecord
from landuse.verify import package_hint, verdict
from landuse.verify.diff import Row, compare_metrics, compare_packages, compare_predictions, compare_splits


def make_record(
    folder: Path,
    versions: dict | None = None,
    metrics: dict | None = None,
    run_metrics: dict | None = None,
    tags: dict | None = None,
) -> RunRecord:
    """A record with these files (versions, metrics), metrics of its run, and tags."""
    (folder / "versions.json").write_text(json.dumps(versions or {}))
    (folder / "metrics.json").write_text(json.dumps(metrics or {}))
    return RunRecord(tags or {}, run_metrics or {}, folder)


def test_each_changed_or_missing_package_has_a_row(tmp_path: Path) -> None:
    recorded = {"numpy": "1.0", "nosuch": "2.0", "pandas": pd.__version__, "landuse": "9"}
    record = make_record(tmp_path, versions=recorded)
    assert [(row.name, row.then, row.same) for row in compare_packages(record)] == [
        ("numpy", "1.0", False),
        ("nosuch", "2.0", False),
    ]
    assert "nosuch was 2.0 and is not installed" in package_hint(record)


def test_unchanged_packages_share_one_row(tmp_path: Path) -> None:
    record = make_record(tmp_path, versions={"pandas": pd.__version__, "landuse": "9"})
    assert compare_packages(record) == [Row("packages", "1 recorded", "the same", True)] and package_hint(record) == ""


def metric_rows(folder: Path, now: float, file: float, run: float, tag: str) -> dict[str, bool]:
    """Compare accuracies; return by row name whether they are the same."""
    record = make_record(folder, metrics={"accuracy": file}, run_metrics={"accuracy": run}, tags={"test.accuracy": tag})
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts/metrics.json").write_text(json.dumps({"subset": "test", "accuracy": now}))
    return {row.name: row.same for row in compare_metrics(record, folder)}


def test_a_metric_may_differ_by_a_millionth_in_file_and_run(tmp_path: Path) -> None:
    same = {"accuracy": True, "tag test.accuracy": True}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.9, "0.9000") == same
    assert metric_rows(tmp_path, 0.900001, 0.9, 0.9, "0.9000") == same
    assert metric_rows(tmp_path, 0.94995, 0.94995, 0.949951, "0.9500") == same, "rounding may tip over"
    assert metric_rows(tmp_path, 0.900002, 0.9, 0.9, "0.9000") == same | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.8, 0.9, "0.9000") == same | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.99, "0.9000") == same | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, float("nan"), "0.9000") == same | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.9, "0.9900") == same | {"tag test.accuracy": False}


def test_a_metric_that_was_not_logged_counts_as_different(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/metrics.json").write_text(json.dumps({"subset": "test", "accuracy": 0.5}))
    assert compare_metrics(record, tmp_path) == [Row("accuracy", "-", "0.5", False)]


def test_splits_are_compared_row_by_row_in_order() -> None:
    split = pd.DataFrame(
        {"path": ["a", "b", "c"], "label": "x", "group": [0, 1, 2], "subset": ["train"] * 2 + ["test"]}
    )
    assert compare_splits(split, split.copy()) == Row("split", "3 images", "0 otherwise", True)
    assert compare_splits(split, split.assign(subset="train")) == Row("split", "3 images", "1 otherwise", False)
    assert not compare_splits(split, split[::-1].reset_index(drop=True)).same
    assert compare_splits(split, split[:2]) == Row("split", "3 images", "1 otherwise", False)


def test_predictions_may_differ_by_a_millionth_in_probability_only() -> None:
    table = pd.DataFrame(
        {"path": ["a", "b"], "actual": "x", "predicted": ["x", "y"], "confidence": [0.7, 0.6], "p_x": [0.7, 0.4]}
    )
    assert [row.same for row in compare_predictions(table, table.copy())] == [True, True]
    assert [row.same for row in compare_predictions(table, table.assign(p_x=[0.700001, 0.4]))] == [True, True]
    assert [row.same for row in compare_predictions(table, table.assign(p_x=[0.700002, 0.4]))] == [True, False]
    labels, _ = compare_predictions(table, table.assign(predicted="x"))
    assert labels == Row("labels", "2 images", "1 otherwise", False)
    assert [row.same for row in compare_predictions(table, table[:1])] == [False]
    assert [row.same for row in compare_predictions(table, table.rename(columns={"p_x": "p_z"}))] == [False]


def test_the_verdict_depends_on_results_and_names_changed_inputs() -> None:
    same, keras, split = Row("data", "1", "1", True), Row("keras", "1", "2", False), Row("split", "1", "2", False)
    assert verdict("m version 1", [same], [same]) == "m version 1 came out the same"
    assert verdict("m version 1", [keras], [same]).endswith("the same, though what went in did not: keras")
    with pytest.raises(Refused, match="m version 1 came out differently: split$"):
        verdict("m version 1", [same], [split])
    with pytest.raises(Refused, match="came out differently: split; so did what went in: keras$") as refused:
        verdict("m version 1", [keras], [split])
    assert refused.value.exit_code == 3


def test_a_differing_row_says_no_in_capitals() -> None:
    assert str(Row("keras", "1", "2", False)).split() == ["keras", "1", "2", "NO"]
