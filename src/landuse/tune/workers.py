"""Worker processes on this machine that search together."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from time import sleep
from typing import Any

from landuse import tracking
from landuse.core.errors import LanduseError, prefix_errors, report_errors
from landuse.ml.images import cores
from landuse.params import TrainParams, TuneParams
from landuse.tune.search import Search, open_search
from landuse.tune.study import count_ended
from landuse.tune.trial import run_trials

LOOK_SECONDS = 0.3
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")  # variables that TensorFlow obeys


def run_workers(
    count: int,
    search: Search,
    train: TrainParams,
    params: TuneParams,
    first: dict[str, Any] | None,
    parent: str,
    report: Callable[[str], None],
) -> Generator[None]:
    """Run trials of a search, as `run_trials` does, in several processes; yield now and then.

    They end with this process, also by Ctrl-C. If one of them fails, the others go on, and that is reported at the end.
    Raises its LanduseError if trials are missing then.
    """
    context = get_context("spawn")
    errors: SimpleQueue[LanduseError] = context.SimpleQueue()
    arguments = (errors, max(1, cores() // count), search.study.study_name, train, params, first, parent)
    workers = [context.Process(target=work, args=arguments, daemon=True) for _ in range(count)]
    start_all(workers)
    try:
        while any(worker.is_alive() for worker in workers):
            sleep(LOOK_SECONDS)
            yield
    finally:
        end_all(workers)
    if failed := [worker for worker in workers if worker.exitcode]:
        codes = ", ".join(str(worker.exitcode) for worker in failed)
        error = LanduseError(f"died with exit code {codes}") if errors.empty() else errors.get()
        with prefix_errors(f"{len(failed)} of {count} workers failed: "):
            if count_ended(search.study) < params.trials:
                raise error
        report(f"{len(failed)} of {count} workers failed, and the others went on: {error}")


def start_all(workers: Sequence[BaseProcess]) -> None:
    """Start processes that ignore Ctrl-C, from the very beginning: this process ends them then."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.signal(signal.SIGINT, handler)


def end_all(workers: Sequence[BaseProcess]) -> None:
    """End processes, and wait until they have given up their trials."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def work(
    errors: "SimpleQueue[LanduseError]",
    threads: int,
    name: str,
    train: TrainParams,
    params: TuneParams,
    first: dict[str, Any] | None,
    parent: str,
) -> None:
    """Run trials in this worker process with so many threads; SIGTERM ends it as Ctrl-C would."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for variable in THREADS:
        os.environ.setdefault(variable, str(threads))
    starter = parent_process()
    with report_errors(), suppress(KeyboardInterrupt):
        try:
            with tracking.store(), open_search(name, params.storage) as search:
                for _ in run_trials(search, train, params, first, parent):
                    if starter and not starter.is_alive():  # it was killed
                        return
        except LanduseError as error:
            errors.put(error)
            sys.exit(error.exit_code)
