"""The batches that data/ is made of, on record as `meta.batches` of data.dvc: what came in, and what was taken out."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from landuse.core.errors import printable
from landuse.project.dvc_cache import Listing
from landuse.project.lineage import data_record
from landuse.project.listings import count_classes

Batch = dict[str, Any]


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
    """Return the batches of the current data set. One without a record counts as a single batch of unknown date."""
    if "batches" in metadata:
        return list(metadata["batches"])
    counts = dict(count_classes(listing))
    source = printable(data_record().get("source", "an unknown source"))
    return [{"source": source, "digest": metadata.get("digest"), "images": sum(counts.values()), "classes": counts}]


def describe_batches(batches: list[Batch]) -> dict[str, str]:
    """Return name and digest of a data set that is made of batches; of a single one, they are its own."""
    first, since = batches[0], len(batches) - 1
    if not since:
        return {"source": first["source"], "digest": str(first["digest"])}
    digest = sha256(" ".join(str(batch["digest"]) for batch in batches).encode()).hexdigest()
    name = f"{first['source']} and {since} {'batch' if since == 1 else 'batches'} since"
    return {"source": name, "digest": f"sha256:{digest}"}
