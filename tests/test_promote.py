"""Tests of promote, rollback, history and compare: their output and effects, and that a refusal changes nothing."""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import gallery
import pytest
import tiny
from gallery import NAME, aliases, assert_consistent, make_champion
from mlflow import MlflowClient

from landuse import gate, promote, tracking
from landuse.cli import main
from landuse.core import paths
from landuse.gate.blessing import Blessing
from landuse.registry import audit_log, smoke_test
from landuse.tracking.names import facts_of

LANDUSE = Path(sys.executable).with_name("landuse")
ALREADY = (
    "nothing is judged, it is the champion already: artifacts/report.html shows its judgement\n"
    "gallery version 1 is the champion\n"
)


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test its own project and registry."""


@pytest.fixture
def landuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a command and returns its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["landuse", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run


def blessing() -> dict:
    return json.loads(paths.BLESSING.read_text())


def moves() -> list[str]:
    with tracking.store():
        return [f"{entry.action} {entry.before} {entry.after} {entry.status}" for entry in audit_log.entries(NAME)]


def tags(number: str) -> dict[str, str]:
    """Return the tags of a version, those for people and what it has on record."""
    tags = MlflowClient().get_model_version(NAME, number).tags
    return tags | facts_of(tags)


def test_a_version_that_passes_becomes_champion_with_blessing_tags_and_ledger_entry(
    landuse, smoke_in_process: None
) -> None:
    code, out, err = landuse("promote", "1")
    assert (code, err) == (0, "") and out.endswith("gallery version 1 is the champion\n")
    assert out.count("passed ") == len(blessing()["checks"]) == 17
    assert blessing().items() >= {"version": "1", "champion": None, "verdict": "passed", "promoted": True}.items()
    assert tags("1").items() >= {"gate.verdict": "passed", "gate.champion": "none", "gate.failed": "none"}.items()
    assert tags("1")["gate"] == "passed, promoted"
    assert moves() == ["promote None 1 FINISHED"] and assert_consistent() == "1"
    with tracking.store():
        assert audit_log.load_blessing(audit_log.entries(NAME)[0]) == blessing()


def test_the_challenger_is_judged_by_default_and_refused_in_one_line(landuse, smoke_in_process: None) -> None:
    code, out, err = landuse("promote")
    assert code == 3 and "FAILED  calibration_error" in out
    why = f"{first_failure()['sentence']} (promote.max_calibration_error)"
    assert err == f"landuse: gallery version 4 is refused: {why}; artifacts/report.html shows all\n"
    assert blessing().items() >= {"version": "4", "verdict": "refused", "promoted": False, "forced": False}.items()
    assert tags("4").items() >= {"gate.verdict": "refused", "gate.failed": "calibration_error"}.items()
    assert tags("4")["gate"].startswith("refused by calibration_error")
    assert aliases() == {} and moves() == []


def first_failure() -> dict:
    return next(check for check in blessing()["checks"] if not check["passed"])


def test_a_dry_run_judges_and_moves_nothing(landuse, smoke_in_process: None) -> None:
    code, out, _ = landuse("promote", "1", "--dry-run")
    assert code == 0 and out.endswith("gallery version 1 passed; nothing was moved\n")
    assert blessing().items() >= {"version": "1", "verdict": "passed", "promoted": False}.items()
    assert aliases() == {} and moves() == []


def test_a_forced_version_becomes_champion_and_the_ledger_keeps_the_reason(landuse, smoke_in_process: None) -> None:
    code, out, err = landuse("promote", "2", "--force", "--reason", "the show must go on")
    assert (code, err) == (0, "") and "FAILED  accuracy" in out
    assert blessing().items() >= {"verdict": "refused", "promoted": True, "forced": True}.items()
    assert blessing()["reason"] == "the show must go on"
    assert moves() == ["force None 2 FINISHED"]
    assert "the show must go on" in landuse("history")[1]


@pytest.mark.parametrize("words", [["--force"], ["--reason", "so"], ["--force", "--reason", " "]])
def test_force_and_reason_go_together(landuse, words: list[str]) -> None:
    code, out, err = landuse("promote", "1", *words)
    assert (code, out) == (1, "") and err.startswith("landuse: --force and --reason TEXT go together")


def test_a_version_is_not_promoted_over_another_champion_than_it_was_judged_against(
    landuse, smoke_in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge_while_another_is_promoted(*arguments: Any) -> Blessing:
        make_champion(3)
        return gate.judge(*arguments)

    monkeypatch.setattr(promote, "judge", judge_while_another_is_promoted)
    code, _, err = landuse("promote", "1")
    assert code == 75 and "the champion of gallery became version 3 meanwhile: try again" in err
    assert assert_consistent() == "3" and not blessing()["promoted"]


def test_after_a_rollback_the_champion_has_its_own_blessing() -> None:
    with tracking.store():
        for action, before, after in (("promote", None, "1"), ("promote", "1", "3"), ("rollback", "3", "1")):
            number = str(len(audit_log.finished_entries(NAME)) + 1)
            entry = audit_log.add_tags(audit_log.open_entry(NAME, action, "so"), {"from": before, "to": after})
            entry = audit_log.add_tags(entry, {"number": number})
            if action == "promote":
                given = Blessing(NAME, after, before, "passed", True, False, None, "", "", 60, ())
                audit_log.attach_blessing(entry, given.to_dict())
            audit_log.close_entry(entry, audit_log.DONE)
        assert promote.blessing_of_champion(NAME, "1").version == "1"
        assert promote.blessing_of_champion(NAME, "3") is None


@pytest.mark.slow
def test_the_champion_is_not_judged_again_and_keeps_its_blessing(landuse, smoke_in_process: None) -> None:
    landuse("promote", "1")
    before = blessing()
    paths.BLESSING.unlink()
    assert landuse("promote", "1") == (0, ALREADY, "")
    assert blessing() == before and moves() == ["promote None 1 FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: tiny.scene("forest", 3).save(path)])
def test_the_champions_report_is_restored_if_its_images_are_missing(
    landuse, smoke_in_process: None, damage: Callable[[Path], object]
) -> None:
    landuse("promote", "1")
    before = paths.REPORT.read_bytes()
    damage(paths.DATA / "water" / "03.png")
    assert landuse("promote", "1") == (0, ALREADY, "")
    assert paths.REPORT.read_bytes() == before


@pytest.mark.slow
def test_a_champion_older_than_the_ledger_is_judged_and_entered(landuse, smoke_in_process: None) -> None:
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    assert landuse("promote", "1")[0] == 0
    assert moves() == ["promote 1 1 FINISHED"] and assert_consistent() == "1"


@pytest.mark.slow
def test_a_rolled_back_version_is_promoted_again_only_by_force(landuse, smoke_in_process: None) -> None:
    make_champion(2)
    make_champion(1)
    assert landuse("rollback") == (0, "gallery version 2 is the champion again\n", "")
    code, _, err = landuse("promote", "1")
    assert code == 3 and "gallery version 1 is refused: it was rolled back at 20" in err
    assert assert_consistent() == "2"


def test_a_rollback_without_a_previous_champion_is_refused(landuse, smoke_in_process: None) -> None:
    make_champion(1)
    code, out, err = landuse("rollback")
    assert (code, out) == (1, "") and "gallery has no champion to go back to: landuse history" in err
    assert assert_consistent() == "1"


@pytest.mark.slow
def test_a_rollback_to_a_damaged_version_keeps_the_champion(landuse, smoke_in_process: None) -> None:
    twin = str(gallery.register_twin(1).version)
    make_champion(twin)
    make_champion(3)
    location = MlflowClient().get_logged_model(logged_model_id(twin)).artifact_location.removeprefix("file://")
    Path(location, "artifacts", "model", "model.tflite").unlink()
    code, _, err = landuse("rollback")
    assert code == 1 and f"gallery version {twin} is damaged or lost" in err and err.count("\n") == 1
    assert aliases() == {"champion": "3", "previous_champion": twin}
    assert f"(undone); gallery version {twin} is damaged or lost" in landuse("history")[1].splitlines()[1]


def test_in_a_moved_project_the_remedy_to_find_its_models_is_named(landuse, smoke_in_process: None) -> None:
    location = MlflowClient().get_logged_model(logged_model_id("1")).artifact_location
    before = location.removeprefix("file://").partition("/mlruns/")[0]
    with closing(sqlite3.connect("mlflow.db")) as database:
        for table, column in (("model_versions", "storage_location"), ("experiments", "artifact_location")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, '/the old place')", [before])
        database.commit()
    Path("mlruns").mkdir(exist_ok=True)
    code, _, err = landuse("predict", "data", "--model", f"models:/{NAME}/1")
    assert code == 1 and err.count("\n") == 1
    assert err.endswith("; the project was in /the old place: ln -s \"$PWD\" '/the old place'\n")


def logged_model_id(number: str) -> str:
    return MlflowClient().get_model_version(NAME, number).source.rpartition("/")[2]


def test_history_lists_aliases_and_moves_newest_first(landuse, smoke_in_process: None) -> None:
    assert landuse("history")[1] == "gallery: challenger 4\n"
    make_champion(1)
    make_champion(3, "force")
    landuse("rollback")
    first, *lines = landuse("history")[1].splitlines()
    assert first == "gallery: challenger 4, champion 1"
    assert [line.split()[1:5] for line in lines] == [
        ["rollback", "3", "->", "1"],
        ["force", "1", "->", "3"],
        ["promote", "-", "->", "1"],
    ]


def test_compare_shows_both_versions_on_the_same_images(landuse) -> None:
    code, out, err = landuse("compare", "3", "1")
    assert (code, err) == (0, "")
    rows = {line[:24].strip(): line[24:].split() for line in out.splitlines()}
    assert rows["accuracy"] == ["0.6667", "1.0000"] and rows["recall water"] == ["0.0000", "1.0000"]
    assert rows["recall field"] == ["1.0000", "1.0000"]
    assert "on 60 of the 60 held-out images of version 1" in out
    assert "right only by the first: 0, only by the second: 20 (p < 0.001)" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["promote", "9"], "gallery has no version 9 in the registry"),
        (["promote", "latest"], "gallery has no version latest in the registry"),
        (["compare", "1", "9"], "gallery has no version 9 in the registry"),
        (["rollback"], "gallery has no champion to go back to"),
    ],
)
def test_a_version_that_does_not_exist_is_named(landuse, words: list[str], expected: str) -> None:
    code, out, err = landuse(*words)
    assert (code, out) == (1, "") and expected in err and err.count("\n") == 1


def test_a_report_that_cannot_be_written_does_not_stop_the_promotion(landuse, smoke_in_process: None) -> None:
    paths.REPORT.mkdir()
    code, out, err = landuse("promote", "1")
    assert (code, err) == (0, "") and assert_consistent() == "1" and blessing()["promoted"]
    assert "gallery version 1 is the champion, but has no report yet (" in out and "landuse promote again" in out
    paths.REPORT.rmdir()
    assert landuse("promote", "1")[0] == 0 and paths.REPORT.exists()


def test_a_fresh_process_that_times_out_is_not_a_verdict_on_the_version(
    landuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_test, "SECONDS", 0.01)
    code, _, err = landuse("promote", "1")
    assert code == 75 and "does not answer in a fresh process within 0.01 s" in err and err.count("\n") == 1
    assert "gate.verdict" not in tags("1") and aliases() == {} and not moves()


def test_without_a_challenger_the_remedy_is_named(landuse) -> None:
    MlflowClient().delete_registered_model_alias(NAME, "challenger")
    code, _, err = landuse("promote")
    assert code == 1 and "gallery has no challenger: dvc repro registers one" in err


@pytest.mark.parametrize("verb", ["promote", "rollback", "history", "compare 1 2", "verify 1"])
def test_a_model_that_was_never_registered_is_named_with_the_remedy(landuse, verb: str) -> None:
    path = Path("params.yaml")
    path.write_text(path.read_text().replace(f"model: {NAME}", "model: unheard"))
    code, out, err = landuse(*verb.split())
    assert (code, out) == (1, "") and "unheard" in err and err.count("\n") == 1


@pytest.mark.parametrize("verb", ["promote", "rollback", "history", "compare 1 2", "verify 1"])
def test_an_unavailable_store_is_named_and_nothing_changes(landuse, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, out, err = landuse(*verb.split())
    assert (code, out) == (75, "") and "http://127.0.0.1:9" in err and "MLFLOW_TRACKING_URI" in err
    assert not paths.BLESSING.exists()


@pytest.mark.slow
def test_an_alias_moved_by_hand_blocks_promote_and_rollback_until_forced(landuse, smoke_in_process: None) -> None:
    make_champion(1)
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")
    for verb in ("promote", "rollback"):
        code, _, err = landuse(verb)
        assert code == 1 and "by the ledger it is version 1: the alias was moved by hand" in err
    assert "by the ledger it is version 1" in landuse("history")[1].splitlines()[1]
    assert landuse("promote", "1", "--force", "--reason", "put it back")[0] == 0
    assert assert_consistent() == "1"


@pytest.mark.slow
def test_the_real_command_promotes_through_fresh_processes() -> None:
    done = subprocess.run([LANDUSE, "promote", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "passed  fresh_process" in done.stdout
    assert moves() == ["promote None 1 FINISHED"] and assert_consistent() == "1"


@pytest.mark.slow
def test_a_command_killed_while_moving_the_champion_is_repaired_by_the_next(smoke_in_process: None) -> None:
    make_champion(3)
    command = subprocess.Popen([LANDUSE, "promote", "1"], stdout=subprocess.DEVNULL)
    end = monotonic() + 300
    while not is_moving() and command.poll() is None and monotonic() < end:
        sleep(0.05)
    command.send_signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    assert moves()[-1].endswith(" RUNNING")
    done = subprocess.run([LANDUSE, "history"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stopped" in done.stdout.splitlines()[2]
    assert assert_consistent() in ("3", "1")


def is_moving() -> bool:
    with tracking.store():
        return bool(audit_log.entries(NAME, audit_log.OPEN))
