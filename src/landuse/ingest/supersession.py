"""Supersession: whether data/ has what `data.source` or an arrival holds, or something that took its place."""

from typing import Any

from landuse.core.errors import LanduseError
from landuse.ingest.sources import Source, find_source
from landuse.params import DataParams


def is_up_to_date(source: Source, arrival: str | None, state: str, metadata: dict[str, Any], checks: str) -> bool:
    """Return True if an ingest would leave data/ as it is. Raises LanduseError like `is_superseded`."""
    return is_current(source, state, metadata, checks) or (arrival is None and is_superseded(source, state, metadata))


def is_current(source: Source, state: str, metadata: dict[str, Any], checks: str) -> bool:
    """Return True if data/ already contains this source, validated against these requirements."""
    return state == "unchanged" and {"digest": source.digest, "checks": checks}.items() <= metadata.items()


def is_superseded(source: Source, state: str, metadata: dict[str, Any]) -> bool:
    """Return True if data/ contains an arrival that replaced this source.

    Raises LanduseError if it should, but data/ is missing: the source must not take its place again by accident.
    """
    if source.digest != metadata.get("supersedes"):
        return False
    if state == "missing":
        name, is_arrival = metadata["source"], len(metadata.get("batches", ())) < 2
        origin = f"which arrived as {name} after data.source = {source.name}" if is_arrival else f"made of {name}"
        remedy = f"restore it with `dvc pull data`{f', or ingest {name} again' if is_arrival else ''}"
        raise LanduseError(f"data/ is missing version {metadata['version']}, {origin}: {remedy}")
    return True


def superseded_digest(data: DataParams, metadata: dict[str, Any]) -> str | None:
    """Return the digest of `data.source`, or the last one on record if it cannot be determined now."""
    try:
        return find_source(data).digest
    except LanduseError:
        return metadata.get("supersedes", metadata.get("digest"))
