"""Contact sheets of the most confident mistakes and of the least certain images."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landuse.core.paths import DATA
from landuse.ml.images import read_image
from landuse.report.style import FAINT, GOOD, STYLE, WRONG

COLUMNS = 6
SIDE = 160
HEIGHT = 1.3  # of an image with its captions, in image widths


def rank_mistakes(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of mistakes, the most confident first."""
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    return wrong.sort_values("confidence", ascending=False, kind="stable")


def rank_by_uncertainty(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return all rows, the least confident first."""
    return predictions.sort_values("confidence", kind="stable")


def worst_mistakes(predictions: pd.DataFrame, count: int) -> Figure:
    """Show the most confident mistakes."""
    wrong = rank_mistakes(predictions)
    shown = wrong[:count]
    return contact_sheet(shown, f"{len(wrong)} of {len(predictions)} images mistaken, the {len(shown)} most confident")


def least_certain(predictions: pd.DataFrame, count: int) -> Figure:
    """Show the images with the lowest confidence, whether correct or not."""
    shown = rank_by_uncertainty(predictions)[:count]
    return contact_sheet(shown, f"the {len(shown)} least certain of {len(predictions)} images")


@rc_context(STYLE)
def contact_sheet(rows: pd.DataFrame, title: str) -> Figure:
    """Show images (columns path, actual, predicted, confidence) in rows of six.

    All share one pair of axes, since creating axes is slow.
    """
    lines = max(1, -(-len(rows) // COLUMNS))
    figure = Figure(figsize=(2 * COLUMNS, 2 * HEIGHT * lines + 0.6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    axes.set_axis_off()
    for index, (_, row) in enumerate(rows.iterrows()):
        add_thumbnail(axes, index % COLUMNS, HEIGHT * (index // COLUMNS), row)
    axes.set(xlim=(0, COLUMNS), ylim=(HEIGHT * lines, 0))
    return figure


def add_thumbnail(axes: Axes, left: float, top: float, row: pd.Series) -> None:
    """Add an image, with its predicted class and confidence above it and its path, which names its class, below."""
    axes.imshow(read_image(DATA / row["path"], SIDE), extent=(left + 0.04, left + 0.96, top + 1.1, top + 0.18))
    correct = row["predicted"] == row["actual"]
    caption, color = f"{shorten(row['predicted'], 20)} {row['confidence']:.0%}", GOOD if correct else WRONG
    axes.text(left + 0.5, top + 0.15, caption, ha="center", va="bottom", fontsize=9, color=color)
    axes.text(left + 0.5, top + 1.13, shorten(row["path"], 32), ha="center", va="top", fontsize=8, color=FAINT)


def shorten(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters, keeping both ends, which identify it best."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
