"""The report: one page on a version, its verdict and all that it stands on. One file, no network."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA
from landuse.gate.blessing import Blessing
from landuse.gate.comparison import p_value
from landuse.ml.images import data_uri, thumbnail
from landuse.params import EvaluateParams
from landuse.promote import report_data
from landuse.registry.version_record import VersionRecord
from landuse.report import charts
from landuse.report.style import svg
from landuse.report.thumbnails import mistaken, uncertain

HERE = Path(__file__).parent
SIDE = 168  # pixels of a thumbnail's longer side
CONFUSED = 6  # pairs of classes that are named


def render(record: VersionRecord, blessing: Blessing, params: EvaluateParams) -> str:
    """The page as HTML. Its thumbnails are images of `data/`."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    percents = {"percent": "{:.1%}".format, "signed": "{:+.1%}".format}
    environment.filters |= percents | {"number": report_data.number, "p_value": p_value}
    return environment.get_template("page.html").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        record=record,
        blessing=blessing,
        data=report_data,
        figures={name: Markup(svg(figure, name)) for name, figure in figures(record, blessing, params).items()},
        confused=confused(record.predictions),
        sheets=sheets(record.predictions, params.mistakes),
    )


def figures(record: VersionRecord, blessing: Blessing, params: EvaluateParams) -> dict[str, Figure]:
    """Every figure of which there is something on record."""
    drawn = {
        "confusion": (record.predictions, charts.confusion),
        "reliability": (record.predictions, partial(charts.reliability, bins=params.calibration_bins)),
        "per_class": (record.per_class, charts.per_class),
        "slices": (report_data.slices(blessing), charts.slices),
        "curves": (record.history, charts.curves),
        "dead_kernels": (record.card.get("depthwise_filters"), charts.dead_kernels),
    }
    return {name: draw(kept) for name, (kept, draw) in drawn.items() if kept is not None}


def confused(predictions: pd.DataFrame | None) -> list[tuple[str, str, int]]:
    """The most frequent mistakes: what it is, what it was taken for, how often."""
    if predictions is None:
        return []
    pairs = mistaken(predictions).groupby(["actual", "predicted"]).size().sort_values(ascending=False, kind="stable")
    return [(actual, predicted, int(count)) for (actual, predicted), count in pairs[:CONFUSED].items()]


def sheets(predictions: pd.DataFrame | None, count: int) -> list[dict[str, Any]]:
    """The surest mistakes and the least certain images, as they are to be looked at."""
    if predictions is None:
        return []
    return [
        sheet("The surest mistakes", "mistakes", mistaken(predictions), count),
        sheet("The least certain images", "images", uncertain(predictions), count),
    ]


def sheet(title: str, noun: str, rows: pd.DataFrame, count: int) -> dict[str, Any]:
    """The first images of a table."""
    cards = list(map(card, rows[:count].itertuples()))
    return {"title": title, "noun": noun, "shown": len(cards), "all": len(rows), "cards": cards}


def card(row: Any) -> dict[str, Any]:
    """One image, without a picture where it cannot be read any more; what it was taken for and what it is."""
    try:
        source = data_uri(thumbnail(DATA / row.path, SIDE))
    except LanduseError:
        source = None
    right = row.predicted == row.actual
    told = {"path": row.path, "predicted": row.predicted, "actual": row.actual, "confidence": row.confidence}
    return told | {"source": source, "right": right}
