"""What is seen of a training while it runs: bars, one line and one set of MLflow metrics per epoch."""

from typing import Self

from landuse import tracking
from landuse.core.progress import EpochBars
from landuse.train.loop import Outcome


class Watch:
    """Shows how a training moves, and logs every epoch to the MLflow run at hand."""

    def __init__(self, epochs: int, train: int, validation: int) -> None:
        self.bars, self.epochs = EpochBars(train, validation), epochs

    def __enter__(self) -> Self:
        self.bars.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def moved(self, subset: str, done: int, outcome: Outcome) -> None:
        """So many images of a pass are done."""
        self.bars.move(subset, done, figures(outcome))

    def ended(self, row: dict[str, float], learned: Outcome, judged: Outcome) -> None:
        """An epoch is over."""
        passes = {"train": learned, "validation": judged}
        words = [f"  {subset} {figures(outcome)}" for subset, outcome in passes.items()]
        self.bars.line(f"epoch {row['epoch']:>3}/{self.epochs}" + "".join(words))
        speeds = {f"{subset}_images_per_second": outcome.images_per_second for subset, outcome in passes.items()}
        tracking.log_epoch(row | speeds)


def figures(outcome: Outcome) -> str:
    """Loss, accuracy and speed, in few letters."""
    return f"loss {outcome.loss:.3f} accuracy {outcome.accuracy:6.1%} {outcome.images_per_second:5,.0f} images/s"
