"""The work of a worker: a task on batches of images, once it has the same code, packages and files as the driver."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from distributed import get_worker

import landuse
from landuse.core.errors import LanduseError
from landuse.ml.image_file import REMOTE, ImageFile
from landuse.ml.pool import Task
from landuse.project.lineage import origin, processor

PACKAGES = frozenset({"numpy", "pillow", "ai-edge-litert"})  # what results of workers depend on
PACKAGE = Path(landuse.__file__).parent


class Job:
    """A task on images, and what whoever does it must have.

    made_with: digest of the code of landuse, and versions of packages
    witness: one of the images, with its sha256, by which a worker sees that it reads the same files; None if none of
        the first ones can be read here either
    """

    def __init__(self, task: Task[Any], images: list[ImageFile]) -> None:
        self.task, self.made_with, self.witness = task, made_with(), find_witness(images)
        self.work: Callable[[ImageFile], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"work": None}

    def prepare(self) -> Callable[[ImageFile], Any]:
        """Return the function that does the work. Raises LanduseError if this worker has other versions or files."""
        if self.work is None:
            refuse_other_versions(self.made_with)
            refuse_other_files(self.witness)
            self.work = self.task.prepare()
        return self.work


def send(job: Job) -> Job:
    """Return the job: as the result of a task, it is sent to each worker once, and to those that come later."""
    return job


def run_batch(job: Job, images: list[ImageFile]) -> tuple[list[Any], str]:
    """Return the result for each image, and the kind of processor that made them."""
    work = job.prepare()
    return [work(image) for image in images], processor()


@cache
def made_with() -> dict[str, str]:
    """Return a digest of the installed code, and the versions of the packages that results depend on."""
    return origin(sorted(PACKAGE.rglob("*.py")), PACKAGES)


def find_witness(images: list[ImageFile]) -> ImageFile | None:
    """Return the first image that can be read here, with the digest of its file; None if none can.

    None is needed for addresses, which name their content.
    """
    for image in images:
        with suppress(OSError):
            if REMOTE not in image.location:
                return image._replace(sha256=hashlib.sha256(Path(image.location).read_bytes()).hexdigest())
    return None


def refuse_other_versions(expected: dict[str, str]) -> None:
    """Raise LanduseError if this worker has other code or packages than the driver."""
    for name, mine in made_with().items():
        if expected.get(name) != mine:
            what = "another version of landuse's code" if name == "code" else f"{name} {mine}, not {expected.get(name)}"
            raise LanduseError(
                f"worker {get_worker().address} has {what}: install there the commit that works here, by its "
                "requirements/worker.txt, and start the worker again"
            )


def refuse_other_files(witness: ImageFile | None) -> None:
    """Raise LanduseError if this worker does not see the files of the driver."""
    if witness is None:
        return
    try:
        same = hashlib.sha256(Path(witness.location).read_bytes()).hexdigest() == witness.sha256
        reason = "has another file than the project there"
    except OSError as error:
        same, reason = False, f"cannot read it ({error.strerror})"
    if not same:
        raise LanduseError(
            f"{witness.location}: worker {get_worker().address} {reason}; share the project's folder with it at the "
            "same path, or set compute.images to remote"
        )
