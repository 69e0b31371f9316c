"""Reasons to retrain: new images, changes, and what an earlier run left undone."""

import json
from pathlib import Path

import mlflow
import pytest
import tiny
from mlflow import MlflowClient
from processes import python

from landuse import registry, tracking
from landuse.core.paths import REGISTRATION
from landuse.registry import audit_log
from landuse.tracking.names import record_tag
from pipelines.steps import pending
from pipelines.steps.commands import CommandFailed
from pipelines.steps.pending import REASONS, is_judged, succeeds

NAME = "landuse"

find_reason = pending.find_reason.fn  # the function behind the task


@pytest.fixture(autouse=True)
def store(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with the model, and params that promote what passes."""
    tiny.write_params(work_dir, {"promote": {"automatic": True}, "register": {"model": NAME}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{work_dir}/mlflow.db")
    mlflow.set_tracking_uri(None)
    with tracking.store():
        MlflowClient().create_registered_model(NAME)


def register_version(verdict: str | None, promoted: bool) -> None:
    """Register a new version with a verdict of the gate, if any, and optionally promote it."""
    with tracking.store():
        tags = {} if verdict is None else record_tag({"gate.verdict": verdict})
        number = str(MlflowClient().create_model_version(NAME, "nowhere", tags=tags).version)
        REGISTRATION.parent.mkdir(exist_ok=True)
        REGISTRATION.write_text(json.dumps({"model": NAME, "version": number}))
        if promoted:
            audit_log.close_entry(
                audit_log.add_tags(audit_log.open_entry(NAME, "promote", "a test"), {"to": number}), audit_log.DONE
            )


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Exit codes of the faked `dvc status` and `landuse info`, for the test to change."""
    exit_codes = {"dvc": 0, "landuse": 0}

    def fake_run(program: str, *_: str, folder: Path = Path()) -> str:
        if exit_codes[program]:
            raise CommandFailed(f"{program} says no", exit_codes[program])
        return ""

    monkeypatch.setattr(pending, "run", fake_run)
    return exit_codes


def test_after_a_complete_run_the_only_reason_is_force(codes: dict[str, int]) -> None:
    register_version("passed", promoted=True)
    assert find_reason(False, force=False) is None
    assert find_reason(False, force=True) == "forced"


def test_the_first_reason_in_pipeline_order_is_returned(codes: dict[str, int]) -> None:
    register_version("passed", promoted=False)
    reasons = [find_reason(False, force=True)]
    codes["landuse"] = 1
    reasons.append(find_reason(False, force=True))
    codes["dvc"] = 1
    reasons.append(find_reason(False, force=True))
    reasons.append(find_reason(True, force=True))
    assert reasons == ["unjudged", "unregistered", "changed", "new-data"]
    assert set(reasons) | {"forced"} == set(REASONS)


def test_an_unreachable_store_is_not_a_lost_registration(codes: dict[str, int]) -> None:
    codes["landuse"] = 75
    with pytest.raises(CommandFailed, match="landuse says no"):
        find_reason(False, force=False)


def test_a_command_succeeds_fails_or_raises_by_its_exit_code(work_dir: Path) -> None:
    assert succeeds(*python("")) and not succeeds(*python("raise SystemExit(1)"))
    with pytest.raises(CommandFailed):
        succeeds(*python("raise SystemExit(75)"))


def test_dvc_status_returns_whether_anything_changed_as_its_exit_code(work_dir: Path, project: Path) -> None:
    Path(".services").mkdir()
    Path("dvc.yaml").write_text("stages: {count: {cmd: cp params.yaml out, deps: [params.yaml], outs: [out]}}")
    assert not succeeds("dvc", "status", "--quiet")
    pending.run("dvc", "repro", "--quiet")
    assert succeeds("dvc", "status", "--quiet")


@pytest.mark.parametrize(
    ("verdict", "promoted", "judged"),
    [("passed", True, True), ("refused", False, True), ("refused", True, True), ("passed", False, False)],
)
def test_a_version_counts_as_judged_unless_it_is_waiting_for_promotion(
    verdict: str, promoted: bool, judged: bool
) -> None:
    register_version(verdict, promoted)
    assert is_judged() is judged


def test_with_manual_promotion_a_passed_version_counts_as_judged(work_dir: Path) -> None:
    tiny.write_params(work_dir, {"promote": {"automatic": False}, "register": {"model": NAME}})
    register_version("passed", promoted=False)
    assert is_judged()


def test_a_version_without_a_verdict_is_not_judged_even_if_there_is_a_champion() -> None:
    register_version("passed", promoted=True)
    register_version(None, promoted=False)
    assert not is_judged()


def test_a_former_champion_replaced_by_hand_is_not_judged_again() -> None:
    register_version("refused", promoted=True)
    register_version("passed", promoted=True)
    with tracking.store():
        audit_log.close_entry(
            audit_log.add_tags(audit_log.open_entry(NAME, "force", "bad in the field"), {"to": "1"}), audit_log.DONE
        )
    assert is_judged()


def test_versions_of_another_project_in_the_same_store_are_not_judged() -> None:
    assert is_judged(), "nothing was registered here so far"
    register_version("passed", promoted=True)
    with tracking.store():
        other = MlflowClient().create_model_version(NAME, "elsewhere")
        registry.set_alias(NAME, registry.CHALLENGER, str(other.version))
    assert is_judged()
