"""Callbacks of a training, and the one that shows its progress: bars, a line and MLflow metrics for every epoch."""

from typing import Protocol, Self

from landuse import tracking
from landuse.core.progress import EpochBars
from landuse.train.loop import EpochMetrics


class Callback(Protocol):
    """Receives the progress of a training."""

    def on_batches_end(self, subset: str, done: int, metrics: EpochMetrics) -> None:
        """Handle the end of some batches of a subset; `done` is the number of images processed in this epoch."""

    def on_epoch_end(self, row: dict[str, float], train: EpochMetrics, validation: EpochMetrics) -> None:
        """Handle the end of an epoch; `row` is its row of the history. May raise to stop the training."""


class ProgressCallback:
    """Shows the progress of a training and logs every epoch to the active MLflow run."""

    def __init__(self, epochs: int, train: int, validation: int) -> None:
        self.bars, self.epochs = EpochBars(train, validation), epochs

    def __enter__(self) -> Self:
        self.bars.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.progress.stop()

    def on_batches_end(self, subset: str, done: int, metrics: EpochMetrics) -> None:
        """Move the bar of the subset."""
        self.bars.update(subset, done, format_metrics(metrics))

    def on_epoch_end(self, row: dict[str, float], train: EpochMetrics, validation: EpochMetrics) -> None:
        """Print a line and log the metrics."""
        subsets = {"train": train, "validation": validation}
        columns = [f"  {subset} {format_metrics(metrics)}" for subset, metrics in subsets.items()]
        self.bars.print_line(f"epoch {row['epoch']:>3}/{self.epochs}" + "".join(columns))
        speeds = {f"{subset}_images_per_second": metrics.images_per_second for subset, metrics in subsets.items()}
        tracking.log_epoch(row | speeds)


def format_metrics(metrics: EpochMetrics) -> str:
    """Format loss, accuracy and throughput for a progress bar."""
    return f"loss {metrics.loss:.3f} accuracy {metrics.accuracy:6.1%} {metrics.images_per_second:5,.0f} images/s"
