"""What is seen of a training while it runs: bars, one line and one set of MLflow metrics per epoch."""

from time import perf_counter

import keras
import numpy as np

from landuse import tracking
from landuse.progress import EpochBars


class Watch(keras.callbacks.Callback):
    """Keeps one row per epoch in `rows`, shows it, and logs it to the MLflow run at hand."""

    def __init__(self, epochs: int, train: int, validation: int, batch_size: int) -> None:
        super().__init__()
        self.bars, self.epochs, self.batch_size = EpochBars(train, validation), epochs, batch_size
        self.images = {"train": train, "validation": validation}
        self.rows: list[dict[str, float]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.bars.progress.start()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.begin("train")

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        self.show("train", batch, logs)

    def on_test_begin(self, logs: dict | None = None) -> None:
        self.trained = perf_counter() - self.started
        self.begin("validation")

    def on_test_batch_end(self, batch: int, logs: dict) -> None:
        self.show("validation", batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        seconds = {"train": self.trained, "validation": perf_counter() - self.started}
        row = {
            "epoch": epoch + 1,
            "train_loss": logs["loss"],
            "train_accuracy": logs["accuracy"],
            "validation_loss": logs["val_loss"],
            "validation_accuracy": logs["val_accuracy"],
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
        }
        speeds = {subset: self.images[subset] / seconds[subset] for subset in seconds}
        self.rows.append(row)
        self.bars.line(f"epoch {epoch + 1:>3}/{self.epochs}" + "".join(self.summary(row, speeds)))
        tracking.log_epoch(row | {f"{subset}_images_per_second": speed for subset, speed in speeds.items()})

    def on_train_end(self, logs: dict | None = None) -> None:
        self.bars.progress.stop()

    def begin(self, subset: str) -> None:
        """Start the clock and the bar of a pass."""
        self.started = perf_counter()
        self.bars.restart(subset)

    def show(self, subset: str, batch: int, logs: dict) -> None:
        """Move the bar by one batch."""
        done = min((batch + 1) * self.batch_size, self.images[subset])
        speed = done / (perf_counter() - self.started)
        self.bars.move(subset, done, figures(logs["loss"], logs["accuracy"], speed))

    def summary(self, row: dict[str, float], speeds: dict[str, float]) -> list[str]:
        """Loss, accuracy and images/s of both subsets in words."""
        return [
            f"  {subset} {figures(row[f'{subset}_loss'], row[f'{subset}_accuracy'], speed)}"
            for subset, speed in speeds.items()
        ]


def figures(loss: float, accuracy: float, images_per_second: float) -> str:
    """Loss, accuracy and speed, in few letters."""
    return f"loss {loss:.3f} accuracy {accuracy:6.1%} {images_per_second:5,.0f} images/s"
