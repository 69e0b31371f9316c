"""Commands of a flow: logged line by line, limited in time, cleaned up after a kill, one flow at a time."""

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
    CommandFailed,
    DvcBusy,
    RunLogFilter,
    command_environment,
    command_error,
    flow_lock,
    is_transient,
    kill_orphaned_job,
    retry_while_busy,
    run,
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
with commands.flow_lock():
    commands.run(sys.executable, "-c", sys.argv[1])
"""


@pytest.fixture
def flow(work_dir: Path):
    """Function that starts a flow in its own process, with a script as its command; killed at the end."""
    started: list[subprocess.Popen] = []

    def start(script: str) -> subprocess.Popen:
        command = (*python(FLOW), script)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    kill_orphaned_job()
    for process in started:
        kill_group(process.pid)
        process.communicate()


def child_pid(flow: subprocess.Popen) -> int:
    """Return the first line of the flow's command: the PID of its child."""
    return int(flow.stdout.readline())


# Run


def test_every_line_is_logged_and_passed_on_and_the_last_ones_are_returned(work_dir: Path, caplog) -> None:
    script = "import sys; print('one'); print(); print('two', file=sys.stderr); print('three  ')"
    lines = []
    output = run(*python(script), on_line=lines.append)
    assert output.splitlines() == lines == caplog.messages == ["one", "two", "three"]
    assert not JOB.exists()


def test_lines_arrive_while_the_command_is_running(work_dir: Path) -> None:
    script = "import pathlib, time; print('a')\nwhile not pathlib.Path('seen').exists(): time.sleep(0.01)\nprint('b')"
    assert run(*python(script), timeout=60, on_line=lambda line: Path("seen").touch()) == "a\nb"


def test_only_the_last_lines_are_returned(work_dir: Path) -> None:
    assert run(*python("print(*range(1000), sep='\\n')")).splitlines() == [str(number) for number in range(800, 1000)]


def test_a_line_that_is_not_utf8_does_not_fail_the_flow(work_dir: Path) -> None:
    assert run(*python("import sys; sys.stdout.buffer.write(b'caf\\xe9\\n')")) == "caf\N{REPLACEMENT CHARACTER}"


def test_a_command_runs_in_its_folder_with_empty_stdin(work_dir: Path) -> None:
    (work_dir / "copy").mkdir()
    script = "import os, sys; print(os.getcwd(), repr(sys.stdin.read()))"
    assert run(*python(script), folder=Path("copy")) == f"{work_dir / 'copy'} ''"


def test_a_command_uses_this_environment_and_the_store_of_the_project(work_dir: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "Usage" in run("landuse", "--help", folder=Path("inbox"))
    assert command_environment()["MLFLOW_TRACKING_URI"] == f"sqlite:///{work_dir}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert command_environment()["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


@pytest.fixture
def rwlock(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of DVC's rwlock in a project with one stage that touches a file, with short waits."""
    (project / "dvc.yaml").write_text("stages: {touch: {cmd: touch there, outs: [there]}}\n")
    monkeypatch.setattr(commands, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("run"))
    SERVICES.mkdir()
    (project / ".dvc" / "tmp").mkdir()
    return project / ".dvc" / "tmp" / "rwlock"


def locked_by(folder: Path, pid: int) -> str:
    """Return the content of DVC's rwlock while a process writes the stage's output."""
    return json.dumps({"write": {str(folder / "there"): {"pid": pid, "cmd": "dvc repro"}}})


def test_a_command_waits_for_another_dvc_and_logs_which_one(rwlock: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with subprocess.Popen(python("import time; time.sleep(3)")) as other:
        rwlock.write_text(locked_by(Path.cwd(), other.pid))
        retry_while_busy(lambda: run("dvc", "repro"))
        assert other.wait() == 0 and Path("there").exists()
    waited = [line for line in caplog.messages if "waiting for it to end" in line]
    assert f"(PID {other.pid}): dvc repro" in waited[0] and "\n" not in waited[0]


@pytest.mark.parametrize(
    "content", [locked_by(Path(), os.getpid()), '{"write": {"/there'], ids=["reused pid", "truncated"]
)
def test_a_stale_or_damaged_rwlock_is_not_waited_for(rwlock: Path, content: str) -> None:
    rwlock.write_text(content.replace('"there', f'"{Path.cwd()}/there'))
    os.utime(rwlock, (0, 0))
    retry_while_busy(lambda: run("dvc", "repro"))
    assert Path("there").exists()


def test_a_command_is_killed_with_its_children_at_its_timeout(work_dir: Path) -> None:
    children = []
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match="took more than 5 s and was ended") as late:
        run(*python(FAMILY), timeout=5, on_line=lambda line: children.append(identity(int(line))))
    assert time.monotonic() - begin < 30
    wait_until(lambda: is_gone(children[0]))
    assert late.value.exit_code == 75, "it may be faster next time"
    assert not JOB.exists()


def test_the_command_is_killed_if_the_line_callback_fails(work_dir: Path) -> None:
    children = []

    def fail(line: str) -> None:
        children.append(identity(int(line)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*python(FAMILY), on_line=fail)
    wait_until(lambda: is_gone(children[0]))
    assert not JOB.exists()


# Reasons of failure


def test_a_failed_command_is_reported_by_its_last_line_and_exit_code(work_dir: Path) -> None:
    with pytest.raises(CommandFailed, match="^the end$") as failed:
        run(*python("print('a note'); print('the end'); raise SystemExit(4)"))
    assert failed.value.exit_code == 4


def test_a_failed_command_without_output_is_reported_by_its_exit_code(work_dir: Path) -> None:
    with pytest.raises(CommandFailed, match="^exit code 5$"):
        run(*python("raise SystemExit(5)"))


def test_the_reason_and_exit_code_of_a_stage_are_found_in_the_output_of_dvc(work_dir: Path, project: Path) -> None:
    SERVICES.mkdir()
    script = "echo 'landuse: the store is away' >&2; echo more; exit 75"
    Path("dvc.yaml").write_text(json.dumps({"stages": {"train": {"cmd": script}}}))
    with pytest.raises(CommandFailed, match="^the store is away$") as failed:
        run("dvc", "repro", "--single-item", "train")
    assert failed.value.exit_code == 75


def test_the_reason_of_a_dvc_error_is_its_first_line_and_not_its_advice(work_dir: Path) -> None:
    lines = ["Running", "ERROR: failed to pull", "ERROR: another", "Having any troubles? Hit us up"]
    error = command_error(deque(lines), 255, is_dvc=True)
    assert (str(error), error.exit_code) == ("failed to pull", 255)


def test_a_dvc_file_with_merge_conflicts_is_named(rwlock: Path) -> None:
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
def test_a_busy_dvc_is_distinguished_from_a_failed_one(line: str) -> None:
    assert isinstance(command_error(deque([line]), 255, is_dvc=True), DvcBusy)
    assert not isinstance(command_error(deque(["ERROR: no such stage"]), 255, is_dvc=True), DvcBusy)


@pytest.mark.parametrize(
    ("state", "transient"),
    [
        (Failed(data=CommandFailed("away", 75)), True),
        (Failed(data=CommandFailed("refused", 3)), False),
        (Failed(data=CommandFailed("wrong", 1)), False),
        (Failed(data=ValueError("a bug")), False),
        (Completed(data=1), False),
    ],
)
def test_only_temporary_failures_are_transient(state, transient: bool) -> None:
    assert is_transient(None, None, state) is transient


def test_a_failed_command_is_logged_without_a_traceback_and_a_bug_with_one() -> None:
    def record(error: Exception) -> logging.LogRecord:
        log_record = logging.LogRecord("run", logging.ERROR, "", 0, "failed", None, (type(error), error, None))
        assert RunLogFilter().filter(log_record)
        return log_record

    assert record(LanduseError("wrong")).exc_info is None
    assert record(ValueError("a bug")).exc_info


# One at a time


def test_a_subflow_passes_the_lock_which_opens_at_the_end_of_the_outer_flow(flow) -> None:
    with flow_lock():
        with flow_lock():
            pass
        waiting = flow("print('in')")
        assert "waiting for it to end" in waiting.stdout.readline()
    assert waiting.stdout.readline() == "in\n" and waiting.wait() == 0


@pytest.mark.slow
def test_a_flow_waits_for_a_flow_in_another_process(flow, caplog) -> None:
    other = flow("import time; print('first', flush=True); time.sleep(1)")
    other.stdout.readline()
    with flow_lock():
        assert other.wait(timeout=5) == 0
    assert caplog.messages == ["Another flow in this project is at work: waiting for it to end"]


def test_a_subflow_does_not_kill_the_current_command(work_dir: Path) -> None:
    with flow_lock():
        process = subprocess.Popen(python("import time; time.sleep(60)"), start_new_session=True)
        JOB.write_text(json.dumps(identity(process.pid)))
        with flow_lock():
            assert process.poll() is None
        kill_orphaned_job()
        assert process.wait() == -signal.SIGKILL


def test_the_next_flow_kills_the_command_of_a_killed_flow(flow) -> None:
    killed = flow(FAMILY)
    child = identity(child_pid(killed))
    leader = json.loads(JOB.read_text())
    killed.kill()
    killed.wait()
    assert not is_gone(leader) and not is_gone(child)
    with flow_lock():
        wait_until(lambda: is_gone(leader) and is_gone(child))
        assert not JOB.exists()


def test_an_empty_job_file_left_by_a_power_cut_is_removed(work_dir: Path) -> None:
    JOB.write_text("")
    with flow_lock():
        assert not JOB.exists()


def test_the_next_flow_kills_children_that_outlived_the_command_of_a_killed_flow(flow) -> None:
    killed = flow(FAMILY)
    child = identity(child_pid(killed))
    for pid in (killed.pid, int(json.loads(JOB.read_text())["process.id"])):
        psutil.Process(pid).kill()
    assert not is_gone(child)
    with flow_lock():
        wait_until(lambda: is_gone(child))


def test_an_unrelated_process_with_a_reused_pid_is_left_alone(work_dir: Path) -> None:
    with subprocess.Popen(python("input()"), stdin=subprocess.PIPE, start_new_session=True) as stranger:
        JOB.write_text(json.dumps(identity(stranger.pid) | {STARTED: "1.00"}))
        kill_orphaned_job()
        time.sleep(0.2)
        assert psutil.pid_exists(stranger.pid) and stranger.poll() is None and not JOB.exists()
        stranger.communicate(b"\n")


@pytest.fixture
def versioned(rwlock: Path) -> None:
    """The same project with a data set tracked by DVC."""
    Path("data").mkdir()
    Path("data/image.png").touch()
    subprocess.run(("dvc", "add", "--quiet", "data"), check=True)


def test_push_copies_the_data_set_to_the_remote(versioned: None) -> None:
    push.fn()
    assert len([path for path in Path(".dvc/storage").rglob("*") if path.is_file()]) == 2, "the image, and the list"


def test_without_a_remote_nothing_is_pushed(versioned: None) -> None:
    subprocess.run(("dvc", "config", "--unset", "core.remote"), check=True)
    push.fn()
    assert not Path(".dvc/storage").exists()


def test_an_unreachable_remote_is_a_temporary_failure(versioned: None) -> None:
    subprocess.run(("dvc", "remote", "add", "--quiet", "--default", "away", "http://127.0.0.1:9/landuse"), check=True)
    with pytest.raises(CommandFailed, match="^dvc push: ") as away:
        push.fn()
    assert away.value.exit_code == 75


@pytest.mark.parametrize(
    "name", ["exited with 75", "RWLock-file", "Unable to acquire lock", "x is busy, it is being blocked by"]
)
def test_a_file_name_is_not_mistaken_for_an_exit_code_or_a_busy_dvc(name: str) -> None:
    error = command_error(deque([f"landuse: inbox/{name} is not let in"]), 3, is_dvc=False)
    assert type(error) is CommandFailed and (error.exit_code, name in str(error)) == (3, True)
