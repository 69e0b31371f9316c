"""Charts and contact sheets of training and evaluation: as PNG in the MLflow UI, as SVG in the report page."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from landuse.core.files import read_table
from landuse.core.paths import HISTORY, PER_CLASS, PREDICTIONS
from landuse.params import EvaluateParams
from landuse.report import charts, thumbnails
from landuse.report.style import save_png


def save_pictures(
    folder: Path, params: EvaluateParams, filters: dict[str, dict[str, Any]] | None, metrics: dict[str, Any]
) -> None:
    """Write one PNG per figure, from tables and metrics of the held-out images and the filters of the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions = read_table(PREDICTIONS)
    pictures: dict[str, Figure] = {
        "curves": charts.curves(read_table(HISTORY)),
        "confusion": charts.confusion(predictions),
        "per_class": charts.per_class(read_table(PER_CLASS)),
        "reliability": charts.reliability(predictions, params.calibration_bins),
        "mistakes": thumbnails.worst_mistakes(predictions, params.mistakes),
        "uncertain": thumbnails.least_certain(predictions, params.mistakes),
    }
    if filters:
        pictures["dead_kernels"] = charts.dead_kernels(filters)
        pictures["silent_kernels"] = charts.silent_kernels(metrics)
    for name, figure in pictures.items():
        save_png(figure, folder / f"{name}.png")
