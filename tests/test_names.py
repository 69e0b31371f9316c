"""MLflow shows first what is for people; the rest has a prefix, and records of earlier releases are still read."""

import json

import pytest

from landuse.gate.blessing import Blessing, Check
from landuse.tracking import names

FACTS = {
    "data.md5": "08cac2c1",
    "data.source": "tiles.zip",
    "git.commit": "0123456789abcdef",
    "git.dirty": "false",
    "weights": "none",
}
PARAMS = {
    "extract.image_size": 224,
    "split.seed": 0,
    "train.unfreeze_from": "block_14",
    "train.learning_rate": 0.001,
    "train.seed": 0,
    "evaluate.mistakes": 24,
}
BEFORE = {key: str(value) for key, value in PARAMS.items()}


def test_the_first_run_is_named_after_data_and_first_trained_layer() -> None:
    assert names.run_name(FACTS, PARAMS, {}) == names.run_name(FACTS, PARAMS, BEFORE) == "08cac2-block_14"


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"train.learning_rate": 0.0005}, "block_14 lr=0.0005"),
        ({"train.seed": 1, "split.seed": 2}, "block_14 split.seed=2 seed=1"),
        ({"extract.weights": "/home/me/weights/v2.weights.h5"}, "block_14 extract.weights=v2.weights.h5"),
        ({"train.unfreeze_from": "block_12"}, "block_12"),
        ({"evaluate.mistakes": 8}, "block_14"),
        ({f"train.{letter}": 1 for letter in "abcde"}, "block_14 a=1 b=1 c=1 and 2 more"),
    ],
)
def test_a_run_is_named_after_what_differs_from_the_training_before(changes: dict, end: str) -> None:
    before = BEFORE | dict.fromkeys(changes.keys() - BEFORE.keys(), "x")
    assert names.run_name(FACTS, PARAMS | changes, before) == f"08cac2-{end}"


def test_people_see_few_tags_and_programs_read_all_of_them_from_runs_and_versions_of_any_release() -> None:
    people = names.tags_for_people(FACTS)
    assert people == {"data": "08cac2 from tiles.zip", "commit": "0123456789ab"}
    run, version = people | names.machine_tags(FACTS), people | names.record_tag(FACTS)
    assert all(tag.startswith("landuse.") for tag in (run.keys() | version.keys()) - people.keys())
    assert len(version) == 3, "the list of versions shows every tag on a line of its own"
    for tags in (run, version, FACTS, run | {"mlflow.runName": "some"}, FACTS | {"accuracy": "0.9", "gate": "passed"}):
        assert names.facts_of(tags) == FACTS
    assert names.facts_of(FACTS | names.record_tag({"git.dirty": "true"}))["git.dirty"] == "true", (
        "the later one counts"
    )


@pytest.mark.parametrize("record", ["", "{", "[1]", "null", '"text"', "7", "[" * 90_000, '{"git.dirty": null}'])
def test_a_damaged_record_counts_as_empty(record: str) -> None:
    assert names.facts_of({names.RECORD: record, "accuracy": "0.9"}) == {} and names.is_dirty({names.RECORD: record})


def test_metrics_of_the_held_out_images_come_before_those_of_the_training() -> None:
    shown = [names.evaluation_metric(name, "test") for name in ("accuracy", "macro_f1", "size_mb", "dead_kernels_int8")]
    shown += map(names.epoch_metric, ("train_loss", "validation_loss", "learning_rate", "train_seconds"))
    folders = [name.partition("/")[0] for name in sorted(shown)]
    assert folders == ["test"] * 2 + ["tflite"] * 2 + ["train"] * 4
    assert {"train/loss", "train/validation_loss", "train/seconds"} <= {*shown}
    assert names.evaluation_metric("accuracy", "validation") == "validation/accuracy"


def blessing(*checks: Check, **changes: object) -> Blessing:
    """A blessing of version 7 beside version 3."""
    facts = {"verdict": "refused" if any(check.failed for check in checks) else "passed"} | changes
    content = {"model": "m", "version": "7", "champion": "3", "promoted": False, "forced": False, "reason": None}
    more = {"moment": "2026-01-01", "data": "d", "compared_on": 9, "checks": []}
    return Blessing(**json.loads(json.dumps(content | more)) | facts | {"checks": checks})


def test_the_gate_is_summed_up_in_a_few_words() -> None:
    fine, bad = Check("accuracy", 0.9, 0.8, True, ""), Check("macro_f1", 0.7, 0.8, False, "")
    beside = Check("mcnemar", 0.5, 0.05, True, "")
    better = Check("better", None, None, True, "", {"better": True})
    assert blessing(fine).summary == "passed"
    assert blessing(fine, beside).summary == "passed, not worse than version 3"
    assert blessing(fine, beside, better, promoted=True).summary == "passed, better than version 3, promoted"
    assert blessing(fine, bad, beside).summary == "refused by macro_f1"
    forced = blessing(bad, bad, promoted=True, forced=True, reason="so")
    assert forced.summary == "refused by macro_f1 and 1 more, forced"
