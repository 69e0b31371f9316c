"""Sheets of images: what the model was surest of and wrong about, and what it was least sure of."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landuse.core.paths import DATA
from landuse.ml.images import read_image
from landuse.report.style import FAINT, GOOD, STYLE, WRONG

COLUMNS = 6
SIDE = 160
HEIGHT = 1.3  # of an image with its words, in widths


def mistaken(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of mistakes, the most confident first."""
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable")


def uncertain(predictions: pd.DataFrame) -> pd.DataFrame:
    """All rows, the least confident first."""
    return predictions.sort_values("confidence", kind="stable")


def worst_mistakes(predictions: pd.DataFrame, count: int) -> Figure:
    """The mistakes that the model was most sure of."""
    wrong = mistaken(predictions)
    shown = wrong[:count]
    return sheet(shown, f"{len(wrong)} of {len(predictions)} images mistaken, the {len(shown)} most confident")


def least_certain(predictions: pd.DataFrame, count: int) -> Figure:
    """The images that the model was least sure of, mistaken or not."""
    shown = uncertain(predictions)[:count]
    return sheet(shown, f"the {len(shown)} least certain of {len(predictions)} images")


@rc_context(STYLE)
def sheet(rows: pd.DataFrame, title: str) -> Figure:
    """Images (columns path, actual, predicted, confidence) in lines of six, on one pair of axes: each costs time."""
    lines = max(1, -(-len(rows) // COLUMNS))
    figure = Figure(figsize=(2 * COLUMNS, 2 * HEIGHT * lines + 0.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.set_axis_off()
    for index, (_, row) in enumerate(rows.iterrows()):
        thumbnail(axes, index % COLUMNS, HEIGHT * (index // COLUMNS), row)
    axes.set(xlim=(0, COLUMNS), ylim=(HEIGHT * lines, 0))
    return figure


def thumbnail(axes: Axes, left: float, top: float, row: pd.Series) -> None:
    """The image, above it what it was taken for and how surely, and below it the class that it is of, and its name."""
    axes.imshow(read_image(DATA / row["path"], SIDE), extent=(left + 0.04, left + 0.96, top + 1.1, top + 0.18))
    right = row["predicted"] == row["actual"]
    words, color = f"{fitted(row['predicted'], 20)} {row['confidence']:.0%}", GOOD if right else WRONG
    axes.text(left + 0.5, top + 0.15, words, ha="center", va="bottom", fontsize=9, color=color)
    axes.text(left + 0.5, top + 1.13, fitted(row["path"], 32), ha="center", va="top", fontsize=8, color=FAINT)


def fitted(text: str, most: int) -> str:
    """A text of so many letters at most: of a longer one both ends, which tell it from others."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
