"""Sheets of images: what the model was surest of and wrong about, and what it was least sure of."""

from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landuse.dataset import read_image
from landuse.paths import DATA
from landuse.report.ink import FAINT, GOOD, STYLE, WRONG

COLUMNS = 6
SIDE = 160


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
    """Images (columns path, actual, predicted, confidence) in lines of six."""
    lines = max(1, -(-len(rows) // COLUMNS))
    figure = Figure(figsize=(2 * COLUMNS, 2.6 * lines + 0.6), layout="constrained")
    figure.suptitle(title)
    for index in range(lines * COLUMNS):
        axes = figure.add_subplot(lines, COLUMNS, index + 1)
        axes.set_axis_off()
        if index < len(rows):
            thumbnail(axes, rows.iloc[index])
    return figure


def thumbnail(axes: Axes, row: pd.Series) -> None:
    """The image, what it was taken for and how surely, and what it is."""
    axes.imshow(read_image(DATA / row["path"], SIDE))
    right = row["predicted"] == row["actual"]
    words, color = f"{row['predicted']} {row['confidence']:.0%}", GOOD if right else WRONG
    axes.set_title(words, loc="center", fontsize=9, color=color, pad=2)
    below = {"transform": axes.transAxes, "ha": "center", "va": "top", "fontsize": 8, "color": FAINT}
    axes.text(0.5, -0.03, Path(row["path"]).name, **below)
