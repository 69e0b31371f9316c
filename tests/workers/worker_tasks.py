"""Tasks that tests give to workers."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from typing import Any

from landuse.ml.image_file import ImageFile


@dataclass(frozen=True)
class Call:
    """Do something with each image."""

    function: Callable[[ImageFile], Any]

    def prepare(self) -> Callable[[ImageFile], Any]:
        return self.function


def size_of(image: ImageFile) -> int:
    return Path(image.location).stat().st_size


def slowly(image: ImageFile) -> int:
    time.sleep(0.002)
    return size_of(image)


def process_of(image: ImageFile) -> int:
    time.sleep(0.005)
    return os.getpid()


def modules(image: ImageFile) -> set[str]:
    return {name.partition(".")[0] for name in sys.modules}


def first_time(image: ImageFile, name: str) -> bool:
    """Return True to the first who asks."""
    try:
        Path(image.location).with_name(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def stop_first(image: ImageFile) -> int:
    """Stop the process of the worker, as one that hangs, the first time."""
    if first_time(image, "stopped"):
        os.kill(os.getpid(), SIGSTOP)
    return size_of(image)


def die(image: ImageFile) -> None:
    """End the process of the worker, as the system does when memory runs out."""
    os.kill(os.getpid(), SIGKILL)
