"""Thresholds: limits that the judged model passes, and that one with a fault does not."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gallery
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion

from landuse import registry, tracking
from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import BLESSING, DATA_DVC, MODEL, PARAMS
from landuse.gate import judge
from landuse.gate.blessing import Blessing
from landuse.params import load_params
from landuse.params.editor import apply
from landuse.thresholds import lowest, thresholds
from landuse.thresholds.families import ALIKE, alikeness, group_alike

CONFUSED = "2"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path, smoke_in_process: None) -> None:
    """Give every test its own project and registry, and judge in this process."""


@pytest.fixture
def good() -> ModelVersion:
    """The version registered last, always right; it was judged and is the champion."""
    version = gallery.register_twin(1)
    gallery.promote_version(str(version.version))
    return version


def verdict(version: ModelVersion) -> Blessing:
    params = load_params()
    with tracking.store():
        return judge(version, None, params.promote, params.evaluate, lambda check: None)


def test_the_model_passes_its_own_limits_and_one_that_confuses_two_classes_does_not(good: ModelVersion) -> None:
    proposals = {proposal.key: proposal.proposed for proposal in thresholds(load_params().promote)}
    assert proposals.keys() == {
        *("min_accuracy", "min_macro_f1", "min_class_recall", "min_slice_accuracy"),
        *("max_calibration_error", "max_disturbed_fall", "max_latency_ms", "max_size_mb"),
    }
    apply({"promote": proposals})
    assert {key: getattr(load_params().promote, key) for key in proposals} == proposals
    assert verdict(good).verdict == "passed"
    confused = verdict(registry.get_version(gallery.NAME, CONFUSED))
    assert {"accuracy", "macro_f1", "class_recall"} <= {check.name for check in confused.failures()}


def judged(change: Callable[[gallery.Head], gallery.Head]) -> ModelVersion:
    """Register a model with a fault, without families named, and have it judged."""
    params = yaml.safe_load(PARAMS.read_text("utf-8"))
    params["promote"]["families"] = []
    PARAMS.write_text(yaml.safe_dump(params), "utf-8")
    gallery.export(gallery.network(change(gallery.colour_head())), MODEL)
    version = gallery.register_model()
    with suppress(Refused):
        gallery.promote_version(str(version.version))
    return version


def hesitating(head: gallery.Head) -> gallery.Head:
    """Tell fields from forests, but give both nearly the same probability."""
    weights, bias = head
    middle, side = weights[:, :2].mean(1, keepdims=True), np.array([1, -1]) * (weights[:, :1] - weights[:, 1:2]) / 50
    level, step = bias[:2].mean(), np.array([1, -1]) * (bias[0] - bias[1]) / 50
    return (
        np.concatenate([middle + side, weights[:, 2:]], 1).astype(np.float32),
        np.concatenate([level + step, bias[2:]]).astype(np.float32),
    )


def test_classes_that_share_probability_become_a_family_which_later_gates_judge() -> None:
    version = judged(hesitating)
    proposals = {proposal.key: proposal for proposal in thresholds(load_params().promote)}
    assert proposals["families"].proposed == [["field", "forest"]]
    line = str(proposals["families"])
    assert (
        "promote.families" in line and "-> [[field, forest]] given to each other by the model, on 9 validation" in line
    )
    assert "field/forest " in line and "(of their 40 held-out images 100.0% are right)" in line
    apply({"promote": {key: proposal.proposed for key, proposal in proposals.items()}})
    assert load_params().promote.families == (("field", "forest"),)
    blessing = verdict(version)
    assert blessing.verdict == "passed" and blessing.detail("slice_families")["field/forest"]["images"] == 40
    assert "families" not in {proposal.key for proposal in thresholds(load_params().promote)}, "those named stay"


def test_two_classes_that_cannot_be_told_apart_may_be_one() -> None:
    judged(gallery.confused)
    proposals = {proposal.key: proposal for proposal in thresholds(load_params().promote)}
    assert "perhaps one class under two names (of their 40 held-out images 0.0% are right)" in proposals["families"].why
    assert proposals["min_slice_accuracy"].proposed == 0, "the family is a slice, too"


def test_where_classes_are_told_apart_no_family_is_proposed() -> None:
    judged(gallery.unchanged)
    family = next(each for each in thresholds(load_params().promote) if each.key == "families")
    assert family.proposed == [] and family.why.endswith("3% at least: no two classes")


def test_families_are_not_chosen_on_other_images_than_those_of_the_model() -> None:
    judged(gallery.unchanged)
    record = yaml.safe_load(DATA_DVC.read_text("utf-8"))
    record["outs"][0]["md5"] = "f" * 32 + ".dir"
    DATA_DVC.write_text(yaml.safe_dump(record), "utf-8")
    with pytest.raises(LanduseError, match=r"data/, which is f{32}.dir now: dvc repro, then landuse promote"):
        thresholds(load_params().promote)


def alike(pairs: dict[str, float], classes: str) -> pd.DataFrame:
    """Return how alike the classes are, with zeros where nothing is said."""
    table = pd.DataFrame(0.0, index=list(classes), columns=list(classes))
    for (first, second), value in pairs.items():
        table.loc[first, second] = table.loc[second, first] = value
    return table


@pytest.mark.parametrize(
    ("pairs", "groups"),
    [
        ({}, []),
        ({"ab": ALIKE, "cd": ALIKE - 0.001}, [["a", "b"]]),
        ({"ab": 0.1, "bc": 0.1, "ac": 0.1, "de": 0.05}, [["a", "b", "c"], ["d", "e"]]),
        ({"ab": 0.1, "bc": 0.05}, [["a", "b"]]),  # a and c are not alike: (0.05 + 0) / 2 is too little for c to join
        ({"ab": 0.1, "bc": 0.07}, [["a", "b", "c"]]),
    ],
)
def test_classes_are_joined_while_they_are_alike_on_average(pairs: dict[str, float], groups: list[list[str]]) -> None:
    assert group_alike(alike(pairs, "abcde")) == groups


def test_a_family_of_all_classes_says_nothing_and_is_none() -> None:
    assert group_alike(alike({"ab": 0.4}, "ab")) == []


def test_how_alike_classes_are_is_what_the_images_of_each_give_to_the_other() -> None:
    probabilities = np.array([[0.8, 0.2, 0], [0.6, 0.4, 0], [0.1, 0.9, 0]], np.float32)
    table = alikeness(pd.Series(["a", "a", "b"]), probabilities, ["a", "b", "c"])
    assert table.loc["a", "b"] == table.loc["b", "a"] == pytest.approx((0.3 + 0.1) / 2) and table.loc["c", "a"] == 0


def test_metrics_of_another_version_are_not_taken_for_those_of_the_judged_one(good: ModelVersion) -> None:
    later = gallery.register_twin(2).version
    complaint = f"is of gallery version {later}, and gallery version {good.version} was judged last: landuse promote"
    with pytest.raises(LanduseError, match=complaint):
        thresholds(load_params().promote)


def test_only_the_limits_are_written(good: ModelVersion) -> None:
    before = yaml.safe_load(PARAMS.read_text("utf-8"))
    proposals = thresholds(load_params().promote)
    apply({"promote": {proposal.key: proposal.proposed for proposal in proposals}})
    after = yaml.safe_load(PARAMS.read_text("utf-8"))
    changed = {key for key, value in after["promote"].items() if before["promote"][key] != value}
    assert changed <= {proposal.key for proposal in proposals}
    assert {**after, "promote": None} == {**before, "promote": None}


def test_every_proposal_says_what_was_measured(good: ModelVersion) -> None:
    lines = [str(proposal) for proposal in thresholds(load_params().promote)]
    assert any(
        "promote.min_accuracy" in line and "100.0% on 60 images, less 2.5 standard errors" in line for line in lines
    )
    assert all(" -> " in line for line in lines)


@pytest.mark.parametrize(
    ("share", "images", "limit"), [(1.0, 20, 0.88), (1.0, 420, 0.99), (0.95, 420, 0.92), (0.5, 4, 0.0), (0.0, 20, 0.0)]
)
def test_a_limit_lies_a_few_standard_errors_below_what_was_measured(share: float, images: int, limit: float) -> None:
    assert lowest(share, images)[0] == pytest.approx(limit, abs=0.021)
    assert 0 <= lowest(share, images)[0] <= share


def test_without_a_judged_version_the_remedy_is_named() -> None:
    BLESSING.unlink(missing_ok=True)
    with pytest.raises(LanduseError, match="is not there yet: landuse promote judges a version, whatever comes out"):
        thresholds(load_params().promote)
