"""The page of a study: the networks side by side, as one self-contained HTML file."""

from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from landuse.gate.comparison import format_p_value
from landuse.report import charts
from landuse.report.page import page_environment
from landuse.report.style import to_svg
from landuse.study.results import NetworkResult

SIGNIFICANCE = 0.05
FIGURES = {"accuracies": charts.accuracies, "differences": charts.differences, "trade_off": charts.trade_off}


def render(networks: pd.DataFrame, results: list[NetworkResult], drawn: bool) -> str:
    """Render the table, and the results behind it in the same order, as HTML. `drawn` images are said to be so."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"p_value": format_p_value, "thousands": "{:,.0f}".format, "decimal": decimal}
    plots = {name: plot(networks) for name, plot in FIGURES.items()}
    for number, result in enumerate(results):
        plots[f"silent_{number}"] = charts.silent_kernels(result.metrics)
        plots[f"dead_{number}"] = charts.dead_kernels(result.card["depthwise_filters"], result.metrics["depthwise"])
    return environment.get_template("page.html").render(
        networks=networks.to_dict("records"),
        first=networks.iloc[0],
        sentences=[compare_in_words(row, networks.iloc[0]) for _, row in networks[1:].iterrows()],
        drawn=drawn,
        figures={name: Markup(to_svg(figure, name)) for name, figure in plots.items()},
    )


def decimal(value: float, digits: int) -> str:
    """Format a number with some decimals; a dash if it is not known."""
    return "–" if pd.isna(value) else f"{value:,.{digits}f}"


def compare_in_words(row: "pd.Series[Any]", first: "pd.Series[Any]") -> str:
    """Say whether a network differs from the first one: by the 95 % interval and by McNemar's test, or not at all."""
    points, low, high = (100 * row[key] for key in ("difference", "difference_low", "difference_high"))
    evidence = f"(95 % interval {low:+.1f} to {high:+.1f} points; McNemar {format_p_value(row['p_value'])})"
    outside, significant = low > 0 or high < 0, row["p_value"] < SIGNIFICANCE
    if outside != significant:
        pair = f"{row['network']} and {first['network']}"
        return f"Interval and test disagree about {pair}: {points:+.1f} points {evidence}."
    if not significant:
        return f"{row['network']} and {first['network']} cannot be told apart: {points:+.1f} points {evidence}."
    side = "more" if points > 0 else "less"
    return f"{row['network']} is {abs(points):.1f} points {side} accurate than {first['network']} {evidence}."
