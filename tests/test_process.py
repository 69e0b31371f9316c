"""Identifying a process, and whether it is still running."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from landuse.core.process import BOOT, HOST, PID, STARTED, end_group, identity, is_gone, is_running_here, record_process

ELSEWHERE = {HOST: "elsewhere", BOOT: "another start"}
WAITING = (sys.executable, "-c", "input()")


def test_this_process_is_running() -> None:
    assert identity()[PID] == str(os.getpid())
    assert identity() == identity(os.getpid()) and not is_gone(identity())


def test_a_killed_process_is_gone_before_and_after_its_parent_reaps_it() -> None:
    with subprocess.Popen(WAITING, stdin=subprocess.PIPE) as process:
        tags = identity(process.pid)
        assert not is_gone(tags)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(tags), "a zombie"
    assert is_gone(tags)


def test_a_process_that_reuses_a_pid_is_another_process() -> None:
    assert is_gone(identity() | {STARTED: "1.00"})


def test_a_process_is_recognized_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before, boot = identity(), psutil.boot_time()
    for place in ("psutil.boot_time", "psutil._pslinux.boot_time"):
        monkeypatch.setattr(place, lambda: boot + 365 * 86400)
    assert psutil.Process().create_time() > time.time(), "as if the clock had been a year behind until now"
    assert not is_gone(before)


def test_a_process_of_another_machine_or_an_unknown_one_does_not_count_as_gone() -> None:
    assert not is_gone(identity() | ELSEWHERE | {STARTED: "1.00"})
    assert not is_gone({})


def test_a_process_is_recognized_after_its_machine_was_renamed(
    leader: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = identity(leader.pid)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert is_running_here(tags) and is_gone(tags | {STARTED: "1.00"})
    assert end_group(tags) and leader.wait() == -signal.SIGKILL


def test_a_process_file_keeps_its_content_until_the_next_is_written_completely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    record_process(path, os.getpid())
    assert json.loads(path.read_text()) == identity()

    def killed(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record_process(path, os.getppid())
    assert json.loads(path.read_text()) == identity()


FAMILY = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "input()"]).pid)
input()
"""


@pytest.fixture
def leader() -> Iterator[subprocess.Popen]:
    """Start a process group leader with a child; both wait."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-u", "-c", FAMILY], text=True, start_new_session=True, **pipes) as process:
        yield process
        process.kill()


def test_a_group_is_killed_even_after_its_leader_has_ended(leader: subprocess.Popen) -> None:
    child, tags = identity(int(leader.stdout.readline())), identity(leader.pid)
    leader.kill()
    leader.wait()
    assert is_gone(tags) and not is_gone(child)
    assert end_group(tags)
    while not is_gone(child):
        time.sleep(0.01)


def test_the_group_of_another_machine_or_another_process_is_left_alone(leader: subprocess.Popen) -> None:
    tags = identity(leader.pid)
    assert not end_group(tags | ELSEWHERE) and not end_group(tags | {STARTED: "1.00"})
    assert leader.poll() is None
    assert end_group(tags) and leader.wait() == -signal.SIGKILL
