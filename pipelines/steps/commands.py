"""Commands that a flow runs: every line is logged, and nothing outlives its flow for long."""

import logging
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Timer
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from httpx import HTTPError
from prefect.logging import get_logger, get_run_logger

from landuse.core.errors import LanduseError, Unavailable, printable, safe_traceback
from landuse.core.paths import SERVICES, absolute_tracking_uri
from landuse.core.process import end_group, kill_group, read_json_or_empty, record_process
from landuse.core.proxies import restore_hidden_proxies
from landuse.params import load_params
from landuse.project import dvc_repo
from landuse.recovery import recover_interrupted
from pipelines.services.locks import file_lock
from pipelines.services.orphans import write_pid_file
from pipelines.services.processes import BIN
from pipelines.steps.lockfile import restore_lockfile

if TYPE_CHECKING:  # its import sets up logging, and takes a second
    from prefect import State, Task

BUSY_SECONDS = 5
LOCK, JOB = SERVICES / "lock", SERVICES / "job.json"
TAIL_LINES = 200
TEMPORARY = Unavailable.exit_code
BUSY = "Unable to acquire lock|is busy, it is being blocked by|RWLock-file"
DVC_ERROR = "ERROR: |'.+' is invalid"  # start of the line with which DVC fails
BLOCKER = r"\s*\(PID \d+\): "
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class CommandFailed(LanduseError):
    """A command failed, with the reason it printed. `exit_code` is that of `landuse`, even if DVC ran it."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class CommandTimeout(CommandFailed):
    """A command was killed at its time limit."""


class DvcBusy(CommandFailed):
    """Another DVC command is running in the project, or DVC mistakes a dead one for it."""


class RunLogFilter(logging.Filter):
    """Log a failed command or request by its reason alone: a traceback would help nobody.

    Secrets and control characters are removed from every record, since Prefect stores and shows it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], (LanduseError, HTTPError)):
            record.exc_info = None
        elif record.exc_info and record.exc_info[1]:
            record.exc_text = safe_traceback(record.exc_info[1])
        record.msg, record.args = "\n".join(map(printable, record.getMessage().split("\n"))), ()
        return True


RUN_LOG_FILTER = RunLogFilter()


@contextmanager
def flow_lock() -> Iterator[None]:
    """Run one flow at a time in this project; subflows pass. The first step cleans up after a killed flow."""
    SERVICES.mkdir(exist_ok=True)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        get_logger(name).addFilter(RUN_LOG_FILTER)
    write_pid_file()
    with file_lock(LOCK, "Another flow in this project", get_run_logger().info) as lock:
        if lock.lock_counter == 1:
            kill_orphaned_job()
            restore_lockfile(Path())
            recover_interrupted()
        yield


def kill_orphaned_job() -> None:
    """Kill the command of a killed flow, with everything it started."""
    if tags := read_json_or_empty(JOB):
        end_group(tags)
    JOB.unlink(missing_ok=True)


def run(
    *command: str, folder: Path | None = None, timeout: float | None = None, on_line: Callable[[str], object] = len
) -> str:
    """Run a command, log each line of its output and pass it to `on_line`; return the last lines.

    Raises CommandFailed if it fails, or CommandTimeout after `timeout` seconds, when it is killed.
    """
    logger, lines, timed_out = get_run_logger(), deque[str](maxlen=TAIL_LINES), Event()

    def expire() -> None:
        timed_out.set()
        kill_group(process.pid)

    timer = Timer(timeout or 0, expire)
    with subprocess.Popen(
        command, cwd=folder, env=command_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            record_process(JOB, process.pid)
            if timeout:
                timer.start()
            for line in filter(None, map(str.rstrip, process.stdout or ())):
                lines.append(line)
                logger.info(printable(line))
                on_line(line)
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                kill_group(process.pid)
                process.wait()
            JOB.unlink(missing_ok=True)
    if timed_out.is_set():
        raise CommandTimeout(f"{' '.join(command)} took more than {timeout:g} s and was ended", TEMPORARY)
    if process.returncode:
        raise command_error(lines, process.returncode, is_dvc=command[0] == "dvc")
    return "\n".join(lines)


def retry_while_busy(work: Callable[[], Result]) -> Result:
    """Return the result of `work`, repeating it as long as another DVC command holds the project."""
    while True:
        try:
            return work()
        except DvcBusy as busy:
            get_run_logger().info("Another DVC command is at work in this project: waiting for it to end (%s)", busy)
            with suppress(Unavailable), dvc_repo.repository() as repo:
                dvc_repo.release_stale_locks(repo)
            time.sleep(BUSY_SECONDS)


def command_environment() -> dict[str, str]:
    """Return the environment of a command: this Python first, the user's proxies, and the project's MLflow store."""
    own = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": absolute_tracking_uri(),
        "PYTHONUNBUFFERED": "1",
    }
    return os.environ | restore_hidden_proxies() | own


def command_error(lines: deque[str], code: int, is_dvc: bool) -> CommandFailed:
    """Build the exception for a failed command, with the line that gives the reason and the code of `landuse`.

    Only DVC's own error is searched for that code and for signs of another command: other lines may hold names that
    came from outside.
    """
    landuse_line = next((line for line in reversed(lines) if line.startswith("landuse: ")), None)
    if not is_dvc:
        reason = landuse_line or (lines[-1] if lines else f"exit code {code}")
        return CommandFailed(reason.removeprefix("landuse: "), code)
    error = next((line for line in lines if re.match(DVC_ERROR, line)), lines[-1] if lines else f"exit code {code}")
    inner, busy = re.search(r"exited with (\d+)", error), re.search(BUSY, error)
    blockers = (line.strip() for line in lines if busy and re.match(BLOCKER, line))
    reason = " ".join(((landuse_line or error).removeprefix("landuse: ").removeprefix("ERROR: "), *blockers))
    return (DvcBusy if busy else CommandFailed)(reason, int(inner[1]) if inner else code)


def is_transient(task: object, run: object, state: "State[Any]") -> bool:
    """Return True if a task failed for a reason that may pass by itself, so that a retry makes sense."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LanduseError) and error.exit_code == TEMPORARY


def with_retries(task: "Task[Parameters, Result]") -> "Task[Parameters, Result]":
    """Make a task retry transient failures, after the delays of `pipelines.retry_seconds`."""
    delays = list(load_params().pipelines.retry_seconds)
    return task.with_options(retries=len(delays), retry_delay_seconds=delays, retry_condition_fn=is_transient)
