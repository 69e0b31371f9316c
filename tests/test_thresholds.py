"""Thresholds: limits that the judged model passes, and that one with a fault does not."""

from pathlib import Path

import gallery
import pytest
import yaml

from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import BLESSING, PARAMS
from landuse.params import load_params
from landuse.params.editor import apply
from landuse.thresholds import lowest, thresholds

GOOD, CONFUSED = "1", "2"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path, smoke_in_process: None) -> None:
    """Give every test its own project and registry, and judge in this process."""


def test_the_model_passes_its_own_limits_and_one_that_confuses_two_classes_does_not() -> None:
    gallery.promote_version(GOOD)
    proposals = {proposal.key: proposal.proposed for proposal in thresholds(load_params().promote)}
    assert proposals.keys() == {
        *("min_accuracy", "min_macro_f1", "min_class_recall", "min_slice_accuracy"),
        *("max_calibration_error", "max_disturbed_fall", "max_latency_ms", "max_size_mb"),
    }
    apply({"promote": proposals})
    assert {key: getattr(load_params().promote, key) for key in proposals} == proposals
    checks = {check.name: check for check in gallery.promote_version(GOOD).checks}
    assert not any(check.failed for check in checks.values())
    with pytest.raises(Refused, match=r"\(promote.min_accuracy\)"):
        gallery.promote_version(CONFUSED)


def test_only_the_limits_are_written() -> None:
    gallery.promote_version(GOOD)
    before = yaml.safe_load(PARAMS.read_text("utf-8"))
    proposals = thresholds(load_params().promote)
    apply({"promote": {proposal.key: proposal.proposed for proposal in proposals}})
    after = yaml.safe_load(PARAMS.read_text("utf-8"))
    changed = {key for key, value in after["promote"].items() if before["promote"][key] != value}
    assert changed <= {proposal.key for proposal in proposals}
    assert {**after, "promote": None} == {**before, "promote": None}


def test_every_proposal_says_what_was_measured() -> None:
    gallery.promote_version(GOOD)
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
