"""The one look of every progress bar."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def bars(*, transient: bool = False, stderr: bool = False) -> Progress:
    """An empty set of bars: what, how far, a note, and for how long."""
    what, note = TextColumn("{task.description:<10}"), TextColumn("{task.fields[note]}")
    columns = (what, BarColumn(), MofNCompleteColumn(), note, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=stderr), transient=transient)


def track(items: Iterable[Item], total: int, label: str, *, stderr: bool = False) -> Iterator[Item]:
    """Pass the items on, with a bar that says how many of the total there were, and how many a second.

    Where no terminal shows the bar, every tenth of the way is a line.
    """
    tenths = {total * part // 10 for part in range(1, 10)}
    with bars(stderr=stderr) as progress:
        task = progress.add_task(label, total=total, note="")
        for done, item in enumerate(items, start=1):
            yield item
            progress.advance(task)
            speed = done / progress.tasks[0].elapsed
            progress.update(task, note=f"{speed:,.{0 if speed >= 10 else 1}f}/s")
            if done in tenths and not progress.console.is_terminal:
                print(f"{label} {done}/{total}", file=progress.console.file, flush=True)


class EpochBars:
    """Two bars, for the images of train and validation, and one line for every epoch that is over."""

    def __init__(self, train: int, validation: int) -> None:
        self.progress = bars(transient=True)
        self.tasks = {
            "train": self.progress.add_task("train", total=train, note=""),
            "validation": self.progress.add_task("validation", total=validation, note=""),
        }

    def move(self, subset: str, done: int, note: str) -> None:
        """So many images of the pass are done; the note holds loss and accuracy so far."""
        self.progress.update(self.tasks[subset], completed=done, note=note)

    def line(self, text: str) -> None:
        """Print a line that stays, above the bars."""
        self.progress.console.print(text, highlight=False, soft_wrap=True)
