"""Which process did something, and whether it is still at work."""

import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO

import psutil

from landuse.core.errors import Unavailable
from landuse.core.files import write_whole

DEATH_SECONDS = 10
CLOCK_SECONDS = 2  # so far a process may seem to have begun after it did
HOST, BOOT = "process.host", "process.boot"
PID, STARTED = "process.id", "process.started_after_boot"
UNKNOWN = "unknown"


def identity(pid: int | None = None) -> dict[str, str]:
    """What tells a process of this machine (by default this one) from any other, as tags."""
    process = psutil.Process(pid or os.getpid())
    return {HOST: socket.gethostname(), BOOT: boot(), PID: str(process.pid), STARTED: started(process)}


def boot() -> str:
    """What tells this start of this machine, and within it this container, from any other, where the system says it."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{start}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return UNKNOWN


def was_here(tags: Mapping[str, str]) -> bool:
    """Whether a process ran on this machine: under its name of today, or since its last start under another."""
    return tags.get(HOST) == socket.gethostname() or tags.get(BOOT, UNKNOWN) == boot() != UNKNOWN


def started(process: psutil.Process) -> str:
    """Seconds from the start of the machine to that of a process, which stay true when the clock is set."""
    return f"{process.create_time() - psutil.boot_time():.2f}"


@contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Let one process at a time in. The kernel opens the lock when its holder dies.

    Raises Unavailable with `busy` where another is in.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        hold(file, busy)
        yield


def hold(file: IO, busy: str) -> None:
    """Lock a file as long as it is open. Raises Unavailable with `busy` where another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(busy) from None


def note(path: Path, pid: int, **more: str) -> None:
    """Write down, in one rename, which process is at work: a note is whole or not there, whatever is killed."""
    write_whole(path, json.dumps(identity(pid) | more))


def noted(path: Path) -> dict[str, str]:
    """What a note says; nothing where there is none, or it is damaged."""
    with suppress(FileNotFoundError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return {}


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process is known to have ended: it ran on this machine and does so no more."""
    if not was_here(tags) or STARTED not in tags:
        return False
    try:
        process = psutil.Process(int(tags[PID]))
        return started(process) != tags[STARTED] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def is_here(tags: Mapping[str, str]) -> bool:
    """Whether the process is at work on this machine."""
    return was_here(tags) and not is_gone(tags)


def end_group(tags: Mapping[str, str]) -> bool:
    """Kill a process that leads a group of its own, and what outlived it there; whether there was anything.

    Returns when they hold nothing any more. A process of another machine, or one that was given the number since, is
    left alone.
    """
    pid = int(tags[PID])
    with suppress(ProcessLookupError, psutil.NoSuchProcess):  # it may end at any moment
        if was_here(tags) and (not psutil.pid_exists(pid) or started(psutil.Process(pid)) == tags[STARTED]):
            members = [process for process in psutil.process_iter() if is_member(process, pid)]
            os.killpg(pid, signal.SIGKILL)
            end = time.monotonic() + DEATH_SECONDS
            while any(map(is_alive, members)) and time.monotonic() < end:
                time.sleep(0.02)
            return True
    return False


def kill_group(pid: int) -> None:
    """Kill a process of ours that leads a group of its own, and whatever it started there, if any of it is left."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def ending_signals() -> list[int]:
    """The signals beside Ctrl-C that end a process; that of a closed terminal only where it is not ignored (nohup)."""
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]


def is_member(process: psutil.Process, group: int) -> bool:
    """Whether a process belongs to a group."""
    with suppress(ProcessLookupError):
        return os.getpgid(process.pid) == group
    return False


def is_alive(process: psutil.Process) -> bool:
    """Whether it is there, and not only its exit code."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def are_lost(holders: Path) -> bool:
    """Whether DVC's list of who reads and writes what is damaged, or each process in it began after it was written."""
    try:
        written, found = holders.stat().st_mtime, json.loads(holders.read_text(encoding="utf-8"))
        entries = chain(found.get("write", {}).values(), *found.get("read", {}).values())
        holding = {(int(entry["pid"]), str(entry["cmd"])) for entry in entries}
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError, AttributeError):
        return True
    return bool(holding) and not any(was_there(number, command, written) for number, command in holding)


def was_there(number: int, command: str, moment: float) -> bool:
    """Whether a process of this number is at work and was so at a moment, in seconds since 1970, or runs the command.

    The clock may have been set since, which moves the moments at which processes began.
    """
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        same = process.create_time() <= moment + CLOCK_SECONDS or " ".join(process.cmdline()).endswith(command)
        return is_alive(process) and same
    return False
