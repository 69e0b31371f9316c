"""The batches that data/ is made of, on record as `meta.batches` of data.dvc: what came in, and what was taken out."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from landuse.core.errors import printable
from landuse.project.dvc_cache import Listing
from landuse.project.lineage import data_record, read_data_dvc
from landuse.project.listings import count_classes

Batch = dict[str, Any]

EDITED_BY_HAND = "edited by hand"


def added_batch(source: str, digest: str, paths: Iterable[str]) -> Batch:
    """Return the record of a batch of images that came in now."""
    counts = dict(count_classes(paths))
    moment = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"source": source, "digest": digest, "date": moment, "images": sum(counts.values()), "classes": counts}


def removed_batch(source: str, digest: str, paths: Iterable[str]) -> Batch:
    """Return the record of images that were taken out now: its numbers are negative."""
    batch = added_batch(source, digest, paths)
    counts = {label: -count for label, count in batch["classes"].items()}
    return batch | {"images": -batch["images"], "classes": counts}


def recorded_batches(metadata: dict[str, Any], listing: Listing) -> list[Batch]:
    """Return the batches of the current data set. One without a record counts as a single batch of unknown date.

    If data/ was edited by hand and versioned by DVC since, the edit counts as a batch too.
    """
    recorded = (read_data_dvc().get("meta") or {}).get("batches")
    if recorded and is_record(recorded):
        return [*recorded, *edits(recorded, listing)]
    counts = dict(count_classes(listing))
    source = printable(data_record().get("source", "an unknown source"))
    return [{"source": source, "digest": metadata.get("digest"), "images": sum(counts.values()), "classes": counts}]


def edits(batches: list[Batch], listing: Listing) -> list[Batch]:
    """Return the batch that stands for what was edited by hand since others, by its numbers; empty if there is none."""
    counts = count_classes(listing)
    for batch in batches:
        counts.subtract(batch["classes"])
    changed = {label: count for label, count in sorted(counts.items()) if count}
    batch = {"source": EDITED_BY_HAND, "digest": None, "images": sum(changed.values()), "classes": changed}
    return [batch] if changed else []


def is_record(batches: Any) -> bool:
    """Return True if these are batches as they are recorded, which nobody has damaged."""
    keys = {"source", "digest", "images", "classes"}
    return isinstance(batches, list) and all(
        isinstance(batch, dict)
        and batch.keys() >= keys
        and isinstance(batch["classes"], dict)
        and all(isinstance(count, int) for count in batch["classes"].values())
        for batch in batches
    )


def describe_batches(batches: list[Batch]) -> dict[str, str]:
    """Return name and digest of a data set that is made of batches; of a single one, they are its own."""
    first, since = batches[0], len(batches) - 1
    if not since:
        return {"source": first["source"], "digest": str(first["digest"])}
    digest = sha256(" ".join(str(batch["digest"]) for batch in batches).encode()).hexdigest()
    name = f"{first['source']} and {since} {'batch' if since == 1 else 'batches'} since"
    return {"source": name, "digest": f"sha256:{digest}"}
