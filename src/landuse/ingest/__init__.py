"""New images come in: built beside the old ones, validated there, and only then put in their place and versioned.

What validation found there are the results of the stage `validate`, which looks at no image a second time.
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
from landuse.core.errors import NO_ROOM, LanduseError, NotReady, Refused, printable
from landuse.core.paths import ARTIFACTS, DATA, DATA_DVC, INCOMING, QUARANTINE, VALIDATION
from landuse.core.process import alone
from landuse.ingest.record import CANDIDATE, complete, digest_of, keep_findings, recorded, write_record
from landuse.ingest.sources import Source, find_source
from landuse.ingest.swap import JOURNAL, recover, remove, settle, swap_in, undo_swap
from landuse.ingest.unpack import encodable
from landuse.ml.images import image_paths
from landuse.params import DataParams, ValidateParams, load_params
from landuse.project.dvc_repo import (
    MODIFIED,
    NOT_IN_CACHE,
    add_data,
    release_the_lost,
    replacing_data,
    repository,
    status_of_data,
)
from landuse.sample import is_drawn
from landuse.validate import validate as look_at

LOCK, BUSY = INCOMING / "lock", "another ingest is at work in this project: wait until it has ended"
KEPT = frozenset({"lock", "downloads"})


@dataclass(frozen=True)
class Ingested:
    """What data/ holds after an ingest. `version` is the md5 in data.dvc; `ignored` counts files that are no images.

    `changed`: it is another version than before; `again`: it is the same one, and was not there.
    """

    version: str
    source: str
    digest: str
    images: int
    classes: int
    ignored: int
    changed: bool
    again: bool = False

    def __str__(self) -> str:
        state = "is new" if self.changed else "is there again" if self.again else "is unchanged"
        left_out = f", {self.ignored:,} other files left out" if self.ignored else ""
        holds = f"{self.images:,} images in {self.classes} classes from {self.source}{left_out}"
        return f"data/ {state}: {holds}; version {self.version}"


def fetch(data: DataParams, validate: ValidateParams, arrival: str | None = None) -> str:
    """Bring what `ingest` would take in to this machine, its checksum verified; returns what there is to say.

    Nothing is brought where `ingest` would have nothing to do. Raises LanduseError where it cannot be had,
    Unavailable where that may pass.
    """
    with alone(LOCK, BUSY), room_on_disk():
        source, before = source_of(data, arrival), recorded()
        state = "unchanged" if DATA.exists() else "missing"
        if has_nothing_to_do(source, arrival, state, before, digest_of(validate)):
            return f"{source.name} was taken in already; its digest is {source.digest}"
        source.fetch()
        return f"{source.name} is at hand; its digest is {source.digest}"


def ingest(data: DataParams, validate: ValidateParams, arrival: str | None = None) -> Ingested:
    """Make data/ what `data.source` holds, if that passes validation, and version it in data.dvc.

    An arrival is a path that is taken in instead; it stays until `data.source` itself holds something else.
    Raises LanduseError where it cannot be had, NotReady where data/ was edited, Unavailable where
    a stage reads data/, Refused where it is not let in. Then data/ and data.dvc are as before and a set that was not
    let in lies in quarantine/ with its report.
    """
    for path in filter(Path.is_symlink, (DATA, ARTIFACTS)):
        raise NotReady(f"{path} is a link, which DVC does not version: remove it; the project may lie on that disk")
    with alone(LOCK, BUSY), room_on_disk():
        finish_killed()
        state, before, checks = state_of_data(), recorded(), digest_of(validate)
        source = source_of(data, arrival)
        if has_nothing_to_do(source, arrival, state, before, checks):
            return outcome(before, changed=False)
        try:
            ignored = build(source, validate, arrival or f"data.source = {source.name}")
            superseded = {} if arrival is None else {"supersedes": digest_of_source(data, before)}
            after = replace(facts_of(source, ignored) | {"checks": checks} | superseded, validate)
        finally:
            clean()
        changed = after["version"] != before.get("version")
        return outcome(after, changed=changed, again=state == "missing" and not changed)


def recover_killed() -> None:
    """Come to an end with an ingest that was killed, and with DVC's list of processes that are gone.

    Raises Unavailable where another ingest, stage or DVC command is at work, LanduseError where DVC refuses.
    """
    with alone(LOCK, BUSY), room_on_disk():
        if JOURNAL.exists():
            finish_killed()
        else:
            with repository() as repo:
                release_the_lost(repo)


def finish_killed() -> None:
    """Take back or finish the swap of an ingest that was killed, and remove what else it left behind."""
    if JOURNAL.exists():
        with replacing_data() as repo:
            if facts := recover(repo):
                complete(repo, facts)
                settle()
    clean()


def source_of(data: DataParams, arrival: str | None) -> Source:
    """The arrival if there is one, else `data.source`. Raises LanduseError where there is no such thing."""
    if arrival is None:
        return find_source(data)
    if not arrival:
        raise LanduseError("what arrived has no name: name an archive or a folder, or nothing for data.source")
    if "://" in arrival:
        raise LanduseError(f"{public(arrival)}: a URL is taken in as data.source, with its data.checksum")
    if not encodable(arrival):
        raise Refused(f"{arrival!r} is no name in UTF-8: rename it")
    path = os.path.join(".", os.path.expanduser(arrival))  # what is known by name is not meant
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise LanduseError(f"{public(arrival)}: there is no such file or folder")
    return find_source(DataParams(source=path, checksum=None))


def has_nothing_to_do(source: Source, arrival: str | None, state: str, before: dict[str, Any], checks: str) -> bool:
    """Whether an ingest would leave data/ as it is. Raises LanduseError as `is_superseded` does."""
    return is_current(source, state, before, checks) or (arrival is None and is_superseded(source, state, before))


def is_current(source: Source, state: str, before: dict[str, Any], checks: str) -> bool:
    """Whether data/ holds this source already, let in by these checks."""
    return state == "unchanged" and {"digest": source.digest, "checks": checks}.items() <= before.items()


def is_superseded(source: Source, state: str, before: dict[str, Any]) -> bool:
    """Whether data/ holds what arrived after this source.

    Raises LanduseError where it should, but is missing: the source must not take its place again by accident.
    """
    if source.digest != before.get("supersedes"):
        return False
    if state == "missing":
        arrival = f"version {before['version']}, which arrived as {before['source']} after data.source = {source.name}"
        raise LanduseError(
            f"data/ is missing {arrival}: have it with `dvc pull data`, or ingest {before['source']} again"
        )
    return True


def digest_of_source(data: DataParams, before: dict[str, Any]) -> str | None:
    """The digest of `data.source`, as far as it is known while something else is taken in."""
    try:
        return find_source(data).digest
    except LanduseError:
        return before.get("supersedes", before.get("digest"))


@contextmanager
def room_on_disk() -> Iterator[None]:
    """A full disk is an error of one line, wherever it shows."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise LanduseError("the disk is full: free some space and ingest again; data/ is as it was") from None


def clean() -> None:
    """Remove what an ingest left behind, but for the download that a repeated one takes again.

    A swap that could not be taken back keeps all that it needs: the next ingest sees to it.
    """
    if JOURNAL.exists():
        return
    for path in INCOMING.iterdir():
        if path.name not in KEPT:
            remove(path)
    for path in INCOMING.glob("downloads/*.part"):
        path.unlink()


def state_of_data() -> str:
    """`missing` or `unchanged`: how data/ compares with data.dvc.

    Raises NotReady where it holds something that no version of it holds, which a swap would destroy.
    """
    if not DATA.exists():
        return "missing"
    if not DATA_DVC.exists():
        if any(DATA.iterdir()):
            raise NotReady("data/ is not versioned: move it elsewhere and set data.source to that folder")
        return "missing"
    with repository() as repo:
        found = status_of_data(repo)
        if found == NOT_IN_CACHE:
            add_data(repo)
    if found == MODIFIED:
        remedy = "go back with `dvc checkout --force data`, or move data/ elsewhere and set data.source to that folder"
        raise NotReady(f"data/ is not what data.dvc says, it was edited: {remedy}")
    return "unchanged"


def outcome(record: dict[str, Any], changed: bool, again: bool = False) -> Ingested:
    """The record of data.dvc as a result."""
    fields = ("version", "source", "digest", "images", "classes", "ignored")
    return Ingested(**{key: record[key] for key in fields}, changed=changed, again=again)


def build(source: Source, params: ValidateParams, called: str) -> int:
    """Unpack the source beside data/ and validate it there; the number of files left out.

    Raises Refused where it does not pass; it then lies in quarantine/, but for one with names that no page can show.
    """
    CANDIDATE.mkdir()
    candidate = CANDIDATE / DATA
    ignored = source.fill(candidate)
    try:
        look_at(params, data=candidate, output=CANDIDATE)
    except Refused as error:
        judged = (CANDIDATE / VALIDATION.name).exists()
        complaint = str(error).replace(str(CANDIDATE), str(quarantine(source))) if judged else str(error)
        raise Refused(f"{called} is not let in: {complaint}") from None
    return ignored


def quarantine(source: Source) -> Path:
    """Move the candidate and its report out of the way, to a folder named by time and digest.

    Of a source that is refused again, every night perhaps, the images are kept once: beside the last report.
    """
    QUARANTINE.mkdir(exist_ok=True)
    moment, digest = datetime.now(UTC), source.digest.rpartition(":")[2][:8]
    for earlier in QUARANTINE.glob(f"*-{digest}"):
        shutil.rmtree(earlier / DATA, ignore_errors=True)
    folder = QUARANTINE / f"{moment:%Y%m%dT%H%M%S.%fZ}-{digest}"
    shutil.move(CANDIDATE, folder)  # which may lie on another disk
    return folder


def facts_of(source: Source, ignored: int) -> dict[str, Any]:
    """What is recorded in git of the candidate."""
    images = image_paths(CANDIDATE / DATA)
    drawn = any(is_drawn(CANDIDATE / DATA / path) for path in images)
    counts = {"images": len(images), "classes": len({path.parent for path in images}), "ignored": ignored}
    return {"source": printable(source.name), "digest": source.digest, "drawn": drawn, **counts}


def replace(facts: dict[str, Any], validated: ValidateParams) -> dict[str, Any]:
    """Swap the candidate with data/, let data.dvc and dvc.lock follow; what is now recorded in data.dvc.

    Whatever goes wrong, all three are as they were. Raises Unavailable where a stage reads what would be replaced.
    """
    with replacing_data() as repo:
        try:
            swap_in(CANDIDATE / DATA, facts)
            add_data(repo)
            record = write_record(facts)
            if load_params().validate == validated:  # it may have been edited meanwhile
                keep_findings(repo)
        except BaseException:
            undo_swap()
            raise
        settle()
    return record
