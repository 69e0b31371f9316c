"""A stage that is stopped while DVC writes dvc.lock leaves it as it was."""

from pathlib import Path

import pytest

from pipelines.steps.commands import CommandFailed, alone
from pipelines.steps.lockfile import kept_whole

WHOLE = "stages:\n  split:\n    cmd: landuse split\n    outs: [splits]\n"
NEWER = WHOLE + "  train:\n    cmd: landuse train\n"
CMD = "stages:\n  split:\n    cmd: landuse split\n"
HALVES = ["", "sta", "stages:\n", CMD, WHOLE[:-1], CMD.replace("split", "train"), "\t: ["]


@pytest.fixture
def lock(place: Path) -> Path:
    """A whole dvc.lock in the folder in use."""
    path = Path("dvc.lock")
    path.write_text(WHOLE)
    return path


def test_what_dvc_wrote_stays_where_the_stage_came_to_its_end(lock: Path) -> None:
    with kept_whole(Path()):
        lock.write_text(NEWER)
    with alone():
        assert lock.read_text() == NEWER


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), CommandFailed("killed", -9)], ids=["the flow", "its command"])
def test_where_the_stage_is_stopped_the_old_one_comes_back(lock: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)), kept_whole(Path()):
        lock.write_text(HALVES[1])
        raise stop
    assert lock.read_text() == WHOLE


def test_where_the_stage_fails_what_others_wrote_stays(lock: Path) -> None:
    with pytest.raises(CommandFailed), kept_whole(Path()):
        lock.write_text(NEWER)
        raise CommandFailed("busy", 255)
    with alone():
        assert lock.read_text() == NEWER


@pytest.mark.parametrize("half", HALVES)
def test_what_a_killed_flow_left_is_mended_by_the_next_one(lock: Path, half: str) -> None:
    stopped = kept_whole(Path())
    stopped.__enter__()
    lock.write_text(half)
    with alone():
        assert lock.read_text() == WHOLE


def test_a_lock_that_was_lost_with_a_killed_flow_comes_back(lock: Path) -> None:
    stopped = kept_whole(Path())
    stopped.__enter__()
    lock.unlink()
    with alone():
        assert lock.read_text() == WHOLE


def test_what_was_run_by_hand_after_a_flow_was_killed_stays(lock: Path) -> None:
    stopped = kept_whole(Path())
    stopped.__enter__()
    lock.write_text(NEWER)
    with alone():
        pass
    with alone():
        assert lock.read_text() == NEWER


def test_a_project_that_has_none_yet_is_left_alone(place: Path) -> None:
    with kept_whole(Path()):
        pass
    assert not Path("dvc.lock").exists()
