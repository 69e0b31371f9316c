"""One style for all figures: on white as PNG, or as SVG within a page that may be light or dark."""

import re
from io import StringIO
from pathlib import Path
from typing import Literal

from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, LINE = "#22262b", "#666d75", "#e3e1da"
GOOD, WRONG = "#0b6e4f", "#b23a48"
CSS_VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", GOOD: "--good", WRONG: "--wrong"}
DEFAULTS = {key: value for key, value in dict(rcParamsDefault).items() if not key.startswith("backend")}
STYLE = DEFAULTS | {  # ignores the user's matplotlibrc
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
}
WIDTH = 5.2  # inches; a phone shows the figure without scrolling


@rc_context(STYLE)
def save_png(figure: Figure, path: Path) -> None:
    """Save a figure as PNG on white."""
    figure.savefig(path, dpi=110, pil_kwargs={"compress_level": 1})  # half the time, slightly larger files


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element for a page that defines the colours of CSS_VARIABLES.

    `name` keeps its ids apart from those of other figures. The page itself describes the figure to screen readers.
    """
    buffer = StringIO()
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    element = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    element = re.sub(r'<g id="[^"]*"', "<g", element[element.index("<svg") :])
    for color, variable in CSS_VARIABLES.items():
        element = element.replace(color, f"var({variable})")
    return element.strip()


def format_axes(axes: Axes, title: str, along: Literal["both", "x", "y"] = "both") -> None:
    """Add a title and a light grid along one axis or both, and remove the ticks."""
    axes.set_title(title)
    axes.grid(axis=along)
    axes.tick_params(length=0)
