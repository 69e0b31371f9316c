"""What there is to do: new images, what changed, and what an earlier run left undone."""

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
from pipelines.steps import pending
from pipelines.steps.commands import CommandFailed
from pipelines.steps.pending import REASONS, is_judged, succeeds

NAME = "landuse"

look = pending.what_is_new.fn  # the function behind the task


@pytest.fixture(autouse=True)
def store(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that knows the model, and params that promote what passes."""
    tiny.write_params(place, {"promote": {"automatic": True}, "register": {"model": NAME}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    mlflow.set_tracking_uri(None)
    with tracking.store():
        MlflowClient().create_registered_model(NAME)


def challenge(verdict: str | None, promoted: bool) -> None:
    """A new version of which the gate said this, if it was asked, and what came of it."""
    with tracking.store():
        tags = {} if verdict is None else {"gate.verdict": verdict}
        number = str(MlflowClient().create_model_version(NAME, "nowhere", tags=tags).version)
        REGISTRATION.parent.mkdir(exist_ok=True)
        REGISTRATION.write_text(json.dumps({"model": NAME, "version": number}))
        if promoted:
            audit_log.close(
                audit_log.write(audit_log.open_entry(NAME, "promote", "a test"), {"to": number}), audit_log.DONE
            )


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The exit codes of `dvc status` and `landuse info`, to be changed."""
    answers = {"dvc": 0, "landuse": 0}

    def answer(program: str, *_: str, folder: Path = Path()) -> str:
        if answers[program]:
            raise CommandFailed(f"{program} says no", answers[program])
        return ""

    monkeypatch.setattr(pending, "run", answer)
    return answers


def test_after_a_run_that_came_to_its_end_there_is_nothing_but_what_is_asked_for(codes: dict[str, int]) -> None:
    challenge("passed", promoted=True)
    assert look(False, force=False) is None
    assert look(False, force=True) == "forced"


def test_the_first_reason_in_the_order_of_the_pipeline_is_the_one_that_is_told(codes: dict[str, int]) -> None:
    challenge("passed", promoted=False)
    found = [look(False, force=True)]
    codes["landuse"] = 1
    found.append(look(False, force=True))
    codes["dvc"] = 1
    found.append(look(False, force=True))
    found.append(look(True, force=True))
    assert found == ["unjudged", "unregistered", "changed", "new-data"]
    assert set(found) | {"forced"} == set(REASONS)


def test_a_store_that_is_out_of_reach_is_no_lost_registration(codes: dict[str, int]) -> None:
    codes["landuse"] = 75
    with pytest.raises(CommandFailed, match="landuse says no"):
        look(False, force=False)


def test_a_command_says_yes_or_no_or_cannot_tell(place: Path) -> None:
    assert succeeds(*python("")) and not succeeds(*python("raise SystemExit(1)"))
    with pytest.raises(CommandFailed):
        succeeds(*python("raise SystemExit(75)"))


def test_dvc_says_by_its_exit_code_whether_something_changed(place: Path, project: Path) -> None:
    Path(".services").mkdir()
    Path("dvc.yaml").write_text("stages: {count: {cmd: cp params.yaml out, deps: [params.yaml], outs: [out]}}")
    assert not succeeds("dvc", "status", "--quiet")
    pending.run("dvc", "repro", "--quiet")
    assert succeeds("dvc", "status", "--quiet")


@pytest.mark.parametrize(
    ("verdict", "promoted", "judged"),
    [("passed", True, True), ("refused", False, True), ("refused", True, True), ("passed", False, False)],
)
def test_a_version_is_judged_when_the_gate_has_seen_it_and_it_does_not_wait(
    verdict: str, promoted: bool, judged: bool
) -> None:
    challenge(verdict, promoted)
    assert is_judged() is judged


def test_where_promotion_is_for_people_a_version_that_passed_waits_for_them(place: Path) -> None:
    tiny.write_params(place, {"promote": {"automatic": False}, "register": {"model": NAME}})
    challenge("passed", promoted=False)
    assert is_judged()


def test_a_version_that_the_gate_has_not_seen_is_not_judged_whoever_is_champion() -> None:
    challenge("passed", promoted=True)
    challenge(None, promoted=False)
    assert not is_judged()


def test_who_was_champion_and_was_replaced_by_a_person_is_not_judged_again() -> None:
    challenge("refused", promoted=True)
    challenge("passed", promoted=True)
    with tracking.store():
        audit_log.close(
            audit_log.write(audit_log.open_entry(NAME, "force", "bad in the field"), {"to": "1"}), audit_log.DONE
        )
    assert is_judged()


def test_what_another_project_registers_in_the_same_store_is_not_this_ones_to_judge() -> None:
    assert is_judged(), "nothing was registered here so far"
    challenge("passed", promoted=True)
    with tracking.store():
        other = MlflowClient().create_model_version(NAME, "elsewhere")
        registry.set_alias(NAME, registry.CHALLENGER, str(other.version))
    assert is_judged()
