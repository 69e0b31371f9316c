"""Work on images by Dask workers: batches are sent, results come back in order, and lost ones are made again."""

import logging
import re
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker

from landuse.compute.job import Job, look_at, run_batch, send
from landuse.compute.scheduler import CONNECT_SECONDS, check_scheduler
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import DATA, DATA_DVC
from landuse.ml.image_file import REMOTE, ImageFile
from landuse.ml.pool import Task
from landuse.project.dvc_cache import Listing, remote_url
from landuse.project.lineage import data_record
from landuse.project.listings import read_listing

Result = TypeVar("Result")

LOGGERS = re.compile(r"distributed\b")
BATCH = 64  # images
AHEAD = 3  # batches sent for every thread of the workers
WORKER_SECONDS = 30  # without any worker, after which the work is given up
BATCH_SECONDS = 600  # after which a worker counts as hung
SILENT_SECONDS = 30  # without a heartbeat, of which each worker sends one every few seconds
MOST_RESTARTS, MOST_WAITS = 3, 12  # for a batch
DEATHS = "had workers that died, one after the other, perhaps for want of memory"
REMEDY = "landuse worker {address} starts one, where the code and the images are"


@contextmanager
def open_cluster(address: str, name: str, images: str, notify: Callable[[str], None]) -> Iterator["Cluster"]:
    """Yield the workers of the Dask scheduler at an address as a pool, which connects when there is work to do."""
    cluster = Cluster(address, name, images, notify)
    try:
        yield cluster
    finally:
        cluster.close()


def open_client(address: str, name: str) -> Client:
    """Connect to a scheduler that has workers.

    Raises LanduseError if it or a worker has other packages, and Unavailable if none answers, or no worker comes.
    """
    for logger in filter(LOGGERS.match, logging.root.manager.loggerDict):
        logging.getLogger(logger).setLevel(logging.CRITICAL)  # one line of our own says what matters
    warnings.filterwarnings("ignore", module="distributed")
    check_scheduler(address, name, "client")
    client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]  # untyped
    try:
        refuse_other_scheduler(client, address, name)
        wait_for_worker(client, address)
        refuse_workers_without_landuse(client)
    except BaseException:
        client.close()  # type: ignore[no-untyped-call]  # untyped in distributed
        raise
    return client


def refuse_other_scheduler(client: Client, address: str, name: str) -> None:
    """Raise LanduseError for a scheduler of another version of Dask."""
    scheduler: Any = client.scheduler
    versions = client.sync(scheduler.versions)  # type: ignore[no-untyped-call]  # untyped in distributed
    found, mine = versions["packages"]["distributed"], version("distributed")
    if found != mine:
        raise LanduseError(
            f"{name} = {address}: the scheduler has distributed {found}, here it is {mine}: install the same in both "
            "places"
        )


def wait_for_worker(client: Client, address: str) -> None:
    """Wait until there is a worker. Raises Unavailable if none comes."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        raise Unavailable(f"no worker is at {address}: {REMEDY.format(address=address)}") from None


def refuse_workers_without_landuse(client: Client) -> None:
    """Raise LanduseError if a worker lacks this package: it would end as soon as it gets work.

    Workers that do not answer are left to what happens when they have work.
    """
    ask = partial(client._run, version, "landuse", on_error="return")
    answers: dict[str, Any] = {}
    with suppress(TimeoutError):
        answers = client.sync(ask, callback_timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    for worker, answer in answers.items():
        if isinstance(answer, PackageNotFoundError):
            raise LanduseError(
                f"worker {worker} has no landuse: install there the commit that works here, by its "
                "requirements/worker.txt"
            )


def listed_md5(path: Path, listing: Listing) -> str:
    """Return the md5 of an image of data/. Raises LanduseError if that version of data/ does not have it."""
    if md5 := listing.get(path.relative_to(DATA).as_posix()):
        return md5
    raise LanduseError(f"{path} is not in {DATA_DVC}, so that no DVC remote has it: dvc repro, and dvc push {DATA_DVC}")


def count_threads(client: Client) -> int:
    """Return how many threads all workers have."""
    threads: dict[str, int] = client.nthreads()  # type: ignore[no-untyped-call]  # untyped in distributed
    return sum(threads.values())


@dataclass
class Batch:
    """Images that were sent, and the future of their results."""

    images: list[ImageFile]
    future: Future[Any]


class Cluster:
    """The workers of a Dask scheduler, as a pool."""

    def __init__(self, address: str, name: str, images: str, notify: Callable[[str], None]) -> None:
        self.address, self.name, self.images, self.notify = address, name, images, notify
        self.kinds: set[str] = set()

    @cached_property
    def client(self) -> Client:
        """The connection to the scheduler, made when it is first needed."""
        client = open_client(self.address, self.name)
        threads, dashboard = count_threads(client), client.dashboard_link
        self.notify(f"{threads} threads of workers at {self.address} do the work; {dashboard} shows them")
        return client

    def close(self) -> None:
        """Disconnect."""
        if "client" in self.__dict__:
            self.client.close()  # type: ignore[no-untyped-call]  # untyped in distributed

    @property
    def processors(self) -> frozenset[str]:
        """The kinds of processors that did some of the work."""
        return frozenset(self.kinds)

    def locate(self, paths: Iterable[Path]) -> list[str]:
        """Return where workers find files: at the same path as here, or those of data/ in the DVC remote."""
        if self.images == "folder":
            return [str(path.absolute()) for path in paths]
        url, listing = remote_url(), read_listing(data_record()["md5"])
        if REMOTE not in url:
            url = f"file://{Path(url).absolute()}"
        return [f"{url}/files/md5/{md5[:2]}/{md5[2:]}" for md5 in (listed_md5(path, listing) for path in paths)]

    def map(self, task: Task[Result], images: Iterable[ImageFile]) -> Iterator[Result]:
        """Yield the result for each image, in order.

        Raises what the task raises, LanduseError if workers have other versions or files, or die of a batch, and
        Unavailable if the scheduler or all workers are gone.
        """
        remaining = iter(images)
        first = list(islice(remaining, BATCH))
        if not first:
            return
        job = Job(task)
        with self.explain_loss():
            sent = self.send(job)
            waiting = deque([self.submit(sent, first)])
        while waiting:
            with self.explain_loss():
                while len(waiting) < self.ahead() and (batch := list(islice(remaining, BATCH))):
                    waiting.append(self.submit(sent, batch))
                results, kind = self.result(waiting.popleft(), job)
            self.kinds.add(kind)
            yield from results

    @contextmanager
    def explain_loss(self) -> Iterator[None]:
        """Raise Unavailable in place of what Dask raises if the scheduler is gone."""
        try:
            yield
        except (CancelledError, OSError):
            raise Unavailable(
                f"the Dask scheduler at {self.address} is gone, and its workers with it: start them again; what is "
                "done is kept, and the same command goes on"
            ) from None

    def send(self, job: Job) -> Future[Job]:
        """Send a job."""
        return self.client.submit(send, job, key=f"job-{uuid.uuid4()}")

    def submit(self, job: Future[Job], images: list[ImageFile]) -> Batch:
        """Send a batch."""
        seen = [look_at(image) for image in images]
        return Batch(images, self.client.submit(run_batch, job, images, seen, key=f"batch-{uuid.uuid4()}"))

    def ahead(self) -> int:
        """Return how many batches to have under way."""
        return AHEAD * max(1, count_threads(self.client))

    def result(self, batch: Batch, job: Job) -> tuple[list[Any], str]:
        """Wait for the results of a batch. A worker that hangs is restarted; a batch whose workers died is sent again.

        Workers that die of something else, one after the other, may well have had the same batch.
        """
        restarts, reason = 0, f"were done in {BATCH_SECONDS} s by no worker"
        for _ in range(MOST_WAITS):
            try:
                return self.wait(batch.future)
            except TimeoutError:
                restarts += self.restart_hung(batch.future)
            except KilledWorker:
                restarts, reason = restarts + 1, DEATHS
                if restarts < MOST_RESTARTS:
                    batch = self.submit(self.send(job), batch.images)
            if restarts == MOST_RESTARTS:
                break
        raise LanduseError(f"{batch.images[0].path} … {batch.images[-1].path} {reason}")

    def wait(self, future: Future[Any]) -> tuple[list[Any], str]:
        """Wait for the results of a batch.

        Raises TimeoutError after BATCH_SECONDS, and Unavailable if there is no worker for WORKER_SECONDS.
        """
        seconds = min(BATCH_SECONDS, WORKER_SECONDS)
        for _ in range(BATCH_SECONDS // seconds):
            with suppress(TimeoutError):
                result: tuple[list[Any], str] = future.result(timeout=seconds)
                return result
            wait_for_worker(self.client, self.address)
        raise TimeoutError

    def restart_hung(self, future: Future[Any]) -> bool:
        """Restart the workers that are silent, or else the one that works on a batch; False if there is none such.

        A batch may wait for what a silent worker was to send to the one that has it.
        """
        working: dict[str, Any] = self.client.processing()  # type: ignore[no-untyped-call]  # untyped in distributed
        hung = self.silent() or [worker for worker, keys in working.items() if future.key in keys]
        if hung:
            self.client.restart_workers(hung, raise_for_error=False)
        return bool(hung)

    def silent(self) -> list[str]:
        """Return the workers that the scheduler has not heard of for a while, by its own clock."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        latest = max((worker["last_seen"] for worker in workers.values()), default=0)
        return [name for name, worker in workers.items() if latest - worker["last_seen"] > SILENT_SECONDS]
