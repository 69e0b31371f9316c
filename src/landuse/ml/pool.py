"""The seam for work on images: what a task is, and where it is done, which is this process unless workers are named."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from landuse.ml.image_file import ImageFile
from landuse.ml.images import parallel_map
from landuse.project.lineage import processor

Result = TypeVar("Result")
Covariant = TypeVar("Covariant", covariant=True)


class Task(Protocol[Covariant]):
    """Work to do on each image: plain data that can be sent to another machine, and is prepared once in a process."""

    def prepare(self) -> Callable[[ImageFile], Covariant]:
        """Load what the work needs, and return the function that does it for one image."""


class Pool(Protocol):
    """Who does the work."""

    @property
    def processors(self) -> frozenset[str]:
        """The kinds of processors that did some of it."""

    def locate(self, paths: Iterable[Path]) -> list[str]:
        """Return where whoever does the work finds files of this project."""

    def map(self, task: Task[Result], images: Iterable[ImageFile]) -> Iterator[Result]:
        """Yield the result for each image, in order. Raises what the task raises."""


class ThisProcess:
    """This process, with a thread on every core."""

    @property
    def processors(self) -> frozenset[str]:
        """The processor of this machine."""
        return frozenset({processor()})

    def locate(self, paths: Iterable[Path]) -> list[str]:
        """Return the paths as they are."""
        return list(map(str, paths))

    def map(self, task: Task[Result], images: Iterable[ImageFile]) -> Iterator[Result]:
        """Yield the result for each image, in order. Raises what the task raises."""
        return parallel_map(task.prepare(), images)


THIS_PROCESS = ThisProcess()
