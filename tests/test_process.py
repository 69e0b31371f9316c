"""Which process it was, and whether it is still at work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from landuse.process import HOST, PID, STARTED, identity, is_gone, note

WAITING = (sys.executable, "-c", "input()")


def test_this_process_is_at_work() -> None:
    assert identity()[PID] == str(os.getpid())
    assert identity() == identity(os.getpid()) and not is_gone(identity())


def test_a_process_that_was_killed_is_gone_before_and_after_its_parent_takes_note() -> None:
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as process:
        tags = identity(process.pid)
        assert not is_gone(tags)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(tags), "a zombie"
    assert is_gone(tags)


def test_a_process_that_was_given_the_number_of_another_is_not_the_other() -> None:
    assert is_gone(identity() | {STARTED: "1.00"})


def test_nothing_is_known_of_a_process_of_another_machine_or_of_none() -> None:
    assert not is_gone(identity() | {HOST: "elsewhere", STARTED: "1.00"})
    assert not is_gone({})


def test_a_note_is_of_one_process_and_keeps_what_it_says_until_the_next_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    note(path, os.getpid())
    assert json.loads(path.read_text()) == identity()

    def killed(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        note(path, os.getppid())
    assert json.loads(path.read_text()) == identity()
