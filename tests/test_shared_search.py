"""Agreement of processes that search together: how many trials there are, whose each is, and which are lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import text

from landuse.core import process
from landuse.tune.search import PROCESS, Search, open_search
from landuse.tune.storage import GRACE_SECONDS
from landuse.tune.study import VALUES, count_ended

TRIALS, PROCESSES = 40, 3
QUICK_TRIALS = f"""
import sys
from optuna.trial import TrialState
from landuse.tune.search import open_search
from landuse.tune.study import VALUES, count_ended

with open_search("quick", sys.argv[1] or None) as search:
    while count_ended(search.study) < {TRIALS}:
        if trial := search.ask({TRIALS}, {{"x": 0.5}}, 1):
            trial.set_user_attr(VALUES, {{"x": trial.suggest_float("x", 0, 1)}})
            search.tell(trial, TrialState.COMPLETE, 0.5)
"""


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Search]:
    """A search in a file."""
    monkeypatch.chdir(tmp_path)
    with open_search("shared", None) as search:
        yield search


def search_in_processes(address: str) -> None:
    """Complete a search in several processes at once."""
    command = [sys.executable, "-c", QUICK_TRIALS, address]
    processes = [
        subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) for _ in range(PROCESSES)
    ]
    assert [process.wait(120) for process in processes] == [0] * PROCESSES


def assert_complete(address: str | None) -> None:
    with open_search("quick", address) as search:
        trials = search.study.trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.user_attrs[VALUES]["x"] for trial in trials}) == TRIALS and trials[0].params == {"x": 0.5}
    assert len({trial.user_attrs[PROCESS][process.PID] for trial in trials}) > 1


@pytest.mark.slow
def test_no_trial_is_lost_doubled_or_too_many_however_many_processes_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search_in_processes("")
    assert_complete(None)


def test_a_trial_of_a_live_process_is_left_to_it(search: Search) -> None:
    trial = search.ask(1, None, 1)
    assert search.ask(1, None, 1) is None
    search.tell(trial, TrialState.COMPLETE, 0.5)
    assert count_ended(search.study) == 1 and search.ask(1, None, 1) is None


@pytest.mark.parametrize("started", ["0.00", None])
def test_a_trial_whose_process_is_gone_from_this_machine_is_made_again_at_once(
    search: Search, started: str | None
) -> None:
    first = {"x": 0.5}
    lost = search.ask(1, first, 1)
    gone = process.identity() | {process.STARTED: started} if started else None
    lost.set_user_attr(PROCESS, gone)
    again = search.ask(1, first, 1)
    assert (again.number, again.user_attrs[VALUES]) == (1, first), "the current values are tried first, again"
    assert [trial.state for trial in search.study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_a_trial_on_another_machine_is_lost_once_nobody_confirms_it(search: Search) -> None:
    elsewhere = process.identity() | {process.BOOT: "another", process.STARTED: "0.00"}
    trial = search.ask(1, None, 1)
    trial.set_user_attr(PROCESS, elsewhere)
    assert search.ask(1, None, 1) is None, "it is known to nobody here whether that process is gone"
    with search.storage.engine.begin() as connection:
        connection.execute(
            text(f"UPDATE trial_heartbeats SET heartbeat = datetime('now', '-{GRACE_SECONDS + 5} seconds')")
        )
    assert search.ask(1, None, 1).number == 1
    with pytest.raises(UpdateFinishedTrialError):
        search.tell(trial, TrialState.COMPLETE, 0.9)
    assert count_ended(search.study) == 0


def test_an_error_gives_a_trial_back(search: Search) -> None:
    with pytest.raises(KeyboardInterrupt), search.working_on(search.ask(1, None, 1)):
        raise KeyboardInterrupt
    assert search.ask(1, None, 1).number == 1


def test_a_trial_at_work_is_confirmed_again_and_again(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landuse.tune.search.BEAT_SECONDS", 0.01)
    trial = search.ask(1, None, 1)
    with search.storage.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = '2000-01-01'"))
    with search.working_on(trial):
        for _ in range(500):
            with search.storage.engine.connect() as connection:
                [(beat,)] = connection.execute(text("SELECT heartbeat FROM trial_heartbeats")).all()
            if not str(beat).startswith("2000"):
                return
    raise AssertionError(beat)
