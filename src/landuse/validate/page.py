"""The validation page: every expectation, and the images that are not as expected. One file, no network."""

from collections.abc import Callable, Iterable
from functools import cache
from html import escape
from pathlib import Path, PurePosixPath

import pandas as pd

from landuse.ml.images import data_uri, thumbnail
from landuse.validate.findings import Finding, Offender, Verdict

SHOWN = 60  # thumbnails of one expectation
SIDE = 144  # pixels of a thumbnail's longer side
PLACEHOLDER = '<span class="placeholder">does not decode</span>'
STYLE = Path(__file__).with_name("page.css")

Thumbnail = Callable[[str], str]


def render_page(verdict: Verdict, manifest: pd.DataFrame, data: Path, docs: Iterable[str]) -> str:
    """The page as HTML. `data` holds the images of the manifest; `docs` are the Data Docs, relative to the page."""
    readable = {*manifest.loc[manifest["decodes"], "path"]}
    thumbnail = cache(lambda path: picture(data / path, path) if path in readable else PLACEHOLDER)
    failed = [finding for finding in verdict.expectations if not finding.success]
    parts = [
        headline(verdict, data),
        table(verdict),
        *(section(finding, thumbnail) for finding in sorted(failed, key=lambda finding: finding.severity)),
        class_counts(manifest),
        footer(docs),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Validation of {escape(data.name)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n"
        f"</head>\n<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def headline(verdict: Verdict, data: Path) -> str:
    """What it comes to, in one word and one line."""
    state, word = ("passed", "Passed") if verdict.success else ("failed", "Failed")
    if verdict.success and verdict.warnings:
        state, word = "warned", "Passed with warnings"
    facts = [
        count(verdict.images, "image"),
        count(verdict.classes, "class", "classes"),
        count(len(verdict.expectations), "expectation"),
        count(verdict.errors, "error"),
        count(verdict.warnings, "warning"),
    ]
    line = " · ".join(facts)
    return f'<header class="{state}">\n<p>{escape(data.name)}</p>\n<h1>{word}</h1>\n<p>{line}</p>\n</header>\n'


def table(verdict: Verdict) -> str:
    """One row per expectation."""
    rows = "".join(map(table_row, verdict.expectations))
    head = "<tr><th></th><th>Expectation</th><th>If not</th><th>Found</th></tr>"
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n"


def table_row(finding: Finding) -> str:
    """Mark, words, severity and what was found; a failed one leads to its images."""
    words = escape(finding.words)
    if not finding.success:
        words = f'<a href="#{finding.name}">{words}</a>'
    severity = "error" if finding.severity == "critical" else "warning"
    return (
        f'<tr class="{state(finding)}"><td>{mark(finding)}</td><td>{words}</td>'
        f'<td><span class="severity">{severity}</span></td><td>{escape(finding.observed)}</td></tr>\n'
    )


def state(finding: Finding) -> str:
    """The style of an expectation."""
    return "passed" if finding.success else "failed" if finding.severity == "critical" else "warned"


def mark(finding: Finding) -> str:
    """A sign that reads without its colour."""
    sign, word = {"passed": ("✓", "as expected"), "failed": ("✕", "error"), "warned": ("!", "warning")}[state(finding)]
    return f'<span class="mark" role="img" aria-label="{word}">{sign}</span>'


def section(finding: Finding, thumbnail: Thumbnail) -> str:
    """One failed expectation with the images that are not as expected."""
    cards, room = [], SHOWN
    for offender in finding.offenders:
        cards.append(card(offender, thumbnail, max(room, 1)))
        room -= max(len(offender.paths), 1)
        if room <= 0:
            break
    more = finding.unexpected - len(cards)
    rest = f'<p class="more">and {more:,} more</p>\n' if more > 0 else ""
    return (
        f'<section id="{finding.name}" class="{state(finding)}">\n<h2>{mark(finding)} {escape(finding.words)}</h2>\n'
        f'<p>Found: {escape(finding.observed)}</p>\n<div class="cards">\n{"".join(cards)}</div>\n{rest}</section>\n'
    )


def card(offender: Offender, thumbnail: Thumbnail, room: int) -> str:
    """One offender; images that belong together stand side by side."""
    pictures = "".join(map(thumbnail, offender.paths[:room]))
    several = " together" if len(offender.paths) > 1 else ""
    name, found = (escape(text).replace("/", "/<wbr>") for text in (offender.name, offender.found))
    caption = f"<figcaption><b>{name}</b><br>{found}</figcaption>"
    return f'<figure class="card{several}"><div>{pictures}</div>{caption}</figure>\n'


def picture(file: Path, name: str) -> str:
    """A thumbnail as an <img> that holds its own bytes."""
    text = escape(name)
    source = data_uri(thumbnail(file, SIDE))
    return f'<img src="{source}" alt="{text}" title="{text}" loading="lazy">'


def class_counts(manifest: pd.DataFrame) -> str:
    """How many images each class has, as bars."""
    counts = manifest["label"].value_counts().sort_index()
    rows = "".join(
        f'<li><span>{escape(label)}</span><meter max="{counts.max()}" value="{images}"></meter>'
        f"<span>{images:,}</span></li>\n"
        for label, images in counts.items()
    )
    return f'<section>\n<h2>Images per class</h2>\n<ul class="classes">\n{rows}</ul>\n</section>\n' if rows else ""


def footer(docs: Iterable[str]) -> str:
    """Where the same is found for programs and in more detail."""
    links = ", ".join(f'<a href="{path}">{PurePosixPath(path).stem}</a>' for path in docs)
    return (
        "<footer>One row per image: manifest.parquet · this page for programs: validation.json · "
        f"Great Expectations Data Docs: {links}</footer>\n"
    )


def count(number: int, one: str, many: str = "") -> str:
    """`1 image`, `2,100 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
