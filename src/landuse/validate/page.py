"""The validation page: all expectations, and the images that violate them. One file that needs no network."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from landuse.ml.images import data_uri, thumbnail
from landuse.validate.findings import Finding, Offender, ValidationResult

MAX_THUMBNAILS = 60  # per expectation
SIDE = 144  # pixels of a thumbnail's longer side
HERE = Path(__file__).parent


def render_page(validation: ValidationResult, manifest: pd.DataFrame, data: Path, docs: Iterable[str]) -> str:
    """Render the page as HTML. `data` contains the images; `docs` are links to Data Docs, relative to the page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"status": status, "breakable": breakable, "thousands": "{:,}".format, "stem": stem}
    readable = {*manifest.loc[manifest["decodes"], "path"]}
    failed = [finding for finding in validation.expectations if not finding.success]
    state, headline = summarize(validation)
    return environment.get_template("page.html").render(
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        name=data.name,
        state=state,
        headline=headline,
        facts=key_figures(validation),
        validation=validation,
        failed=[(finding, select_cards(finding)) for finding in sorted(failed, key=lambda item: item.severity)],
        class_counts=manifest["label"].value_counts().sort_index().to_dict(),
        docs=list(docs),
        thumbnail=cache(lambda path: data_uri(thumbnail(data / path, SIDE)) if path in readable else None),
    )


def summarize(validation: ValidationResult) -> tuple[str, str]:
    """Return the CSS class of the whole result and its headline."""
    if not validation.success:
        return "failed", "Failed"
    return ("warned", "Passed with warnings") if validation.warnings else ("passed", "Passed")


def key_figures(validation: ValidationResult) -> list[str]:
    """Return the counts below the headline."""
    return [
        count(validation.images, "image"),
        count(validation.classes, "class", "classes"),
        count(len(validation.expectations), "expectation"),
        count(validation.errors, "error"),
        count(validation.warnings, "warning"),
    ]


def select_cards(finding: Finding) -> list[tuple[Offender, tuple[str, ...]]]:
    """Select the offenders to show, each with the paths of its images: about MAX_THUMBNAILS in all, at least one each.

    An offender without images counts as one thumbnail.
    """
    cards, room = [], MAX_THUMBNAILS
    for offender in finding.offenders:
        cards.append((offender, offender.paths[: max(room, 1)]))
        room -= max(len(offender.paths), 1)
        if room <= 0:
            break
    return cards


def status(finding: Finding) -> str:
    """Return the CSS class of an expectation."""
    return "passed" if finding.success else "failed" if finding.severity == "critical" else "warned"


def breakable(text: str) -> Markup:
    """Allow line breaks after the slashes of a path."""
    return Markup("/<wbr>").join(text.split("/"))


def stem(path: str) -> str:
    """Return the file name of a link without its suffix."""
    return PurePosixPath(path).stem


def count(number: int, singular: str, plural: str = "") -> str:
    """Format a count with its noun: `1 image`, `2,100 images`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
