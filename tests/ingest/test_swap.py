"""New images are swapped in or rejected, and data/ and data.dvc always agree."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import rmtree
from types import SimpleNamespace

import pytest
import yaml
from archives import (
    CHECKS,
    files_in,
    folder_of,
    ingest_source,
    is_current,
    is_data_current,
    picture,
    pictures,
    set_requirements,
    zip_of,
)

from landuse import ingest
from landuse.core.errors import LanduseError
from landuse.core.files import sha256_of
from landuse.core.paths import DATA, MANIFEST, VALIDATE_OUTPUTS
from landuse.ingest import record, swap
from landuse.project.dvc_repo import add_data, repository
from landuse.recovery import recover_interrupted
from landuse.validate import validate


def test_a_folder_is_ingested_and_versioned_and_a_second_ingest_does_nothing(project: Path) -> None:
    source = folder_of(project.parent / "set", pictures() | {"README.txt": b"two classes"})
    first = ingest_source(source)
    content = yaml.safe_load(Path("data.dvc").read_text())
    assert files_in(Path("data")) == pictures() and is_data_current()
    assert content["outs"][0]["md5"] == content["meta"]["version"] == first.version
    assert (first.images, first.classes, first.ignored, first.changed) == (4, 2, 1, True)
    assert content["meta"].items() >= {"source": "set", "images": 4, "classes": 2, "digest": first.digest}.items()
    assert os.listdir(".incoming") == ["lock"] and not Path("quarantine").exists()
    assert ingest_source(source) == replace(first, changed=False)


def test_the_validation_of_an_ingest_is_identical_to_that_of_stage_validate(settled: ingest.IngestResult) -> None:
    results = ("manifest.parquet", "validation.json", "validation.html")
    adopted = {name: Path("artifacts", name).read_bytes() for name in results}
    assert is_current("validate") and Path("artifacts/data_docs/images.html").exists()
    validate(CHECKS)
    assert {name: Path("artifacts", name).read_bytes() for name in results} == adopted


def test_requirements_changed_during_an_ingest_make_validate_run_again(settled: ingest.IngestResult) -> None:
    before = Path("dvc.lock").read_bytes()
    assert ingest_source(zip_of(Path("../other.zip"), pictures(10)), replace(CHECKS, contrast=2)).changed
    assert not is_current("validate") and Path("dvc.lock").read_bytes() == before


def test_new_requirements_are_checked_against_the_same_data_again(settled: ingest.IngestResult) -> None:
    with pytest.raises(LanduseError, match="set.zip is rejected"):
        ingest_source("../set.zip", replace(CHECKS, images_per_class=3))
    assert ingest_source("../set.zip", replace(CHECKS, contrast=2)) == replace(settled, changed=False)
    assert is_data_current()


def test_rejected_images_go_to_quarantine_with_their_report(settled: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    bad = pictures(10) | {"swamp/a.png": picture(20)}
    with pytest.raises(LanduseError) as caught:
        ingest_source(zip_of(Path("../bad.zip"), bad))
    [folder] = Path("quarantine").iterdir()
    assert str(folder) in str(caught.value) and "swamp" in str(caught.value) and ".incoming" not in str(caught.value)
    assert files_in(folder / "data") == bad
    assert {"manifest.parquet", "validation.json", "validation.html", "data_docs", "data"} <= set(os.listdir(folder))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before


@pytest.mark.slow
def test_images_rejected_repeatedly_are_kept_once_with_every_report(settled: ingest.IngestResult) -> None:
    bad = zip_of(Path("../bad.zip"), pictures(10) | {"swamp/a.png": picture(20)})
    other = zip_of(Path("../other.zip"), pictures(10) | {"swamp/a.png": picture(30)})
    for archive in (other, bad, bad, bad):
        with pytest.raises(LanduseError):
            ingest_source(archive)
    folders = sorted(Path("quarantine").iterdir())
    assert [(folder / "validation.html").exists() for folder in folders] == [True] * 4
    assert [(folder / "data").exists() for folder in folders] == [True, False, False, True]


def test_edited_data_is_not_overwritten_and_missing_data_is_rebuilt(settled: ingest.IngestResult) -> None:
    Path("data/field/a.png").write_bytes(picture(99))
    with pytest.raises(LanduseError, match="dvc checkout --force data"):
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert Path("data/field/a.png").read_bytes() == picture(99)
    Path("data").rename("edited")
    result = ingest_source("../set.zip")
    assert result == replace(settled, changed=False, restored=True) and str(result).startswith("data/ is restored: 4 ")
    assert files_in(Path("data")) == pictures() and is_data_current()


def test_data_that_was_never_versioned_is_not_overwritten(project: Path) -> None:
    folder_of(Path("data"), pictures())
    with pytest.raises(LanduseError, match="data/ is not versioned: move it elsewhere"):
        ingest_source("sample")
    assert files_in(Path("data")) == pictures()


def test_a_data_dvc_with_merge_conflicts_is_refused(project: Path) -> None:
    Path("data.dvc").write_text("<<<<<<< ours\nouts:\n")
    with pytest.raises(LanduseError, match="data.dvc has both sides of a merge"):
        ingest_source("sample")


@pytest.mark.parametrize("text", ["<<<<<<< ours\nschema: '2.0'\n", "stages: [", ""])
def test_an_unreadable_dvc_lock_is_reported_with_the_way_to_restore_it(settled: ingest.IngestResult, text: str) -> None:
    Path("dvc.lock").write_text(text)
    with pytest.raises(LanduseError, match=re.escape("restore it with git checkout dvc.lock")):
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("data")) == pictures() and Path("dvc.lock").read_text() == text


def test_a_version_added_by_hand_is_not_mistaken_for_the_recorded_source(settled: ingest.IngestResult) -> None:
    Path("data/field/c.png").write_bytes(picture(99))
    with repository() as repo:
        add_data(repo)
    assert ingest_source("../set.zip") == settled
    assert files_in(Path("data")) == pictures() and is_data_current()


def test_images_that_left_the_cache_are_added_again_before_they_are_replaced(settled: ingest.IngestResult) -> None:
    rmtree(".dvc/cache")
    ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert set(files_in(Path(".dvc/cache")).values()) >= set(pictures().values())


def test_the_old_data_is_restored_if_dvc_cannot_add_the_new(settled: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    cache = Path(".dvc/cache/files/md5")
    for number in range(256):  # plain files where new objects would need folders
        if not (cache / f"{number:02x}").exists():
            (cache / f"{number:02x}").touch()
    with pytest.raises(LanduseError, match="DVC cannot add data/: .*; data/ is unchanged"):
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before
    assert is_data_current() and os.listdir(".incoming") == ["lock"]


def test_the_first_ingest_leaves_nothing_if_dvc_cannot_add_it(project: Path) -> None:
    Path(".dvc/cache").touch()
    with pytest.raises(LanduseError, match="DVC cannot add data/: .*; data/ is unchanged"):
        ingest_source(zip_of(project.parent / "set.zip", pictures()))
    assert not Path("data").exists() and not Path("data.dvc").exists()


def test_nothing_changes_if_dvc_cannot_link_to_a_cache_on_another_disk(
    settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def another_disk(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    subprocess.run(["dvc", "config", "--local", "cache.type", "hardlink"], check=True)
    monkeypatch.setattr(os, "link", another_disk)
    before = [Path(name).read_bytes() for name in ("data.dvc", "dvc.lock")]
    with pytest.raises(LanduseError, match="cannot link files to its cache as cache.type says.*cache.type copy; data/"):
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert [Path(name).read_bytes() for name in ("data.dvc", "dvc.lock")] == before
    assert files_in(Path("data")) == pictures() and is_data_current() and capfd.readouterr().err == ""


def test_nothing_is_left_if_the_first_results_cannot_be_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_requirements(CHECKS)
    monkeypatch.setattr(record, "commit_validation", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ingest_source(zip_of(project.parent / "set.zip", pictures()))
    assert not any(path.exists() for path in (DATA, *swap.DVC_FILES, *VALIDATE_OUTPUTS))


# Interruptions


def test_a_concurrent_ingest_is_refused(project: Path) -> None:
    with (
        ingest.exclusive_lock(ingest.LOCK, ingest.BUSY),
        pytest.raises(LanduseError, match="another ingest is running"),
    ):
        ingest_source("sample")


LENIENT = replace(CHECKS, images_per_class=1)
DEADLY = """
import os, signal
from landuse import ingest
from landuse.ingest import record
from landuse.params import DataParams, ValidateParams

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{fault}
print("begin", flush=True)
{change}
"""
SET = 'DataParams(source="../set.zip", checksum=None)'
REPLACEMENT = f'ingest.ingest(DataParams(source="../other.zip", checksum=None), {CHECKS!r})'
CHANGES = {  # the call, and the images afterwards
    "replacement": (REPLACEMENT, pictures(10)),
    "addition": (f"ingest.add({SET}, {CHECKS!r}, '../tiles.zip')", pictures() | {"field/c.png": picture(50)}),
    "removal": (f"ingest.remove_images({SET}, {LENIENT!r}, '../list.txt')", dict(list(pictures().items())[1:])),
}
KILLS = 24
FAULTS = {
    "before the swap": "ingest.swap_in = die",
    "between the swap and its version": "ingest.add_data = die",
    "between the version and the record": "ingest.write_metadata = die",
    "between the record and the results": "ingest.adopt_validation = die",
    "between two results": "record.copy = lambda source, target: die() if source.is_dir() else target.touch()",
    "after DVC removed a result": "record.commit_validation = lambda _: die(os.unlink('artifacts/validation.json'))",
    "in the middle of dvc.lock": "record.commit_validation = lambda _: die(open('dvc.lock', 'w').close())",
    "when all is done": "ingest.commit_swap = die",
}


def kill_ingest(fault: str, change: str = REPLACEMENT) -> None:
    """Run an ingest, by default of other.zip, that is killed at the given point."""
    zip_of(Path("../other.zip"), pictures(10))
    script = DEADLY.format(fault=FAULTS[fault], change=change)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("source", "seed"), [("set", 0), ("other", 10)])
def test_after_a_kill_at_any_point_the_next_ingest_succeeds(
    settled: ingest.IngestResult, fault: str, source: str, seed: int
) -> None:
    lock = Path("dvc.lock").read_bytes()
    kill_ingest(fault)
    result = ingest_source(f"../{source}.zip")
    assert files_in(Path("data")) == pictures(seed) and is_data_current() and os.listdir(".incoming") == ["lock"]
    assert (result.version == settled.version) == (source == "set")
    if source == "set":
        assert Path("dvc.lock").read_bytes() == lock


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", CHANGES)
def test_after_a_kill_at_any_point_the_next_command_recovers(
    settled: ingest.IngestResult, fault: str, kind: str
) -> None:
    zip_of(Path("../tiles.zip"), {"field/c.png": picture(50)})
    Path("../list.txt").write_text("field/a.png\n")
    if kind == "removal":
        set_requirements(LENIENT)
    change, after = CHANGES[kind]
    kill_ingest(fault, change)
    recover_interrupted()
    files, metadata = files_in(Path("data")), ingest.read_metadata()
    assert is_data_current() and not swap.JOURNAL.exists() and files in (pictures(), after)
    assert is_current("validate") or (kind == "removal" and files == pictures())
    changed = {"replacement": "other.zip"}.get(kind, "set.zip and 1 batch since")
    assert metadata["source"] == (changed if files == after else "set.zip")
    assert sum(batch["images"] for batch in metadata["batches"]) == metadata["images"] == len(files)
    assert Path("artifacts/data_docs/manifest.sha256").read_text() == sha256_of(MANIFEST)


@pytest.mark.slow
def test_after_a_kill_at_any_moment_of_an_addition_data_and_record_agree(settled: ingest.IngestResult) -> None:
    expected, random, limit, outcomes = pictures(), Random(1), 0.0, []
    for number in range(1 + KILLS):
        new = {f"{label}/{number:02}.png": picture(100 + 2 * number + (label == "water")) for label in CHECKS.classes}
        zip_of(Path("../tiles.zip"), new)
        took = add_until_killed(random.uniform(0, limit) if number else None)
        limit = limit or 1.2 * took  # by the first one, which is not killed
        recover_interrupted()
        files, metadata = files_in(Path("data")), ingest.read_metadata()
        outcomes.append(files == expected | new)
        expected |= new if outcomes[-1] else {}
        limit *= 0.9 if outcomes[-1] else 1.1  # so that both happen, however busy the machine is
        assert files == expected and is_data_current() and not swap.JOURNAL.exists(), number
        assert metadata["images"] == len(files) == sum(batch["images"] for batch in metadata["batches"]), number
    assert outcomes[0] and {*outcomes[1:]} == {True, False}, "some kills came too late, and some in time"


def add_until_killed(seconds: float | None) -> float:
    """Add tiles.zip in another process, which is killed after so many seconds if any; return how long it took."""
    script = DEADLY.format(fault="", change=CHANGES["addition"][0])
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as adding:
        assert adding.stdout.readline() == "begin\n"
        begin = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            adding.wait(timeout=seconds)
        adding.kill()
    return time.monotonic() - begin


@pytest.mark.slow
def test_recovery_does_not_adopt_results_for_outdated_requirements(settled: ingest.IngestResult) -> None:
    kill_ingest("between the record and the results")
    set_requirements(replace(CHECKS, contrast=2))
    recover_interrupted()
    assert is_data_current() and not is_current("validate") and not swap.JOURNAL.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_recovery_does_not_undo_later_edits(settled: ingest.IngestResult, fault: str) -> None:
    kill_ingest(fault)
    Path("data/field/c.png").write_bytes(picture(99))
    edited, recorded = files_in(Path("data")), Path("data.dvc").read_bytes()
    for _ in range(2):
        with pytest.raises(LanduseError, match=re.escape("data/ is not what data.dvc says, it was edited")):
            ingest_source("../set.zip")
        assert files_in(Path("data")) == edited and Path("data.dvc").read_bytes() == recorded


@pytest.mark.slow
def test_recovery_keeps_dvc_files_written_since_the_kill(settled: ingest.IngestResult) -> None:
    kill_ingest("between the swap and its version")
    for path in swap.DVC_FILES:
        path.write_text(path.read_text() + "# mine\n")
    assert not ingest_source("../set.zip").changed
    assert files_in(Path("data")) == pictures()
    assert all(path.read_text().endswith("# mine\n") for path in swap.DVC_FILES)


@pytest.mark.slow
def test_recovery_keeps_a_completed_ingest(settled: ingest.IngestResult) -> None:
    kill_ingest("when all is done")
    lock, recorded = Path("dvc.lock").read_bytes(), Path("data.dvc").read_bytes()
    assert not ingest_source("../other.zip").changed
    assert files_in(Path("data")) == pictures(10) and is_current("validate")
    assert (Path("dvc.lock").read_bytes(), Path("data.dvc").read_bytes()) == (lock, recorded)


@pytest.fixture
def cut_short(settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest of other.zip that ended between the swap and its version, and undid nothing, as if it was killed."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "add_data", stop)
        patch.setattr(ingest, "undo_swap", lambda: None)
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert swap.JOURNAL.exists() and files_in(Path("data")) == pictures(10)


def test_recovery_keeps_an_image_that_was_changed_in_place(cut_short: None) -> None:
    Path("data/field/a.png").write_bytes(picture(99))
    edited = files_in(Path("data"))
    with pytest.raises(LanduseError, match=re.escape("data/ is not what data.dvc says, it was edited")):
        ingest_source("../set.zip")
    assert files_in(Path("data")) == edited


@pytest.mark.parametrize("path", swap.DVC_FILES, ids=str)
def test_recovery_keeps_a_dvc_file_with_both_sides_of_a_merge(cut_short: None, path: Path) -> None:
    merge = f"<<<<<<< ours\n{path.read_text()}=======\nouts: []\n>>>>>>> theirs\n"
    path.write_text(merge)
    recover_interrupted()
    assert path.read_text() == merge


def test_an_exchange_that_the_system_refuses_changes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(Path("data"), {"field/a.png": b"old"})
    folder_of(ingest.CANDIDATE, {"data/field/a.png": b"new"})
    monkeypatch.setattr(swap.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=lambda *_: -1))
    monkeypatch.setattr(swap.ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        swap.exchange(ingest.CANDIDATE / "data", DATA)
    assert files_in(DATA) == {"field/a.png": b"old"} and not swap.PREVIOUS.exists()


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_an_interrupted_rollback_is_finished_by_the_next_ingest(
    settled: ingest.IngestResult, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in swap.DVC_FILES}
    replaced, done = os.replace, []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def replace_or_stop(*paths: Path) -> None:
        if Path(paths[0]).parent == swap.BACKUP and len(done) + 1 == cut:
            raise KeyboardInterrupt
        done.extend([paths] if Path(paths[0]).parent == swap.BACKUP else [])
        replaced(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "adopt_validation", stop)
        patch.setattr(os, "replace", replace_or_stop)
        patch.setattr(swap, "move_out", stop)
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert swap.JOURNAL.exists() and files_in(Path("data")) == pictures(10)
    assert ingest_source("../set.zip").version == settled.version
    assert files_in(Path("data")) == pictures() and is_data_current() and os.listdir(".incoming") == ["lock"]
    assert {path: path.read_bytes() for path in swap.DVC_FILES if path.exists()}.keys() == before.keys()


def test_the_previous_results_are_restored_if_the_new_cannot_be_recorded(
    settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(Path("artifacts"))

    def fail(_: object) -> None:
        raise LanduseError("no")

    with monkeypatch.context() as patch, pytest.raises(LanduseError, match="^no$"):
        patch.setattr(record, "commit_validation", fail)
        ingest_source(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("artifacts")) == before and is_current("validate") and files_in(Path("data")) == pictures()


def test_leftovers_of_a_kill_are_removed_except_a_complete_download(project: Path) -> None:
    folder_of(
        Path(".incoming"), {"candidate/data/field/a.png": b"", "downloads/md5-1": b"", "downloads/md5-2.part": b""}
    )
    with pytest.raises(LanduseError):
        ingest_source("nowhere")
    assert set(files_in(Path(".incoming"))) == {"lock", "downloads/md5-1"}


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_swap_of_three_renames_can_be_interrupted_after_each(
    project: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(Path("data"), {"field/a.png": b"old"})
    folder_of(ingest.CANDIDATE, {"data/field/a.png": b"new"})
    rename, done = os.rename, []

    def rename_or_fail(*paths: Path) -> None:
        if len(done) == renames:
            raise OSError(errno.EIO, "cut short")
        rename(*paths)
        done.append(paths)

    with monkeypatch.context() as patch:
        patch.setattr(swap.ctypes, "CDLL", lambda *_, **__: object())
        patch.setattr(os, "rename", rename_or_fail)
        try:
            swap.swap_in(ingest.CANDIDATE / "data", {}, {})
        except OSError:
            assert renames < 3
    swap.undo_swap()
    assert files_in(Path("data")) == {"field/a.png": b"old"}
    assert files_in(ingest.CANDIDATE / "data") == {"field/a.png": b"new"}
