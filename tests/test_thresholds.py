"""Thresholds: limits that the judged model passes, and that one with a fault does not."""

from pathlib import Path

import gallery
import pytest
import yaml
from mlflow.entities.model_registry import ModelVersion

from landuse import registry, tracking
from landuse.core.errors import LanduseError
from landuse.core.paths import BLESSING, PARAMS
from landuse.gate import judge
from landuse.gate.blessing import Blessing
from landuse.params import load_params
from landuse.params.editor import apply
from landuse.thresholds import lowest, thresholds

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
