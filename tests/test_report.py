"""Tests that charts and contact sheets show what the tables hold."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from landuse.core import paths
from landuse.ml.metrics import calibration_error
from landuse.report import charts, style, thumbnails

PREDICTIONS = pd.DataFrame(
    {
        "path": [f"{label}/0{number}.png" for label in tiny.LABELS for number in range(4)],
        "actual": [label for label in tiny.LABELS for _ in range(4)],
        "predicted": ["field"] * 5 + ["forest"] * 3 + ["water"] * 2 + ["forest"] * 2,
        "confidence": np.linspace(0.4, 0.95, 12).round(2),
    }
)


def title(axes) -> str:
    return axes.get_title(loc="left")


def texts_by_image(figure) -> list[list[str]]:
    """Return the texts above and below each image of a sheet."""
    axes = figure.axes[0]
    texts_of_images = []
    for image in axes.images:
        left, right, below, above = image.get_extent()
        texts = {text.get_position()[1]: text for text in axes.texts if left < text.get_position()[0] < right}
        near = [place for place in sorted(texts) if above - 0.2 < place < below + 0.2]
        texts_of_images.append([texts[place].get_text() for place in near])
    return texts_of_images


@pytest.mark.parametrize(
    "name",
    ["curves", "confusion", "per_class", "reliability", "mistakes", "uncertain", "dead_kernels", "silent_kernels"],
)
def test_every_picture_exists_and_is_not_blank(trained: Path, name: str) -> None:
    with Image.open(paths.PICTURES / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 150 and len(np.unique(pixels)) > 20 and 0.001 < (pixels < 250).mean() < 0.9


def test_the_curves_show_the_history(trained: Path) -> None:
    history = pd.read_csv(paths.HISTORY)
    figure = charts.curves(history)
    lines = {f"{line.get_label()} {title(axes)}": line for axes in figure.axes for line in axes.lines}
    assert set(lines) == {
        f"{subset} {what} by epoch" for subset in ("train", "validation") for what in ("loss", "accuracy")
    }
    assert lines["validation loss by epoch"].get_ydata().tolist() == history["validation_loss"].tolist()


def test_the_confusion_matrix_counts_actual_by_rows_and_predicted_by_columns() -> None:
    axes = charts.confusion(PREDICTIONS).axes[0]
    counts = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert counts == {(0, 0): 4, (1, 0): 1, (1, 1): 3, (2, 1): 2, (2, 2): 2}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")


def test_the_class_with_the_lowest_recall_is_on_top() -> None:
    figures = pd.DataFrame({"class": list(tiny.LABELS), "recall": [1.0, 0.75, 0.5]})
    axes = charts.per_class(figures).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["field", "forest", "water"]
    assert [text.get_text() for text in axes.texts] == ["100%", "75%", "50%"]


def test_the_most_confident_mistakes_are_shown(trained: Path) -> None:
    figure = thumbnails.worst_mistakes(PREDICTIONS, count=2)
    assert figure.get_suptitle() == "3 of 12 images mistaken, the 2 most confident"
    assert texts_by_image(figure) == [["forest 95%", "water/03.png"], ["forest 90%", "water/02.png"]]


def test_a_model_without_mistakes_has_a_picture_too(tmp_path: Path) -> None:
    perfect = PREDICTIONS.assign(predicted=PREDICTIONS["actual"])
    figure = thumbnails.worst_mistakes(perfect, count=6)
    figure.savefig(tmp_path / "mistakes.png")
    assert figure.get_suptitle().startswith("0 of 12") and not any(axes.images for axes in figure.axes)


def test_the_least_certain_images_are_shown_first_whether_right_or_not(trained: Path) -> None:
    figure = thumbnails.least_certain(PREDICTIONS, count=5)
    assert figure.get_suptitle() == "the 5 least certain of 12 images"
    names = ["field/00.png", "field/01.png", "field/02.png", "field/03.png", "forest/00.png"]
    expected = zip(("40%", "45%", "50%", "55%", "60%"), names, strict=True)
    assert texts_by_image(figure) == [[f"field {confidence}", name] for confidence, name in expected]


def test_long_names_are_shortened_to_both_ends() -> None:
    assert thumbnails.shorten("field/00.png", 12) == "field/00.png"
    assert thumbnails.shorten("residential/of-some-kind/00.png", 12) == "resid…00.png"


def test_the_reliability_diagram_shows_accuracy_count_and_calibration_error() -> None:
    above, below = charts.reliability(PREDICTIONS, bins=5).axes
    correct, confidence = PREDICTIONS["actual"] == PREDICTIONS["predicted"], PREDICTIONS["confidence"].to_numpy()
    points = above.collections[-1].get_offsets()
    rows = [slice(0, 4), slice(4, 8), slice(8, 12)]  # 0.4 to 0.55, 0.6 to 0.75, 0.8 to 0.95
    assert points[:, 0].tolist() == pytest.approx([confidence[row].mean() for row in rows])
    assert points[:, 1].tolist() == pytest.approx([correct[row].mean() for row in rows])
    assert [bar.get_height() for bar in below.patches] == [4, 4, 4]
    assert title(above).endswith(f"{calibration_error(correct.to_numpy(), confidence, 5):.3f}")


def test_the_slices_keep_their_order_and_show_the_threshold() -> None:
    rows = [
        {"slice": name, "images": 7, "accuracy": share, "threshold": 0.75} for name, share in (("b", 0.5), ("a", 1))
    ]
    axes = charts.slices(pd.DataFrame(rows)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["100.0% of 7", "50.0% of 7"]
    assert axes.lines[0].get_xdata() == [0.75, 0.75] and title(axes) == "accuracy by slice, at least 75%"


def test_slices_that_were_not_judged_are_shown_without_a_threshold() -> None:
    rows = [{"slice": name, "images": 2, "accuracy": 0.5, "threshold": None} for name in ("a", "b")]
    axes = charts.slices(pd.DataFrame(rows)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["50.0% of 2"] * 2
    assert list(axes.lines) == [] and title(axes) == "accuracy by slice"


def test_dead_filters_are_counted_and_all_zero_ones_are_shown() -> None:
    blocks = {"expanded_conv": (8, 0, 0.2, 0.9), "block_1": (24, 3, 0.0, 0.8)}
    names = ("filters", "dead", "weakest", "median")
    figure = charts.dead_kernels({block: dict(zip(names, figures, strict=True)) for block, figures in blocks.items()})
    axes = figure.axes[0]
    assert title(axes).endswith("; 3 of 32 dead")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "1"]
    weakest = next(line for line in axes.lines if line.get_label() == "weakest filter")
    assert weakest.get_ydata().tolist() == [0.2, charts.MIN_SHOWN]


def test_svg_uses_the_colours_of_the_page_and_keeps_text_as_text() -> None:
    element = style.to_svg(charts.confusion(PREDICTIONS), "confusion")
    assert element.startswith("<svg ") and element.endswith("</svg>")
    assert not set(style.CSS_VARIABLES) & set(re.findall("#[0-9a-f]{6}", element)) and "var(--wrong)" in element
    assert ">forest</text>" in element and "http://" not in element.replace("http://www.w3.org/", "")
    assert element == style.to_svg(charts.confusion(PREDICTIONS), "confusion")
