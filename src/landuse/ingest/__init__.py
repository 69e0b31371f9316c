"""Ingest new images: build them beside the current data set, validate them, then swap them in and version them.

The validation results become the outputs of the stage `validate`, which need not read the images a second time.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from landuse.core.addresses import public
from landuse.core.errors import DISK_FULL, LanduseError, NotReady, Refused, printable
from landuse.core.paths import ARTIFACTS, DATA, DATA_DVC, INCOMING, QUARANTINE, VALIDATION
from landuse.core.paths import SWAP as JOURNAL
from landuse.core.process import exclusive_lock
from landuse.ingest.record import (
    CANDIDATE,
    adopt_validation,
    complete_swap,
    params_digest,
    read_metadata,
    write_metadata,
)
from landuse.ingest.sources import Source, find_source
from landuse.ingest.swap import commit_swap, recover_swap, remove, swap_in, undo_swap
from landuse.ingest.unpack import is_encodable
from landuse.ml.images import image_paths
from landuse.params import DataParams, ValidateParams, load_params
from landuse.project.dvc_repo import (
    MODIFIED,
    NOT_IN_CACHE,
    add_data,
    data_status,
    lock_data,
    release_stale_locks,
    repository,
)
from landuse.sample import is_drawn
from landuse.validate import validate as validate_images

LOCK, BUSY = INCOMING / "lock", "another ingest is running in this project: wait until it has finished"
PRESERVED = frozenset({"lock", "downloads"})  # entries of .incoming/ that outlive an ingest


@dataclass(frozen=True)
class IngestResult:
    """The contents of data/ after an ingest.

    version: the md5 in data.dvc
    ignored: number of files left out because they are not images
    changed: the version differs from the one before
    restored: the version is the same, but data/ was missing
    """

    version: str
    source: str
    digest: str
    images: int
    classes: int
    ignored: int
    changed: bool
    restored: bool = False

    def __str__(self) -> str:
        state = "is new" if self.changed else "is restored" if self.restored else "is unchanged"
        left_out = f", {self.ignored:,} other files left out" if self.ignored else ""
        contents = f"{self.images:,} images in {self.classes} classes from {self.source}{left_out}"
        return f"data/ {state}: {contents}; version {self.version}"


def fetch(data: DataParams, validate: ValidateParams, arrival: str | None = None) -> str:
    """Download what `ingest` would ingest, verify its checksum, and return a message.

    Downloads nothing if `ingest` would have nothing to do. Raises LanduseError if the source cannot be obtained, and
    Unavailable if that may be temporary.
    """
    with exclusive_lock(LOCK, BUSY), explain_full_disk():
        source, metadata = resolve_source(data, arrival), read_metadata()
        state = "unchanged" if DATA.exists() else "missing"
        if is_up_to_date(source, arrival, state, metadata, params_digest(validate)):
            return f"{source.name} is already ingested; its digest is {source.digest}"
        source.fetch()
        return f"{source.name} is available; its digest is {source.digest}"


def ingest(data: DataParams, validate: ValidateParams, arrival: str | None = None) -> IngestResult:
    """Replace data/ by the contents of `data.source` if they pass validation, and version it in data.dvc.

    An arrival is a path to ingest instead; it stays in place until the contents of `data.source` change.
    Raises LanduseError if the source cannot be obtained, NotReady if data/ was edited, Unavailable if a stage is
    reading data/, and Refused if the images are rejected. data/ and data.dvc are then unchanged, and images that failed
    validation are in quarantine/ with their report.
    """
    for path in filter(Path.is_symlink, (DATA, ARTIFACTS)):
        raise NotReady(f"{path} is a link, which DVC does not version: remove it, or move the project to that disk")
    with exclusive_lock(LOCK, BUSY), explain_full_disk():
        finish_interrupted()
        state, before, checks = data_state(), read_metadata(), params_digest(validate)
        source = resolve_source(data, arrival)
        if is_up_to_date(source, arrival, state, before, checks):
            return to_result(before, changed=False)
        try:
            ignored = build_candidate(source, validate, arrival or f"data.source = {source.name}")
            superseded = {} if arrival is None else {"supersedes": superseded_digest(data, before)}
            after = replace_data(candidate_metadata(source, ignored) | {"checks": checks} | superseded, validate)
        finally:
            clean_up()
        changed = after["version"] != before.get("version")
        return to_result(after, changed=changed, restored=state == "missing" and not changed)


def recover_interrupted() -> None:
    """Finish or undo an ingest that was killed, and clear DVC's list of locks held by dead processes.

    Raises Unavailable while another ingest, stage or DVC command is running, and LanduseError if DVC fails.
    """
    with exclusive_lock(LOCK, BUSY), explain_full_disk():
        if JOURNAL.exists():
            finish_interrupted()
        else:
            with repository() as repo:
                release_stale_locks(repo)


def finish_interrupted() -> None:
    """Undo or finish the swap of an ingest that was killed, and remove its temporary files."""
    if JOURNAL.exists():
        with lock_data() as repo:
            if metadata := recover_swap(repo):
                complete_swap(repo, metadata)
                commit_swap()
    clean_up()


def resolve_source(data: DataParams, arrival: str | None) -> Source:
    """Return the arrival as a source if there is one, else `data.source`. Raises LanduseError if it does not exist."""
    if arrival is None:
        return find_source(data)
    if not arrival:
        raise LanduseError("the arrival has no name: name an archive or a folder, or leave it out for data.source")
    if "://" in arrival:
        raise LanduseError(f"{public(arrival)}: set data.source to ingest from a URL, and data.checksum")
    if not is_encodable(arrival):
        raise Refused(f"{arrival!r} is not valid UTF-8: rename it")
    path = os.path.join(".", os.path.expanduser(arrival))  # so that `sample` means the folder, not the built-in source
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise LanduseError(f"{public(arrival)}: there is no such file or folder")
    return find_source(DataParams(source=path, checksum=None))


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
        name = metadata["source"]
        arrival = f"version {metadata['version']}, which arrived as {name} after data.source = {source.name}"
        raise LanduseError(f"data/ is missing {arrival}: restore it with `dvc pull data`, or ingest {name} again")
    return True


def superseded_digest(data: DataParams, metadata: dict[str, Any]) -> str | None:
    """Return the digest of `data.source`, or the last one on record if it cannot be determined now."""
    try:
        return find_source(data).digest
    except LanduseError:
        return metadata.get("supersedes", metadata.get("digest"))


@contextmanager
def explain_full_disk() -> Iterator[None]:
    """Turn the OSError of a full disk into a one-line LanduseError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise LanduseError("the disk is full: free some space and ingest again; data/ is unchanged") from None


def clean_up() -> None:
    """Remove the temporary files of an ingest, but keep a complete download for reuse.

    Does nothing while a swap is unfinished: the next ingest needs the files to recover.
    """
    if JOURNAL.exists():
        return
    for path in INCOMING.iterdir():
        if path.name not in PRESERVED:
            remove(path)
    for path in INCOMING.glob("downloads/*.part"):
        path.unlink()


def data_state() -> str:
    """Compare data/ with data.dvc; return `missing` or `unchanged`.

    Raises NotReady if data/ holds files that are in no version, which a swap would destroy.
    """
    if not DATA.exists():
        return "missing"
    if not DATA_DVC.exists():
        if any(DATA.iterdir()):
            raise NotReady("data/ is not versioned: move it elsewhere and set data.source to that folder")
        return "missing"
    with repository() as repo:
        status = data_status(repo)
        if status == NOT_IN_CACHE:
            add_data(repo)
    if status == MODIFIED:
        remedy = "go back with `dvc checkout --force data`, or move data/ elsewhere and set data.source to that folder"
        raise NotReady(f"data/ is not what data.dvc says, it was edited: {remedy}")
    return "unchanged"


def to_result(metadata: dict[str, Any], changed: bool, restored: bool = False) -> IngestResult:
    """Convert the metadata in data.dvc to a result."""
    fields = ("version", "source", "digest", "images", "classes", "ignored")
    return IngestResult(**{key: metadata[key] for key in fields}, changed=changed, restored=restored)


def build_candidate(source: Source, params: ValidateParams, label: str) -> int:
    """Unpack the source beside data/ and validate it there; return the number of files left out.

    Raises Refused if it fails validation. The candidate is then in quarantine/, unless a file name is unsafe to show on
    a page.
    """
    CANDIDATE.mkdir()
    candidate = CANDIDATE / DATA
    ignored = source.fill(candidate)
    try:
        validate_images(params, data=candidate, output=CANDIDATE)
    except Refused as error:
        was_validated = (CANDIDATE / VALIDATION.name).exists()
        reason = str(error).replace(str(CANDIDATE), str(quarantine(source))) if was_validated else str(error)
        raise Refused(f"{label} is rejected: {reason}") from None
    return ignored


def quarantine(source: Source) -> Path:
    """Move the candidate and its report to a folder of quarantine/ named by time and digest; return the folder.

    If a source is rejected repeatedly, every night perhaps, its images are kept only beside the latest report.
    """
    QUARANTINE.mkdir(exist_ok=True)
    moment, digest = datetime.now(UTC), source.digest.rpartition(":")[2][:8]
    for earlier in QUARANTINE.glob(f"*-{digest}"):
        shutil.rmtree(earlier / DATA, ignore_errors=True)
    folder = QUARANTINE / f"{moment:%Y%m%dT%H%M%S.%fZ}-{digest}"
    shutil.move(CANDIDATE, folder)  # not a rename: quarantine/ may be on another disk
    return folder


def candidate_metadata(source: Source, ignored: int) -> dict[str, Any]:
    """Return the metadata of the candidate that is recorded in git."""
    images = image_paths(CANDIDATE / DATA)
    drawn = any(is_drawn(CANDIDATE / DATA / path) for path in images)
    counts = {"images": len(images), "classes": len({path.parent for path in images}), "ignored": ignored}
    return {"source": printable(source.name), "digest": source.digest, "drawn": drawn, **counts}


def replace_data(metadata: dict[str, Any], validated: ValidateParams) -> dict[str, Any]:
    """Swap the candidate in for data/ and update data.dvc and dvc.lock; return the new metadata in data.dvc.

    All three are rolled back on any error. Raises Unavailable while a stage is reading data/.
    """
    with lock_data() as repo:
        try:
            swap_in(CANDIDATE / DATA, metadata)
            add_data(repo)
            recorded = write_metadata(metadata)
            if load_params().validate == validated:  # params.yaml may have been edited meanwhile
                adopt_validation(repo)
        except BaseException:
            undo_swap()
            raise
        commit_swap()
    return recorded
