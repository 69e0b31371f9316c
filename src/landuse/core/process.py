"""Identity and liveness of processes, locks and process groups."""

import fcntl
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

import psutil

from landuse.core.errors import Unavailable
from landuse.core.files import write_atomically

DEATH_SECONDS = 10
CLOCK_SECONDS = 2  # tolerance when comparing start times with file times
HOST, BOOT = "process.host", "process.boot"
PID, STARTED = "process.id", "process.started_after_boot"
UNKNOWN = "unknown"


def identity(pid: int | None = None) -> dict[str, str]:
    """Return tags that identify a process of this machine, by default the current one, uniquely."""
    process = psutil.Process(pid or os.getpid())
    return {HOST: socket.gethostname(), BOOT: boot_id(), PID: str(process.pid), STARTED: start_time(process)}


def boot_id() -> str:
    """Return an ID of this boot of the machine and of the container within it, or UNKNOWN if the system has none."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{start}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return UNKNOWN


def ran_here(tags: Mapping[str, str]) -> bool:
    """Return True if the process ran on this machine: under its present host name, or under another since boot."""
    return tags.get(HOST) == socket.gethostname() or tags.get(BOOT, UNKNOWN) == boot_id() != UNKNOWN


def start_time(process: psutil.Process) -> str:
    """Return the seconds between boot and the start of a process, which do not change when the clock is set."""
    return f"{process.create_time() - psutil.boot_time():.2f}"


@contextmanager
def exclusive_lock(lock: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel releases it if the process dies.

    Raises Unavailable with the message `busy` if another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        lock_file(file, busy)
        yield


def lock_file(file: IO[Any], busy: str) -> None:
    """Lock a file while it is open. Raises Unavailable with the message `busy` if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(busy) from None


def raise_open_file_limit() -> None:
    """Raise the soft limit on open files to the hard one; the default is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS reports an infinite limit but refuses to set it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def record_process(path: Path, pid: int, **more: str) -> None:
    """Write the identity of a process and more facts to a file, atomically even if this process is killed."""
    write_atomically(path, json.dumps(identity(pid) | more))


def read_json_or_empty(path: Path) -> dict[str, str]:
    """Read a JSON object of strings; empty if the file is missing or damaged."""
    content: dict[str, str] = {}
    with suppress(FileNotFoundError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
    return content


def is_gone(tags: Mapping[str, str]) -> bool:
    """Return True if the process is known to have ended: it ran on this machine and no longer does."""
    if not ran_here(tags) or STARTED not in tags:
        return False
    try:
        process = psutil.Process(int(tags[PID]))
        return start_time(process) != tags[STARTED] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_running_here(tags: Mapping[str, str]) -> bool:
    """Return True if the process is running on this machine."""
    return ran_here(tags) and not is_gone(tags)


def end_group(tags: Mapping[str, str]) -> bool:
    """Kill the process group led by a process, even if the leader has ended. Return True if there was one.

    Waits until its members have released their resources. A process of another machine, or an unrelated one that has
    reused the PID, is left alone.
    """
    pid = int(tags[PID])
    with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it may end at any moment
        if ran_here(tags) and (not psutil.pid_exists(pid) or start_time(psutil.Process(pid)) == tags[STARTED]):
            members = [process for process in psutil.process_iter() if is_in_group(process, pid)]
            os.killpg(pid, signal.SIGKILL)
            end = time.monotonic() + DEATH_SECONDS
            while any(map(is_alive, members)) and time.monotonic() < end:
                time.sleep(0.02)
            return True
    return False


def kill_group(pid: int) -> None:
    """Kill the process group led by a child process, if any of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def termination_signals() -> list[int]:
    """Return the signals besides SIGINT that end a process; SIGHUP only if it is not ignored (nohup)."""
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]


def is_in_group(process: psutil.Process, group: int) -> bool:
    """Return True if a process belongs to a process group."""
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid) == group
    return False


def is_alive(process: psutil.Process) -> bool:
    """Return True if a process is running and not a zombie."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def is_stale_rwlock(rwlock: Path) -> bool:
    """Return True if DVC's list of readers and writers is damaged, or none of its processes was running at its time."""
    try:
        written, content = rwlock.stat().st_mtime, json.loads(rwlock.read_text(encoding="utf-8"))
        entries = chain(content.get("write", {}).values(), *content.get("read", {}).values())
        holders = {(int(entry["pid"]), str(entry["cmd"])) for entry in entries}
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError, AttributeError):
        return True
    return bool(holders) and not any(was_running_at(written, pid, command) for pid, command in holders)


def was_running_at(moment: float, pid: int, command: str) -> bool:
    """Return True if a process is running and started before a moment (seconds since 1970), or runs the command.

    The command is compared since setting the clock shifts the start times of processes.
    """
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        same = process.create_time() <= moment + CLOCK_SECONDS or " ".join(process.cmdline()).endswith(command)
        return is_alive(process) and same
    return False
