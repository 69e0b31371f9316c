"""The report page of a version: its verdict and the evidence for it, as one self-contained HTML file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA
from landuse.gate.blessing import Blessing
from landuse.gate.comparison import format_p_value
from landuse.ml.images import data_uri, thumbnail
from landuse.params import EvaluateParams
from landuse.project.listings import DataChange
from landuse.promote import report_data
from landuse.registry.version_record import VersionRecord
from landuse.report import charts
from landuse.report.page import page_environment
from landuse.report.style import to_svg
from landuse.report.thumbnails import rank_by_uncertainty, rank_mistakes

SIDE = 168  # pixels of a thumbnail's longer side
MAX_CONFUSED = 6  # pairs of classes


def render(
    record: VersionRecord,
    blessing: Blessing,
    params: EvaluateParams,
    change: DataChange | None = None,
    held_out: str | None = None,
) -> str:
    """Render the page as HTML. Thumbnails are made from the images in `data/`.

    `change` is from the champion's data to the version's; None if there was no champion, or it is not known.
    `held_out` tells what became of the images held out for the champion.
    """
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"number": report_data.format_number, "p_value": format_p_value}
    return environment.get_template("page.html").render(
        record=record,
        blessing=blessing,
        change=change,
        held_out=held_out,
        data=report_data,
        figures={name: Markup(to_svg(figure, name)) for name, figure in figures(record, blessing, params).items()},
        confused=most_confused(record.predictions),
        sheets=contact_sheets(record.predictions, params.mistakes),
    )


def figures(record: VersionRecord, blessing: Blessing, params: EvaluateParams) -> dict[str, Figure]:
    """Plot every figure whose data were recorded."""
    plots: dict[str, tuple[Any, Callable[[Any], Figure]]] = {
        "confusion": (record.predictions, charts.confusion),
        "reliability": (record.predictions, partial(charts.reliability, bins=params.calibration_bins)),
        "per_class": (record.per_class, charts.per_class),
        "slices": (report_data.slice_table(blessing), charts.slices),
        "curves": (record.history, charts.curves),
        "dead_kernels": (
            record.card.get("depthwise_filters"),
            partial(charts.dead_kernels, counts=record.metrics.get("depthwise", ())),
        ),
        "silent_kernels": (record.metrics if "depthwise" in record.metrics else None, charts.silent_kernels),
    }
    return {name: plot(recorded) for name, (recorded, plot) in plots.items() if recorded is not None}


def most_confused(predictions: pd.DataFrame | None) -> list[tuple[str, str, int]]:
    """Return the most frequent confusions: actual class, predicted class, number of images."""
    if predictions is None:
        return []
    counts = rank_mistakes(predictions).groupby(["actual", "predicted"]).size()
    pairs = counts.sort_values(ascending=False, kind="stable")[:MAX_CONFUSED].reset_index(name="images")
    return list(zip(pairs["actual"].tolist(), pairs["predicted"].tolist(), pairs["images"].tolist(), strict=True))


def contact_sheets(predictions: pd.DataFrame | None, count: int) -> list[dict[str, Any]]:
    """Return the sheets of the most confident mistakes and the least certain images."""
    if predictions is None:
        return []
    return [
        contact_sheet("The most confident mistakes", "mistakes", rank_mistakes(predictions), count),
        contact_sheet("The least certain images", "images", rank_by_uncertainty(predictions), count),
    ]


def contact_sheet(title: str, noun: str, rows: pd.DataFrame, count: int) -> dict[str, Any]:
    """Return a sheet with the first images of a table."""
    cards = list(map(image_card, rows[:count].itertuples()))
    return {"title": title, "noun": noun, "shown": len(cards), "all": len(rows), "cards": cards}


def image_card(row: Any) -> dict[str, Any]:
    """Return an image with its prediction and label; the thumbnail is None if the file cannot be read any more."""
    try:
        source = data_uri(thumbnail(DATA / row.path, SIDE))
    except LanduseError:
        source = None
    correct = row.predicted == row.actual
    facts = {"path": row.path, "predicted": row.predicted, "actual": row.actual, "confidence": row.confidence}
    return facts | {"source": source, "right": correct}
