"""How figures look: one hand for all of them, on paper or within a page that may be light or dark."""

import re
from io import StringIO
from pathlib import Path

from matplotlib import rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, LINE = "#22262b", "#666d75", "#e3e1da"
GOOD, WRONG = "#0b6e4f", "#b23a48"
IN_A_PAGE = {INK: "--ink", FAINT: "--faint", LINE: "--line", GOOD: "--good", WRONG: "--wrong"}
PLAIN = {key: value for key, value in dict(rcParamsDefault).items() if not key.startswith("backend")}
STYLE = PLAIN | {  # whatever a matplotlibrc of the user says
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
WIDTH = 5.2  # inches of a figure that a phone shows without scrolling


@rc_context(STYLE)
def save(figure: Figure, path: Path) -> None:
    """As a PNG on white."""
    figure.savefig(path, dpi=110, pil_kwargs={"compress_level": 1})  # half the time, a little more disk


def svg(figure: Figure, name: str) -> str:
    """As an `<svg>` element for a page that defines the colours of IN_A_PAGE; `name` keeps its ids apart from others.

    What it shows is said by the page, so that it is hidden from readers of the text.
    """
    buffer = StringIO()
    with rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn[drawn.index("<svg") :])
    for color, variable in IN_A_PAGE.items():
        drawn = drawn.replace(color, f"var({variable})")
    return drawn.strip()


def tidy(axes: Axes, title: str, along: str = "both") -> None:
    """A title, a light grid along one axis or both, and no ticks."""
    axes.set_title(title)
    axes.grid(axis=along)
    axes.tick_params(length=0)
