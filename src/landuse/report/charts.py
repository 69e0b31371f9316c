"""Charts of the tables of train, evaluate and promote."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from landuse.ml.classifier import DEAD
from landuse.ml.metrics import calibration_error, confidence_bins
from landuse.report.style import FAINT, GOOD, INK, LINE, STYLE, WIDTH, WRONG, format_axes

BLOCK_PREFIX = re.compile("block_?|conv_dw_|expanded_conv_?")
MAX_ALPHA = 0.45  # opacity of the fullest cell: low enough for readable text on it
MIN_SHOWN = 1e-5  # smaller filter weights, such as zeros, are plotted here


@rc_context(STYLE)
def curves(history: pd.DataFrame) -> Figure:
    """Plot loss and accuracy of the training and validation subsets by epoch."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    for axes, name in zip(figure.subplots(2, 1), ("loss", "accuracy"), strict=True):
        for subset, color in (("train", FAINT), ("validation", GOOD)):
            axes.plot(history["epoch"], history[f"{subset}_{name}"], color=color, label=subset, marker=".")
        axes.xaxis.get_major_locator().set_params(integer=True)
        format_axes(axes, f"{name} by epoch")
        axes.legend()
    return figure


@rc_context(STYLE)
def confusion(predictions: pd.DataFrame) -> Figure:
    """Plot the confusion matrix: actual classes are rows, predicted ones columns, mistakes red."""
    labels = sorted(set(predictions["actual"]) | set(predictions["predicted"]))
    table = pd.crosstab(predictions["actual"], predictions["predicted"]).reindex(index=labels, columns=labels).fillna(0)
    side = 2.4 + 0.31 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    for (row, column), count in np.ndenumerate(table.to_numpy(int)):
        if count:
            share = MAX_ALPHA * count / table.to_numpy().max()
            fill_cell(axes, row, column, *((GOOD, share) if row == column else (WRONG, max(share, MAX_ALPHA / 2))))
            axes.text(column, row, count, ha="center", va="center", fontsize=8)
    axes.set(xlabel="predicted", ylabel="actual", title="confusion matrix")
    axes.tick_params(length=0, labelcolor=INK)
    return figure


def fill_cell(axes: Axes, row: int, column: int, color: str, shade: float) -> None:
    """Colour one cell of the matrix."""
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=shade, linewidth=0))


@rc_context(STYLE)
def per_class(figures: pd.DataFrame) -> Figure:
    """Plot the recall of every class, the lowest on top."""
    figures = figures.sort_values("recall", ascending=False, kind="stable")
    figure = Figure(figsize=(WIDTH, 0.9 + 0.26 * len(figures)), layout="constrained")
    axes = figure.subplots()
    plot_bars(axes, figures["class"], figures["recall"], [f"{recall:.0%}" for recall in figures["recall"]])
    format_axes(axes, "recall by class", along="x")
    return figure


@rc_context(STYLE)
def slices(figures: pd.DataFrame) -> Figure:
    """Plot the accuracy of every slice, the first on top, and the threshold.

    Columns are slice, images, accuracy and threshold; that of slices that were not judged is missing.
    """
    figures, thresholds = figures[::-1], figures["threshold"].dropna()
    figure = Figure(figsize=(WIDTH, 1.1 + 0.26 * len(figures)), layout="constrained")
    axes = figure.subplots()
    texts = [f"{row.accuracy:.1%} of {row.images}" for row in figures.itertuples()]
    plot_bars(axes, figures["slice"], figures["accuracy"], texts)
    for threshold in thresholds.unique():
        axes.axvline(threshold, color=WRONG, linewidth=1, linestyle="--")
    format_axes(axes, ", at least ".join(["accuracy by slice", *map("{:.0%}".format, thresholds.unique())]), along="x")
    axes.set_xlim(0, 1.3)
    return figure


def plot_bars(axes: Axes, names: pd.Series, shares: pd.Series, texts: list[str]) -> None:
    """Plot one horizontal bar per share (0 to 1), with a text at its end."""
    rectangles = axes.barh(range(len(names)), shares, color=GOOD, alpha=0.75, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.bar_label(rectangles, texts, padding=3, fontsize=8)
    axes.set_xlim(0, 1.12)
    axes.margins(y=0.02)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])


@rc_context(STYLE)
def reliability(predictions: pd.DataFrame, bins: int) -> Figure:
    """Plot the reliability diagram: accuracy by confidence, above the number of images by confidence."""
    correct = (predictions["actual"] == predictions["predicted"]).to_numpy()
    confidence = predictions["confidence"].to_numpy()
    binned = confidence_bins(correct, confidence, bins)
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="as sure as right")
    above.vlines(binned["confidence"], binned["confidence"], binned["accuracy"], color=WRONG, alpha=0.6, label="gap")
    sizes = 15 + 150 * binned["images"] / binned["images"].sum()
    above.plot(binned["confidence"], binned["accuracy"], color=GOOD, linewidth=1)
    above.scatter(
        binned["confidence"], binned["accuracy"], sizes, color=GOOD, label="this model", zorder=3, clip_on=False
    )
    above.legend(loc="upper left")
    format_axes(above, f"accuracy by confidence; calibration error {calibration_error(correct, confidence, bins):.3f}")
    below.bar((binned.index + 0.5) / bins, binned["images"], width=0.9 / bins, color=FAINT)
    format_axes(below, "images by confidence", along="y")
    above.set(xlim=(0, 1.02), ylim=(-0.05, 1.05))
    return figure


@rc_context(STYLE)
def dead_kernels(filters: dict[str, dict[str, Any]], counts: Sequence[dict[str, Any]] = ()) -> Figure:
    """Plot the weakest and the median depthwise filter of every block, and the limit below which one is dead.

    With the `counts` of the evaluation, blocks with dead filters tell how many there are in float32 and in int8.
    """
    rows = pd.DataFrame(filters).T
    dead, total = f"{int(rows['dead'].sum())}", int(rows["filters"].sum())
    if counts:
        dead += f" ({sum(block['dead_int8'] for block in counts)} in int8)"
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    places, weakest = range(len(rows)), rows["weakest"].clip(lower=MIN_SHOWN)
    axes.vlines(places, weakest, rows["median"], color=LINE, linewidth=4)
    axes.plot(places, rows["median"], color=FAINT, marker="o", markersize=4, linestyle="", label="median filter")
    axes.plot(places, weakest, color=GOOD, marker="o", markersize=4, linestyle="", label="weakest filter")
    axes.axhline(DEAD, color=WRONG, linewidth=1, linestyle="--", label="dead below")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(places, short_names(rows.index))
    for place, block in enumerate(counts):
        if block["dead"] or block["dead_int8"]:
            axes.annotate(f"{block['dead']}/{block['dead_int8']}", (place, DEAD), ha="center", color=WRONG, fontsize=8)
    format_axes(axes, f"largest weight of a depthwise filter, by block; {dead} of {total:,} dead", along="y")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


@rc_context(STYLE)
def silent_kernels(metrics: dict[str, Any]) -> Figure:
    """Plot the share of depthwise channels of every block that are the same everywhere on every image.

    In float32 and in int8.
    """
    rows = pd.DataFrame(metrics["depthwise"]).set_index("block")
    totals = rows.sum()
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots()
    for shift, color, column, label in ((-0.2, GOOD, "silent", "float32"), (0.2, FAINT, "silent_int8", "int8")):
        text = f"{label}: {totals[column]:.0f} of {totals['filters']:,.0f}"
        axes.bar(np.arange(len(rows)) + shift, rows[column] / rows["filters"], width=0.4, color=color, label=text)
    axes.set_xticks(range(len(rows)), short_names(rows.index))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    format_axes(axes, f"silent depthwise channels by block, on {metrics['silent_images']} images", along="y")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


@rc_context(STYLE)
def accuracies(networks: pd.DataFrame) -> Figure:
    """Plot the accuracy of every network of a study, the first on top, in float32 and in int8."""
    networks = networks[::-1]
    figure = Figure(figsize=(WIDTH, 1.2 + 0.42 * len(networks)), layout="constrained")
    axes, places = figure.subplots(), range(len(networks))
    axes.hlines(places, networks["int8_accuracy"], networks["accuracy"], color=LINE, linewidth=4)
    for column, color, label in (("int8_accuracy", FAINT, "int8"), ("accuracy", GOOD, "float32")):
        axes.plot(networks[column], places, color=color, marker="o", linestyle="", label=label)
    axes.set_yticks(places, networks["network"])
    axes.xaxis.set_major_formatter(format_percent)
    axes.margins(x=0.1, y=0.2)
    format_axes(axes, f"accuracy on {networks['images'].iloc[0]:,} held-out images", along="x")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure


@rc_context(STYLE)
def differences(networks: pd.DataFrame) -> Figure:
    """Plot the accuracy of every other network of a study beside that of the first, with 95 % intervals."""
    first, others = networks["network"].iloc[0], networks[1:][::-1]
    figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * len(others)), layout="constrained")
    axes, places = figure.subplots(), range(len(others))
    axes.axvline(0, color=INK, linewidth=1)
    axes.hlines(places, others["difference_low"], others["difference_high"], color=GOOD, linewidth=2)
    axes.plot(others["difference"], places, color=GOOD, marker="o", linestyle="")
    axes.set_yticks(places, others["network"])
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:+.1%}")
    axes.margins(x=0.15, y=0.4)
    format_axes(axes, f"accuracy minus that of {first}, with 95 % interval", along="x")
    return figure


@rc_context(STYLE)
def trade_off(networks: pd.DataFrame) -> Figure:
    """Plot accuracy against the time of one image, for both files of every network; a line joins the two."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    times, scores = networks[["int8_latency_ms", "latency_ms"]].T, networks[["int8_accuracy", "accuracy"]].T
    axes.plot(times.to_numpy(), scores.to_numpy(), color=LINE, linewidth=2)
    for number, (label, color) in enumerate((("int8", FAINT), ("float32", GOOD))):
        axes.plot(times.iloc[number], scores.iloc[number], color=color, marker="o", linestyle="", label=label)
    for name, time, score in zip(networks["network"], times.iloc[1], scores.iloc[1], strict=True):
        axes.annotate(str(name), (time, score), (0, 7), textcoords="offset points", ha="center")
    axes.yaxis.set_major_formatter(format_percent)
    axes.margins(0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds from image file to answer, on one core")
    format_axes(axes, "accuracy and speed")
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


def format_percent(share: float, _: object) -> str:
    """Format a tick of an axis of shares."""
    return f"{share:.1%}"


def short_names(blocks: Iterable[str]) -> list[str]:
    """Shorten the names of blocks to their numbers."""
    return [BLOCK_PREFIX.sub("", name) or "first" for name in blocks]
