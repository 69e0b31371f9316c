"""Progress bars, all in one style."""

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def bars(*, transient: bool = False, stderr: bool = False) -> Progress:
    """Return an empty progress display with columns for label, bar, count, note and elapsed time."""
    label, note = TextColumn("{task.description:<10}"), TextColumn("{task.fields[note]}")
    columns = (label, BarColumn(), MofNCompleteColumn(), note, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=stderr), transient=transient)


def track(items: Iterable[Item], total: int, label: str, *, stderr: bool = False) -> Iterator[Item]:
    """Yield the items, with a progress bar showing the count and the items per second.

    Without a terminal, print a line at every tenth instead.
    """
    tenths = {total * part // 10 for part in range(1, 10)}
    with bars(stderr=stderr) as progress:
        task = progress.add_task(label, total=total, note="")
        for done, item in enumerate(items, start=1):
            yield item
            progress.advance(task)
            speed = done / (progress.tasks[0].elapsed or math.inf)
            progress.update(task, note=f"{speed:,.{0 if speed >= 10 else 1}f}/s")
            if done in tenths and not progress.console.is_terminal:
                print(f"{label} {done}/{total}", file=progress.console.file, flush=True)


class EpochBars:
    """Two progress bars, for train and validation images, with a permanent line per finished epoch."""

    def __init__(self, train: int, validation: int) -> None:
        self.progress = bars(transient=True)
        self.tasks = {
            "train": self.progress.add_task("train", total=train, note=""),
            "validation": self.progress.add_task("validation", total=validation, note=""),
        }

    def update(self, subset: str, done: int, note: str) -> None:
        """Show that `done` images of a subset are processed; the note holds loss and accuracy so far."""
        self.progress.update(self.tasks[subset], completed=done, note=note)

    def print_line(self, text: str) -> None:
        """Print a permanent line above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True)
