"""The work of a worker: a task on batches of images, once it has the same code, packages and files as the driver."""

import os
from collections.abc import Callable
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
Look = tuple[int, int]  # size of a file, and its time in seconds: not every network file system keeps more
PACKAGE = Path(landuse.__file__).parent


class Job:
    """A task on images, and what whoever does it must have: `made_with`, the code of landuse and the packages."""

    def __init__(self, task: Task[Any]) -> None:
        self.task, self.made_with = task, made_with()
        self.work: Callable[[ImageFile], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"work": None}

    def prepare(self) -> Callable[[ImageFile], Any]:
        """Return the function that does the work. Raises LanduseError if this worker has other versions."""
        if self.work is None:
            refuse_other_versions(self.made_with)
            self.work = self.task.prepare()
        return self.work


def send(job: Job) -> Job:
    """Return the job: as the result of a task, it is sent to each worker once, and to those that come later."""
    return job


def run_batch(job: Job, images: list[ImageFile], seen: list[Look | None]) -> tuple[list[Any], str]:
    """Return the result for each image, and the kind of processor that made them.

    Raises LanduseError if this worker has other versions than the driver, or other files than were `seen` there.
    """
    work = job.prepare()
    for image, expected in zip(images, seen, strict=True):
        if expected:
            refuse_other_file(image, expected)
    return [work(image) for image in images], processor()


@cache
def made_with() -> dict[str, str]:
    """Return a digest of the installed code, and the versions of the packages that results depend on."""
    return origin(sorted(PACKAGE.rglob("*.py")), PACKAGES)


def refuse_other_versions(expected: dict[str, str]) -> None:
    """Raise LanduseError if this worker has other code or packages than the driver."""
    for name, mine in made_with().items():
        if expected.get(name) != mine:
            what = "another version of landuse's code" if name == "code" else f"{name} {mine}, not {expected.get(name)}"
            raise LanduseError(
                f"worker {get_worker().address} has {what}: install there the commit that works here, by its "
                "requirements/worker.txt, and start the worker again"
            )


def look_at(image: ImageFile) -> Look | None:
    """Return by what another machine can see that it has the same file; None for one that cannot be read here.

    None is right for addresses, too, which name their content.
    """
    if REMOTE in image.location:
        return None
    try:
        return open_and_look(image)
    except OSError:
        return None


def open_and_look(image: ImageFile) -> Look:
    """Return size and time of a file. It is opened first, since only then NFS asks the server for both."""
    with open(image.location, "rb") as file:
        found = os.fstat(file.fileno())
    return found.st_size, int(found.st_mtime)


def refuse_other_file(image: ImageFile, expected: Look) -> None:
    """Raise LanduseError if this worker does not see the file that the driver saw."""
    try:
        same, reason = open_and_look(image) == expected, "has another file than the project there"
    except OSError as error:
        same, reason = False, f"cannot read it ({error.strerror})"
    if not same:
        raise LanduseError(
            f"{image.location}: worker {get_worker().address} {reason}; share the project's folder with it at the "
            "same path, or set compute.images to remote"
        )
