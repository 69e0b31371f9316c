"""The commands of the project, run by a flow: every line is logged, nothing outlives its flow for long."""

import logging
import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import TypeVar

from httpx import HTTPError
from prefect.logging import get_logger, get_run_logger

from landuse.core.errors import LanduseError, Unavailable, printable, told
from landuse.core.paths import SERVICES
from landuse.core.process import end_group, kill_group, note, noted
from landuse.core.proxies import shown
from landuse.params import load_params
from landuse.project import dvc_repo
from landuse.recovery import recover_killed
from pipelines.services.locks import held
from pipelines.services.orphans import note_process
from pipelines.services.processes import BIN, store_address
from pipelines.steps.lockfile import restore

BUSY_SECONDS = 5
LOCK, JOB = SERVICES / "lock", SERVICES / "job.json"
KEPT_LINES = 200
TEMPORARY = Unavailable.exit_code
BUSY = "Unable to acquire lock|is busy, it is being blocked by|RWLock-file"
FAULT = "ERROR: |'.+' is invalid"  # so begins what DVC complains of
BLOCKER = r"\s*\(PID \d+\): "
Result = TypeVar("Result")


class CommandFailed(LanduseError):
    """What a command said last. `exit_code` is that of `landuse`, also where DVC ran it."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class TookTooLong(CommandFailed):
    """A command that was ended when its time was over."""


class NoTraceback(logging.Filter):
    """Logs a failed command, or a server that is gone, by its reason alone: no traceback would help anybody.

    Whatever else is logged goes without secrets and control characters, since Prefect keeps and shows it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], (LanduseError, HTTPError)):
            record.exc_info = None
        elif record.exc_info and record.exc_info[1]:
            record.exc_text = told(record.exc_info[1])
        record.msg, record.args = "\n".join(map(printable, record.getMessage().split("\n"))), ()
        return True


class Busy(CommandFailed):
    """Another DVC command is at work in the project, or DVC takes one that is gone for it."""


NO_TRACEBACK = NoTraceback()


@contextmanager
def alone() -> Iterator[None]:
    """Let one flow at a time work in this project; flows within it pass. What a killed flow left behind is ended."""
    SERVICES.mkdir(exist_ok=True)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        get_logger(name).addFilter(NO_TRACEBACK)
    note_process()
    with held(LOCK, "Another flow in this project", get_run_logger().info) as lock:
        if lock.lock_counter == 1:
            end_job()
            restore(Path())
            recover_killed()
        yield


def end_job() -> None:
    """Kill the command, with all it started, whose flow was killed."""
    if tags := noted(JOB):
        end_group(tags)
    JOB.unlink(missing_ok=True)


def run(
    *command: str, folder: Path | None = None, seconds: float | None = None, watch: Callable[[str], object] = len
) -> str:
    """Run a command, log each of its lines and pass it to `watch`; returns the last lines.

    Raises CommandFailed where it fails, or takes more than so many seconds and is killed.
    """
    logger, lines, late = get_run_logger(), deque(maxlen=KEPT_LINES), []
    process = subprocess.Popen(
        command, cwd=folder, env=command_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1,
        start_new_session=True,
    )  # fmt: skip
    timer = Timer(seconds or 0, lambda: (late.append(True), kill_group(process.pid)))
    try:
        note(JOB, process.pid)
        if seconds:
            timer.start()
        for line in filter(None, map(str.rstrip, process.stdout)):
            lines.append(line)
            logger.info(printable(line))
            watch(line)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            kill_group(process.pid)
            process.wait()
        process.stdout.close()
        JOB.unlink(missing_ok=True)
    if late:
        raise TookTooLong(f"{' '.join(command)} took more than {seconds:g} s and was ended", TEMPORARY)
    if process.returncode:
        raise failure(lines, process.returncode, of_dvc=command[0] == "dvc")
    return "\n".join(lines)


def when_free(work: Callable[[], Result]) -> Result:
    """What the work gives, begun anew for as long as another DVC command is at work in the project."""
    while True:
        try:
            return work()
        except Busy as busy:
            get_run_logger().info("Another DVC command is at work in this project: waiting for it to end (%s)", busy)
            with suppress(Unavailable), dvc_repo.repository() as repo:
                dvc_repo.release_the_lost(repo)
            time.sleep(BUSY_SECONDS)


def command_environment() -> dict[str, str]:
    """That of a command: this Python first, the user's proxies, the MLflow store of the project in whatever folder."""
    own = {"PATH": f"{BIN}:{os.environ['PATH']}", "MLFLOW_TRACKING_URI": store_address(), "PYTHONUNBUFFERED": "1"}
    return os.environ | shown() | own


def failure(lines: deque[str], code: int, of_dvc: bool) -> CommandFailed:
    """The line that says why a command failed, with the exit code of the `landuse` that failed.

    Only DVC's own complaint is searched for that code and for who is at work: other lines hold names from outside.
    """
    told = next((line for line in reversed(lines) if line.startswith("landuse: ")), None)
    if not of_dvc:
        reason = told or (lines[-1] if lines else f"exit code {code}")
        return CommandFailed(reason.removeprefix("landuse: "), code)
    error = next((line for line in lines if re.match(FAULT, line)), lines[-1] if lines else f"exit code {code}")
    inner, busy = re.search(r"exited with (\d+)", error), re.search(BUSY, error)
    blockers = (line.strip() for line in lines if busy and re.match(BLOCKER, line))
    reason = " ".join(((told or error).removeprefix("landuse: ").removeprefix("ERROR: "), *blockers))
    return (Busy if busy else CommandFailed)(reason, int(inner[1]) if inner else code)


def may_pass(task: object, run: object, state) -> bool:
    """Whether a task failed for a reason that may pass, so that trying again makes sense."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, LanduseError) and error.exit_code == TEMPORARY


def patient(step):
    """A task that is tried again, after the waits of the params, where what it needs is out of reach for now."""
    waits = list(load_params().pipelines.retry_seconds)
    return step.with_options(retries=len(waits), retry_delay_seconds=waits, retry_condition_fn=may_pass)
