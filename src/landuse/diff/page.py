"""The page of a diff: the images that were added, removed, relabelled and changed, as one self-contained HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landuse.core.errors import LanduseError
from landuse.ml.images import data_uri, parallel_map, thumbnail
from landuse.project.dvc_cache import Listing, cached_file
from landuse.project.listings import DataChange, class_of
from landuse.report.page import page_environment

SIDE = 144  # pixels of a thumbnail's longer side
MAX_CARDS = 100  # per group


@dataclass(frozen=True)
class Card:
    """An image, or one before and after: the md5 of each, its path now and, if that changed, what happened to it."""

    md5s: tuple[str, ...]
    path: str
    words: str = ""


def render(
    change: DataChange,
    before: Listing,
    after: Listing,
    names: tuple[str, str],
    versions: tuple[str, str],
    rows: list[tuple[str, int, int]],
) -> str:
    """Render the page as HTML, with thumbnails from DVC's cache and the images of each class that has more or fewer."""
    groups = [
        build_group("Added", [Card((after[path],), path) for path in change.added]),
        build_group("Removed", [Card((before[path],), path) for path in change.removed]),
        build_group("Relabelled", [moved_card(old, new, after) for old, new in change.moved]),
        build_group("Changed in content", [Card((before[path], after[path]), path) for path in change.edited]),
    ]
    template = page_environment(Path(__file__).parent).get_template("page.html")
    return template.render(change=change, names=names, versions=versions, rows=rows, groups=groups)


def moved_card(old: str, new: str, after: Listing) -> Card:
    """Return the card of an image that has another class now."""
    return Card((after[new],), new, f"{class_of(old)} → {class_of(new)}")


def build_group(title: str, cards: list[Card]) -> dict[str, Any]:
    """Return a group with the thumbnails of its first cards, and how many more there are."""
    shown = cards[:MAX_CARDS]
    files = [cached_file(md5) for card in shown for md5 in card.md5s]
    sources = parallel_map(read_thumbnail, files)
    content = [(card, [next(sources) for _ in card.md5s]) for card in shown]
    return {"title": title, "cards": content, "all": len(cards), "more": len(cards) - len(shown)}


def read_thumbnail(file: Path) -> str | None:
    """Return a thumbnail as a data URI; None if the cache does not have the image, or it cannot be decoded."""
    try:
        return data_uri(thumbnail(file, SIDE))
    except LanduseError:
        return None
