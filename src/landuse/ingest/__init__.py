"""Ingest new images: build them beside the current data set, validate them, then swap them in and version them.

A source or an arrival replaces the data set, an addition joins it, and a removal takes images out of it. The validation
results become the outputs of the stage `validate`, which need not read the images a second time.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landuse.core.errors import DISK_FULL, LanduseError, NotReady, Unavailable, printable
from landuse.core.paths import ARTIFACTS, DATA, DATA_DVC, INCOMING
from landuse.core.paths import SWAP as JOURNAL
from landuse.core.process import exclusive_lock
from landuse.ingest.addition import link_images, place_images, unpack_addition
from landuse.ingest.batches import Batch, added_batch, describe_batches, recorded_batches, removed_batch
from landuse.ingest.candidate import IMAGES, candidate_metadata, check_candidate, has_drawn, known_digests
from landuse.ingest.download import compute_checksum
from landuse.ingest.record import (
    CANDIDATE,
    adopt_validation,
    complete_swap,
    params_digest,
    read_metadata,
    write_metadata,
)
from landuse.ingest.removal import describe_twins, find_images
from landuse.ingest.result import IngestResult, describe_change, to_result
from landuse.ingest.sources import resolve_source
from landuse.ingest.supersession import is_up_to_date, superseded_digest
from landuse.ingest.swap import commit_swap, recover_swap, remove, swap_in, undo_swap
from landuse.ml.images import image_paths
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.params import DataParams, ValidateParams, load_params
from landuse.project.dvc_cache import Listing
from landuse.project.dvc_repo import (
    MODIFIED,
    NOT_IN_CACHE,
    add_data,
    data_status,
    lock_data,
    release_stale_locks,
    repository,
)
from landuse.project.listings import count_classes, read_listing

LOCK, BUSY = INCOMING / "lock", "another ingest is running in this project: wait until it has finished"
PRESERVED = frozenset({"lock", "downloads"})  # entries of .incoming/ that outlive an ingest


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


def ingest(
    data: DataParams, validate: ValidateParams, arrival: str | None = None, pool: Pool = THIS_PROCESS
) -> IngestResult:
    """Replace data/ by the contents of `data.source` if they pass validation, and version it in data.dvc.

    An arrival is a path to ingest instead; it stays in place until the contents of `data.source` change.
    Raises LanduseError if the source cannot be obtained, NotReady if data/ was edited, Unavailable if a stage is
    reading data/, and Refused if the images are rejected. data/ and data.dvc are then unchanged, and images that failed
    validation are in quarantine/ with their report.
    """
    with exclusive_ingest() as (state, before):
        source = resolve_source(data, arrival)
        if is_up_to_date(source, arrival, state, before, params_digest(validate)):
            return to_result(before, changed=False)
        CANDIDATE.mkdir()
        ignored = source.fill(IMAGES)
        check_candidate(validate, arrival or f"data.source = {source.name}", source.digest, pool)
        paths = candidate_paths()
        batch = added_batch(printable(source.name), source.digest, paths)
        metadata = candidate_metadata([batch], ignored, validate, has_drawn(paths))
        if arrival is not None:
            metadata["supersedes"] = superseded_digest(data, before)
        after = replace_data(metadata, validate)
        changed = after["version"] != before.get("version")
        notes = describe_change(before.get("version"), after["version"])
        if changed and len(before.get("batches", ())) > 1:
            notes = (f"it took the place of {before['source']}", *notes)
        return to_result(after, changed=changed, restored=state == "missing" and not changed, notes=notes)


def add(data: DataParams, validate: ValidateParams, arrival: str, pool: Pool = THIS_PROCESS) -> IngestResult:
    """Add the new images of an archive or folder to data/ if the whole passes validation; version it in data.dvc.

    What is there already is left out, and a name that is taken replaced. Raises errors as `ingest` does; images that
    failed validation are in quarantine/ with the report of the whole. Without a data set, the addition is the first.
    """
    with exclusive_ingest() as (state, before):
        source = resolve_source(data, arrival)
        listing = read_current(state, before)
        addition = unpack_addition(source, listing)
        if not addition.names:
            return unchanged_result(before, listing, (f"all images of {source.name} were there already",))
        link_images(listing, IMAGES)
        place_images(addition, IMAGES)
        names = addition.names.values()
        check_candidate(validate, arrival, source.digest, pool, frozenset(names))
        batches = recorded_batches(before, listing) if before else []
        batches.append(added_batch(printable(source.name), source.digest, names))
        return change_data(data, validate, before, batches, names, addition.ignored, addition.notes())


def remove_images(data: DataParams, validate: ValidateParams, file: str, pool: Pool = THIS_PROCESS) -> IngestResult:
    """Take the images that a list names out of data/ if the rest passes validation, and version that in data.dvc.

    Raises errors as `ingest` does. The images stay in DVC's cache.
    """
    with exclusive_ingest() as (state, before):
        if not before:
            raise NotReady(f"{file} names images of {DATA}/, but there is no data set yet: bring one in first")
        listing = read_current(state, before)
        unwanted = find_images(Path(file), listing)
        link_images(listing, IMAGES, without=unwanted)
        digest = compute_checksum(Path(file))
        check_candidate(validate, file, digest, pool, suspects=())
        batches = [*recorded_batches(before, listing), removed_batch(printable(Path(file).name), digest, unwanted)]
        return change_data(data, validate, before, batches, (), 0, describe_twins(unwanted, listing))


def change_data(
    data: DataParams,
    validate: ValidateParams,
    before: dict[str, Any],
    batches: list[Batch],
    new: Iterable[str],
    ignored: int,
    notes: tuple[str, ...],
) -> IngestResult:
    """Swap in a candidate that was made from data/ and new images, and tell what changed.

    What data/ was made from first stays superseded: a plain ingest must not undo this.
    """
    base = before.get("supersedes", before.get("digest")) or superseded_digest(data, before)
    drawn = has_drawn(new if before.get("drawn") is False else candidate_paths())
    metadata = candidate_metadata(batches, ignored, validate, drawn) | {"supersedes": base}
    after = replace_data(metadata, validate, made_from=before.get("version"))
    change = describe_change(before.get("version"), after["version"])
    return to_result(after, changed=True, notes=(*change, *notes))


def read_current(state: str, metadata: dict[str, Any]) -> Listing:
    """List the files of data/; none if there is no data set yet. Raises NotReady if data/ is missing."""
    if not metadata:
        return {}
    if state == "missing":
        remedy = "restore it with `dvc checkout data` or `dvc pull data` first"
        raise NotReady(f"data/ is missing version {metadata['version']}: {remedy}")
    return read_listing(metadata["version"])


def unchanged_result(metadata: dict[str, Any], listing: Listing, notes: tuple[str, ...]) -> IngestResult:
    """Return the result of an ingest that changed nothing, also for a data set whose origin is not on record."""
    counts = {"images": len(listing), "classes": len(count_classes(listing))}
    contents = describe_batches(recorded_batches(metadata, listing)) | counts
    return to_result(contents | metadata | {"ignored": 0}, changed=False, notes=notes)


def candidate_paths() -> list[str]:
    """Return the paths of the candidate's images."""
    return [path.as_posix() for path in image_paths(IMAGES)]


@contextmanager
def exclusive_ingest() -> Iterator[tuple[str, dict[str, Any]]]:
    """Context of the only ingest in the project; yields the state of data/ and the metadata in data.dvc.

    Before it, one that was killed is finished or undone; after it, temporary files are removed.
    """
    for path in filter(Path.is_symlink, (DATA, ARTIFACTS)):
        raise NotReady(f"{path} is a link, which DVC does not version: remove it, or move the project to that disk")
    with exclusive_lock(LOCK, BUSY), explain_full_disk():
        finish_interrupted()
        state = data_state()
        try:
            yield state, read_metadata()
        finally:
            clean_up()


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


def replace_data(metadata: dict[str, Any], validated: ValidateParams, made_from: str | None = None) -> dict[str, Any]:
    """Swap the candidate in for data/ and update data.dvc and dvc.lock; return the new metadata in data.dvc.

    All three are rolled back on any error. Raises Unavailable while a stage is reading data/, or if the version that
    the candidate was made from is not that in data.dvc any more.
    """
    with lock_data() as repo:
        if made_from not in (None, read_metadata().get("version")):
            raise Unavailable(f"{DATA_DVC} was changed meanwhile: the same command goes on from what it is now")
        try:
            swap_in(IMAGES, metadata, known_digests())
            add_data(repo)
            recorded = write_metadata(metadata)
            if load_params().validate == validated:  # params.yaml may have been edited meanwhile
                adopt_validation(repo)
        except BaseException:
            undo_swap()
            raise
        commit_swap()
    return recorded
