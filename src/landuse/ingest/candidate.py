"""The candidate: a data set built and validated beside data/, to be swapped in for it or quarantined."""

import shutil
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from landuse.core.errors import Refused
from landuse.core.files import read_table
from landuse.core.paths import DATA, MANIFEST, QUARANTINE, VALIDATION
from landuse.ingest.batches import Batch, describe_batches
from landuse.ingest.record import CANDIDATE, params_digest
from landuse.ml.images import image_paths
from landuse.ml.pool import Pool
from landuse.params import ValidateParams
from landuse.sample import is_drawn
from landuse.validate import validate as validate_images

IMAGES = CANDIDATE / DATA


def check_candidate(
    params: ValidateParams, label: str, digest: str, pool: Pool, suspects: Collection[str] | None = None
) -> None:
    """Validate the candidate. Raises Refused with the label if it fails.

    The candidate is then in quarantine/ with its report, unless a file name is unsafe to show on a page. Of its images
    only the suspects are kept there, where they are given: the others are those in data/.
    """
    try:
        validate_images(params, IMAGES, CANDIDATE, pool)
    except Refused as error:
        reason = str(error)
        if (CANDIDATE / VALIDATION.name).exists():
            if suspects is not None:
                keep_only(suspects)
            reason = reason.replace(str(CANDIDATE), str(quarantine(digest)))
        raise Refused(f"{label} is rejected: {reason}") from None


def keep_only(paths: Collection[str]) -> None:
    """Remove all files but these from the candidate, and folders that are empty then."""
    for path in sorted(IMAGES.rglob("*"), reverse=True):  # what a folder holds comes before it
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(IMAGES).as_posix() not in paths:
            path.unlink()


def quarantine(digest: str) -> Path:
    """Move the candidate and its report to a folder of quarantine/ named by time and digest; return the folder.

    If a source is rejected repeatedly, every night perhaps, its images are kept only beside the latest report.
    """
    QUARANTINE.mkdir(exist_ok=True)
    moment, short = datetime.now(UTC), digest.rpartition(":")[2][:8]
    for earlier in QUARANTINE.glob(f"*-{short}"):
        shutil.rmtree(earlier / DATA, ignore_errors=True)
    folder = QUARANTINE / f"{moment:%Y%m%dT%H%M%S.%fZ}-{short}"
    shutil.move(CANDIDATE, folder)  # not a rename: quarantine/ may be on another disk
    return folder


def candidate_metadata(batches: list[Batch], ignored: int, validated: ValidateParams, drawn: bool) -> dict[str, Any]:
    """Return the metadata of the candidate that is recorded in git."""
    images = image_paths(IMAGES)
    return describe_batches(batches) | {
        "drawn": drawn,
        "images": len(images),
        "classes": len({path.parent for path in images}),
        "ignored": ignored,
        "checks": params_digest(validated),
        "batches": batches,
    }


def has_drawn(paths: Iterable[str]) -> bool:
    """Return True if any of these images of the candidate is drawn."""
    return any(is_drawn(IMAGES / path) for path in paths)


def known_digests() -> dict[str, str]:
    """Return the sha256 of the candidate's images, by path, as validation has read them."""
    images = read_table(CANDIDATE / MANIFEST.name, ["path", "sha256"])
    return dict(zip(images["path"], images["sha256"], strict=True))
