"""What counts as the same: packages, split, metrics and predictions, then and now."""

import json
from pathlib import Path

import pandas as pd
import pytest

from landuse.core.errors import Refused
from landuse.verify import hint, verdict
from landuse.verify.diff import Row, Then, compare_metrics, compare_predictions, compare_splits, packages


def then(folder: Path, **records: dict) -> Then:
    """What is recorded of a version with these metrics, tags and files."""
    for name in ("versions", "stated"):
        (folder / f"{'metrics' if name == 'stated' else name}.json").write_text(json.dumps(records.get(name, {})))
    return Then(records.get("tags", {}), records.get("metrics", {}), folder)


def test_packages_of_another_version_or_that_are_gone_are_named_one_by_one(tmp_path: Path) -> None:
    recorded = {"numpy": "1.0", "nosuch": "2.0", "pandas": pd.__version__, "landuse": "9"}
    record = then(tmp_path, versions=recorded)
    assert [(row.what, row.then, row.same) for row in packages(record)] == [
        ("numpy", "1.0", False),
        ("nosuch", "2.0", False),
    ]
    assert "nosuch was 2.0 and is not installed" in hint(record)


def test_packages_that_are_the_same_are_one_row(tmp_path: Path) -> None:
    record = then(tmp_path, versions={"pandas": pd.__version__, "landuse": "9"})
    assert packages(record) == [Row("packages", "1 recorded", "the same", True)] and hint(record) == ""


def metric_rows(folder: Path, now: float, file: float, run: float, tag: str) -> dict[str, bool]:
    """Whether the accuracy is the same, and whether its tag is."""
    record = then(folder, stated={"accuracy": file}, metrics={"accuracy": run}, tags={"test.accuracy": tag})
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts/metrics.json").write_text(json.dumps({"subset": "test", "accuracy": now}))
    return {row.what: row.same for row in compare_metrics(record, folder)}


def test_a_metric_may_be_a_millionth_off_and_no_more_wherever_it_is_stated(tmp_path: Path) -> None:
    both = {"accuracy": True, "tag test.accuracy": True}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.9, "0.9000") == both
    assert metric_rows(tmp_path, 0.900001, 0.9, 0.9, "0.9000") == both
    assert metric_rows(tmp_path, 0.94995, 0.94995, 0.949951, "0.9500") == both, "rounding tips over"
    assert metric_rows(tmp_path, 0.900002, 0.9, 0.9, "0.9000") == both | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.8, 0.9, "0.9000") == both | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.99, "0.9000") == both | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, float("nan"), "0.9000") == both | {"accuracy": False}
    assert metric_rows(tmp_path, 0.9, 0.9, 0.9, "0.9900") == both | {"tag test.accuracy": False}


def test_a_metric_that_was_not_logged_then_is_not_the_same(tmp_path: Path) -> None:
    record = then(tmp_path)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/metrics.json").write_text(json.dumps({"subset": "test", "accuracy": 0.5}))
    assert compare_metrics(record, tmp_path) == [Row("accuracy", "-", "0.5", False)]


def test_a_split_is_the_same_down_to_the_last_row() -> None:
    split = pd.DataFrame(
        {"path": ["a", "b", "c"], "label": "x", "group": [0, 1, 2], "subset": ["train"] * 2 + ["test"]}
    )
    assert compare_splits(split, split.copy()) == Row("split", "3 images", "0 otherwise", True)
    assert compare_splits(split, split.assign(subset="train")) == Row("split", "3 images", "1 otherwise", False)
    assert not compare_splits(split, split[::-1].reset_index(drop=True)).same
    assert compare_splits(split, split[:2]) == Row("split", "3 images", "1 otherwise", False)


def test_predictions_have_the_same_labels_and_probabilities_within_a_millionth() -> None:
    seen = pd.DataFrame(
        {"path": ["a", "b"], "actual": "x", "predicted": ["x", "y"], "confidence": [0.7, 0.6], "p_x": [0.7, 0.4]}
    )
    assert [row.same for row in compare_predictions(seen, seen.copy())] == [True, True]
    assert [row.same for row in compare_predictions(seen, seen.assign(p_x=[0.700001, 0.4]))] == [True, True]
    assert [row.same for row in compare_predictions(seen, seen.assign(p_x=[0.700002, 0.4]))] == [True, False]
    labels, _ = compare_predictions(seen, seen.assign(predicted="x"))
    assert labels == Row("labels", "2 images", "1 otherwise", False)
    assert [row.same for row in compare_predictions(seen, seen[:1])] == [False]
    assert [row.same for row in compare_predictions(seen, seen.rename(columns={"p_x": "p_z"}))] == [False]


def test_the_verdict_stands_on_what_came_out_and_names_what_went_in() -> None:
    same, keras, split = Row("data", "1", "1", True), Row("keras", "1", "2", False), Row("split", "1", "2", False)
    assert verdict("m version 1", [same], [same]) == "m version 1 came out the same"
    assert verdict("m version 1", [keras], [same]).endswith("the same, though what went in did not: keras")
    with pytest.raises(Refused, match="m version 1 came out differently: split$"):
        verdict("m version 1", [same], [split])
    with pytest.raises(Refused, match="came out differently: split; so did what went in: keras$") as refused:
        verdict("m version 1", [keras], [split])
    assert refused.value.exit_code == 3


def test_a_row_of_the_table_says_no_loudly() -> None:
    assert str(Row("keras", "1", "2", False)).split() == ["keras", "1", "2", "NO"]
