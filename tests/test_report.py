"""Pictures that show what the tables say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from landuse import paths, report

PREDICTIONS = pd.DataFrame(
    {
        "path": [f"{label}/0{number}.png" for label in tiny.LABELS for number in range(4)],
        "actual": [label for label in tiny.LABELS for _ in range(4)],
        "predicted": ["field"] * 5 + ["forest"] * 3 + ["water"] * 2 + ["forest"] * 2,
        "confidence": np.linspace(0.4, 0.95, 12).round(2),
    }
)


def texts(figure) -> list[str]:
    """Every word in a figure."""
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), *(text.get_text() for text in axes.texts)]
        found += [label.get_text() for label in axes.get_yticklabels()]
    return found


@pytest.mark.parametrize("name", ["curves", "confusion", "per_class", "mistakes"])
def test_every_picture_is_there_and_shows_something(trained: Path, name: str) -> None:
    with Image.open(paths.PICTURES / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 150 and len(np.unique(pixels)) > 20 and 0.001 < (pixels < 250).mean() < 0.9


def test_the_curves_are_those_of_the_history(trained: Path) -> None:
    history = pd.read_csv(paths.HISTORY)
    figure = report.curves(history)
    lines = {f"{line.get_label()} {axes.get_title()}": line for axes in figure.axes for line in axes.lines}
    assert set(lines) == {
        f"{subset} {what} by epoch" for subset in ("train", "validation") for what in ("loss", "accuracy")
    }
    assert lines["validation loss by epoch"].get_ydata().tolist() == history["validation_loss"].tolist()


def test_the_confusion_matrix_counts_actual_by_rows_and_predicted_by_columns() -> None:
    axes = report.confusion(PREDICTIONS).axes[0]
    counts = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert counts == {(0, 0): 4, (1, 0): 1, (1, 1): 3, (2, 1): 2, (2, 2): 2}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")


def test_the_class_with_the_lowest_recall_stands_on_top() -> None:
    figures = pd.DataFrame({"class": list(tiny.LABELS), "recall": [1.0, 0.75, 0.5]})
    axes = report.per_class(figures).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["field", "forest", "water"]
    assert [text.get_text() for text in axes.texts] == ["100%", "75%", "50%"]


def test_the_mistakes_shown_are_the_most_confident_ones(trained: Path) -> None:
    figure = report.worst_mistakes(PREDICTIONS, count=2)
    assert figure.get_suptitle() == "3 of 12 images mistaken, the 2 most confident"
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["forest 95%", "forest 90%"]
    assert [axes.texts[0].get_text() for axes in shown] == ["03.png", "02.png"]


def test_a_model_without_mistakes_has_its_picture_too(tmp_path: Path) -> None:
    perfect = PREDICTIONS.assign(predicted=PREDICTIONS["actual"])
    figure = report.worst_mistakes(perfect, count=6)
    figure.savefig(tmp_path / "mistakes.png")
    assert figure.get_suptitle().startswith("0 of 12") and not any(axes.images for axes in figure.axes)
