"""The commands of a flow: logged line by line, ended in time, found again after a kill, one flow at a time."""

import json
import logging
import os
import signal
import subprocess
import time
from collections import deque
from pathlib import Path

import psutil
import pytest
from prefect.states import Completed, Failed
from processes import python, wait_until

from landuse.core.errors import LanduseError
from landuse.core.paths import SERVICES
from landuse.core.process import STARTED, identity, is_gone, kill_group
from pipelines.ingestion import push
from pipelines.steps import commands
from pipelines.steps.commands import (
    JOB,
    Busy,
    CommandFailed,
    NoTraceback,
    alone,
    command_environment,
    end_job,
    failure,
    may_pass,
    run,
    when_free,
)

FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
child.wait()
"""
FLOW = """
import logging, sys
from pipelines.steps import commands
commands.get_run_logger = lambda: logging.getLogger("run")
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
with commands.alone():
    commands.run(sys.executable, "-c", sys.argv[1])
"""


@pytest.fixture
def flow(place: Path):
    """Starts a flow in a process of its own that runs a script as its command; ended with what it started."""
    started: list[subprocess.Popen] = []

    def start(script: str) -> subprocess.Popen:
        command = (*python(FLOW), script)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    end_job()
    for process in started:
        kill_group(process.pid)
        process.communicate()


def first_number(flow: subprocess.Popen) -> int:
    """What the flow's command prints first: the pid of its child."""
    return int(flow.stdout.readline())


# Run


def test_every_line_is_logged_and_watched_and_the_last_ones_are_returned(place: Path, caplog) -> None:
    script = "import sys; print('one'); print(); print('two', file=sys.stderr); print('three  ')"
    seen = []
    said = run(*python(script), watch=seen.append)
    assert said.splitlines() == seen == caplog.messages == ["one", "two", "three"]
    assert not JOB.exists()


def test_lines_come_while_the_command_works(place: Path) -> None:
    script = "import pathlib, time; print('a')\nwhile not pathlib.Path('seen').exists(): time.sleep(0.01)\nprint('b')"
    assert run(*python(script), seconds=60, watch=lambda line: Path("seen").touch()) == "a\nb"


def test_of_many_lines_the_last_are_kept(place: Path) -> None:
    assert run(*python("print(*range(1000), sep='\\n')")).splitlines() == [str(number) for number in range(800, 1000)]


def test_a_line_that_is_no_text_does_not_end_the_flow(place: Path) -> None:
    assert run(*python("import sys; sys.stdout.buffer.write(b'caf\\xe9\\n')")) == "caf\N{REPLACEMENT CHARACTER}"


def test_a_command_works_in_its_folder_and_is_asked_nothing(place: Path) -> None:
    (place / "copy").mkdir()
    script = "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"
    assert run(*python(script), folder=Path("copy")) == f"{place / 'copy'} ''"


def test_a_command_finds_this_environment_and_the_store_of_the_project(place: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "Usage" in run("landuse", "--help", folder=Path("inbox"))
    assert command_environment()["MLFLOW_TRACKING_URI"] == f"sqlite:///{place}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert command_environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


@pytest.fixture
def stages(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one stage that touches a file, in which nobody waits for long; DVC's list of who is at work."""
    (project / "dvc.yaml").write_text("stages: {touch: {cmd: touch there, outs: [there]}}\n")
    monkeypatch.setattr(commands, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("run"))
    SERVICES.mkdir()
    (project / ".dvc" / "tmp").mkdir()
    return project / ".dvc" / "tmp" / "rwlock"


def writer(folder: Path, pid: int) -> str:
    """DVC's list of who is at work, where one process writes what the stage makes."""
    return json.dumps({"write": {str(folder / "there"): {"pid": pid, "cmd": "dvc repro"}}})


def test_what_finds_another_dvc_at_work_waits_until_that_has_ended_and_the_log_says_for_what(
    stages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with subprocess.Popen(python("import time; time.sleep(3)")) as other:
        stages.write_text(writer(Path.cwd(), other.pid))
        when_free(lambda: run("dvc", "repro"))
        assert other.wait() == 0 and Path("there").exists()
    waited = [line for line in caplog.messages if "waiting for it to end" in line]
    assert f"(PID {other.pid}): dvc repro" in waited[0] and "\n" not in waited[0]


@pytest.mark.parametrize("what", [writer(Path(), os.getpid()), '{"write": {"/there'], ids=["pid given anew", "half"])
def test_nobody_waits_for_what_dvc_only_takes_for_another_at_work(stages: Path, what: str) -> None:
    stages.write_text(what.replace('"there', f'"{Path.cwd()}/there'))
    os.utime(stages, (0, 0))
    when_free(lambda: run("dvc", "repro"))
    assert Path("there").exists()


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(place: Path) -> None:
    children = []
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match="took more than 5 s and was ended") as late:
        run(*python(FAMILY), seconds=5, watch=lambda line: children.append(identity(int(line))))
    assert time.monotonic() - begin < 30
    wait_until(lambda: is_gone(children[0]))
    assert late.value.exit_code == 75, "it may be faster the next time"
    assert not JOB.exists()


def test_where_what_watches_fails_the_command_is_ended(place: Path) -> None:
    children = []

    def watch(line: str) -> None:
        children.append(identity(int(line)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*python(FAMILY), watch=watch)
    wait_until(lambda: is_gone(children[0]))
    assert not JOB.exists()


# Why it failed


def test_a_command_that_fails_says_its_last_line_and_its_code(place: Path) -> None:
    with pytest.raises(CommandFailed, match="^the end$") as failed:
        run(*python("print('a note'); print('the end'); raise SystemExit(4)"))
    assert failed.value.exit_code == 4


def test_a_command_that_says_nothing_is_known_by_its_code(place: Path) -> None:
    with pytest.raises(CommandFailed, match="^exit code 5$"):
        run(*python("raise SystemExit(5)"))


def test_the_line_and_the_code_of_what_failed_inside_dvc_are_found(place: Path, project: Path) -> None:
    SERVICES.mkdir()
    script = "echo 'landuse: the store is away' >&2; echo more; exit 75"
    Path("dvc.yaml").write_text(json.dumps({"stages": {"train": {"cmd": script}}}))
    with pytest.raises(CommandFailed, match="^the store is away$") as failed:
        run("dvc", "repro", "--single-item", "train")
    assert failed.value.exit_code == 75


def test_an_error_of_dvc_itself_is_its_first_and_not_its_advice(place: Path) -> None:
    lines = ["Running", "ERROR: failed to pull", "ERROR: another", "Having any troubles? Hit us up"]
    found = failure(deque(lines), 255, of_dvc=True)
    assert (str(found), found.exit_code) == ("failed to pull", 255)


def test_a_file_of_dvc_with_both_sides_of_a_merge_is_named(stages: Path) -> None:
    Path("dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n=======\n>>>>>>> theirs\n")
    with pytest.raises(CommandFailed, match=r"^'\./dvc\.lock' is invalid \(possible merge conflicts\)\.$"):
        run("dvc", "repro")


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: Unable to acquire lock. Most likely another DVC process is running",
        "ERROR: '/p/artifacts' is busy, it is being blocked by:",
    ],
)
def test_a_dvc_that_finds_another_at_work_is_told_from_one_that_failed(line: str) -> None:
    assert isinstance(failure(deque([line]), 255, of_dvc=True), Busy)
    assert not isinstance(failure(deque(["ERROR: no such stage"]), 255, of_dvc=True), Busy)


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (Failed(data=CommandFailed("away", 75)), True),
        (Failed(data=CommandFailed("refused", 3)), False),
        (Failed(data=CommandFailed("wrong", 1)), False),
        (Failed(data=ValueError("a bug")), False),
        (Completed(data=1), False),
    ],
)
def test_only_what_may_pass_is_tried_again(state, again: bool) -> None:
    assert may_pass(None, None, state) is again


def test_a_failed_command_is_logged_without_a_traceback_and_a_bug_with_it() -> None:
    def record(error: Exception) -> logging.LogRecord:
        made = logging.LogRecord("run", logging.ERROR, "", 0, "failed", None, (type(error), error, None))
        assert NoTraceback().filter(made)
        return made

    assert record(LanduseError("wrong")).exc_info is None
    assert record(ValueError("a bug")).exc_info


# One at a time


def test_a_flow_within_a_flow_passes_and_the_lock_opens_at_the_end_of_the_outer(flow) -> None:
    with alone():
        with alone():
            pass
        waiting = flow("print('in')")
        assert "waiting for it to end" in waiting.stdout.readline()
    assert waiting.stdout.readline() == "in\n" and waiting.wait() == 0


@pytest.mark.slow
def test_a_flow_waits_for_another_process_to_end(flow, caplog) -> None:
    other = flow("import time; print('first', flush=True); time.sleep(1)")
    other.stdout.readline()
    with alone():
        assert other.wait(timeout=5) == 0
    assert caplog.messages == ["Another flow in this project is at work: waiting for it to end"]


def test_a_flow_within_a_flow_does_not_end_the_command_at_hand(place: Path) -> None:
    with alone():
        process = subprocess.Popen(python("import time; time.sleep(60)"), start_new_session=True)
        JOB.write_text(json.dumps(identity(process.pid)))
        with alone():
            assert process.poll() is None
        end_job()
        assert process.wait() == -signal.SIGKILL


def test_what_the_command_of_a_killed_flow_started_is_ended_by_the_next_flow(flow) -> None:
    killed = flow(FAMILY)
    child = identity(first_number(killed))
    leader = json.loads(JOB.read_text())
    killed.kill()
    killed.wait()
    assert not is_gone(leader) and not is_gone(child)
    with alone():
        wait_until(lambda: is_gone(leader) and is_gone(child))
        assert not JOB.exists()


def test_a_note_of_a_command_that_a_power_cut_left_empty_hinders_no_flow(place: Path) -> None:
    JOB.write_text("")
    with alone():
        assert not JOB.exists()


def test_a_child_that_outlived_the_command_of_a_killed_flow_is_ended_too(flow) -> None:
    killed = flow(FAMILY)
    child = identity(first_number(killed))
    for pid in (killed.pid, int(json.loads(JOB.read_text())["process.id"])):
        psutil.Process(pid).kill()
    assert not is_gone(child)
    with alone():
        wait_until(lambda: is_gone(child))


def test_a_stranger_with_the_number_of_a_command_that_is_gone_is_left_alone(place: Path) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        JOB.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        end_job()
        time.sleep(0.2)
        assert psutil.pid_exists(stranger.pid) and stranger.poll() is None and not JOB.exists()
        stranger.communicate(b"\n")


@pytest.fixture
def versioned(stages: Path) -> None:
    """The same project with a data set that DVC knows."""
    Path("data").mkdir()
    Path("data/image.png").touch()
    subprocess.run(("dvc", "add", "--quiet", "data"), check=True)


def test_a_data_set_is_copied_to_the_remote(versioned: None) -> None:
    push.fn()
    assert len([path for path in Path(".dvc/storage").rglob("*") if path.is_file()]) == 2, "the image, and the list"


def test_without_a_remote_nothing_is_copied(versioned: None) -> None:
    subprocess.run(("dvc", "config", "--unset", "core.remote"), check=True)
    push.fn()
    assert not Path(".dvc/storage").exists()


def test_a_remote_that_is_away_is_tried_again(versioned: None) -> None:
    subprocess.run(("dvc", "remote", "add", "--quiet", "--default", "away", "http://127.0.0.1:9/landuse"), check=True)
    with pytest.raises(CommandFailed, match="^dvc push: ") as away:
        push.fn()
    assert away.value.exit_code == 75


@pytest.mark.parametrize(
    "name", ["exited with 75", "RWLock-file", "Unable to acquire lock", "x is busy, it is being blocked by"]
)
def test_what_a_name_from_outside_says_is_neither_an_exit_code_nor_a_busy_dvc(name: str) -> None:
    found = failure(deque([f"landuse: inbox/{name} is not let in"]), 3, of_dvc=False)
    assert type(found) is CommandFailed and (found.exit_code, name in str(found)) == (3, True)
