"""Pictures of a training and its evaluation, for people: in the MLflow UI, and where DVC plots have no network."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landuse.dataset import read_image
from landuse.paths import DATA, HISTORY, PER_CLASS, PREDICTIONS

TRAIN, VALIDATION, WRONG = "#8899a6", "#0b6e4f", "#b23a48"
COLUMNS = 6
THUMBNAIL = 160


def draw_pictures(folder: Path, mistakes: int) -> None:
    """Write curves.png, confusion.png, per_class.png and mistakes.png from the tables of train and evaluate."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions = pd.read_csv(PREDICTIONS)
    pictures = {
        "curves": curves(pd.read_csv(HISTORY)),
        "confusion": confusion(predictions),
        "per_class": per_class(pd.read_csv(PER_CLASS)),
        "mistakes": worst_mistakes(predictions, mistakes),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"{name}.png", dpi=110)


def curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy of train and validation by epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for subset, color in (("train", TRAIN), ("validation", VALIDATION)):
            axes.plot(history["epoch"], history[f"{subset}_{name}"], color=color, label=subset, marker=".")
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes, f"{name} by epoch")
        axes.legend(frameon=False)
    return figure


def confusion(predictions: pd.DataFrame) -> Figure:
    """How many images of each class (rows) were taken for which (columns)."""
    labels = sorted(set(predictions["actual"]) | set(predictions["predicted"]))
    table = pd.crosstab(predictions["actual"], predictions["predicted"]).reindex(index=labels, columns=labels).fillna(0)
    side = 3 + 0.32 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(table, cmap="Greens")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(table.to_numpy(int)):
        if count:
            dark = count > table.to_numpy().max() / 2
            axes.text(column, row, count, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set(xlabel="predicted", ylabel="actual", title="confusion matrix")
    return figure


def per_class(figures: pd.DataFrame) -> Figure:
    """Recall of every class, the lowest on top."""
    figures = figures.sort_values("recall", ascending=False, kind="stable")
    figure = Figure(figsize=(8, 1.5 + 0.28 * len(figures)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(figures["class"], figures["recall"], color=VALIDATION)
    axes.bar_label(bars, [f"{recall:.0%}" for recall in figures["recall"]], padding=3, fontsize=8)
    axes.set_xlim(0, 1.1)
    tidy(axes, "recall by class")
    return figure


def worst_mistakes(predictions: pd.DataFrame, count: int) -> Figure:
    """Thumbnails of the mistakes that the model was most sure of."""
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    worst = wrong.sort_values("confidence", ascending=False, kind="stable")[:count]
    rows = max(1, -(-len(worst) // COLUMNS))
    figure = Figure(figsize=(2 * COLUMNS, 2.6 * rows + 0.6), layout="constrained")
    figure.suptitle(f"{len(wrong)} of {len(predictions)} images mistaken, the {len(worst)} most confident")
    for index in range(rows * COLUMNS):
        axes = figure.add_subplot(rows, COLUMNS, index + 1)
        axes.set_axis_off()
        if index < len(worst):
            thumbnail(axes, worst.iloc[index])
    return figure


def thumbnail(axes: Axes, row: pd.Series) -> None:
    """One mistake: the image, what it was taken for and how surely, and what it is."""
    axes.imshow(read_image(DATA / row["path"], THUMBNAIL))
    axes.set_title(f"{row['predicted']} {row['confidence']:.0%}", fontsize=9, color=WRONG, pad=2)
    axes.text(0.5, -0.03, Path(row["path"]).name, transform=axes.transAxes, ha="center", va="top", fontsize=8)


def tidy(axes: Axes, title: str) -> None:
    """A title, a light grid, no box."""
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
