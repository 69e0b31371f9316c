"""Template engine and style of the self-contained HTML pages, for light and dark screens."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

STYLE = Path(__file__).with_name("page.css")


def page_environment(folder: Path) -> Environment:
    """Return an environment for the templates in a folder that escapes all text, and refuses undefined names."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = FileSystemLoader(folder)
    environment.filters |= {"percent": "{:.1%}".format, "signed": "{:+.1%}".format}
    environment.globals["style"] = Markup(STYLE.read_text(encoding="utf-8"))
    return environment
