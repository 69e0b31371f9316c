"""New images come in, or are kept out, and data/ and data.dvc always agree."""

import errno
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from archives import CHECKS, ask_for, bring_in, files_in, folder_of, in_step, is_current, picture, pictures, zip_of

from landuse import ingest as room
from landuse.core.errors import LanduseError
from landuse.core.files import sha256_of
from landuse.core.paths import DATA, MANIFEST, VALIDATED
from landuse.ingest import record, swap
from landuse.project.dvc_repo import add_data, repository
from landuse.recovery import recover_killed
from landuse.validate import validate


def test_a_folder_becomes_versioned_data_and_a_second_ingest_does_nothing(project: Path) -> None:
    source = folder_of(project.parent / "set", pictures() | {"README.txt": b"two classes"})
    first = bring_in(source)
    content = yaml.safe_load(Path("data.dvc").read_text())
    assert files_in(Path("data")) == pictures() and in_step()
    assert content["outs"][0]["md5"] == content["meta"]["version"] == first.version
    assert (first.images, first.classes, first.ignored, first.changed) == (4, 2, 1, True)
    assert content["meta"].items() >= {"source": "set", "images": 4, "classes": 2, "digest": first.digest}.items()
    assert os.listdir(".incoming") == ["lock"] and not Path("quarantine").exists()
    assert bring_in(source) == replace(first, changed=False)


def test_what_an_ingest_found_is_the_result_of_validate_which_would_find_the_same(settled: room.Ingested) -> None:
    results = ("manifest.parquet", "validation.json", "validation.html")
    found = {name: Path("artifacts", name).read_bytes() for name in results}
    assert is_current("validate") and Path("artifacts/data_docs/images.html").exists()
    validate(CHECKS)
    assert {name: Path("artifacts", name).read_bytes() for name in results} == found


def test_requirements_that_changed_during_an_ingest_are_asked_by_validate(settled: room.Ingested) -> None:
    before = Path("dvc.lock").read_bytes()
    assert bring_in(zip_of(Path("../other.zip"), pictures(10)), replace(CHECKS, contrast=2)).changed
    assert not is_current("validate") and Path("dvc.lock").read_bytes() == before


def test_other_requirements_are_held_against_the_same_data_again(settled: room.Ingested) -> None:
    with pytest.raises(LanduseError, match="set.zip is not let in"):
        bring_in("../set.zip", replace(CHECKS, images_per_class=3))
    assert bring_in("../set.zip", replace(CHECKS, contrast=2)) == replace(settled, changed=False)
    assert in_step()


def test_a_set_that_does_not_pass_goes_to_quarantine_with_its_report(settled: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    bad = pictures(10) | {"swamp/a.png": picture(20)}
    with pytest.raises(LanduseError) as caught:
        bring_in(zip_of(Path("../bad.zip"), bad))
    [kept] = Path("quarantine").iterdir()
    assert str(kept) in str(caught.value) and "swamp" in str(caught.value) and ".incoming" not in str(caught.value)
    assert files_in(kept / "data") == bad
    assert {"manifest.parquet", "validation.json", "validation.html", "data_docs", "data"} <= set(os.listdir(kept))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before


def test_what_is_refused_every_night_is_kept_once_with_every_report(settled: room.Ingested) -> None:
    bad = zip_of(Path("../bad.zip"), pictures(10) | {"swamp/a.png": picture(20)})
    other = zip_of(Path("../other.zip"), pictures(10) | {"swamp/a.png": picture(30)})
    for archive in (other, bad, bad, bad):
        with pytest.raises(LanduseError):
            bring_in(archive)
    kept = sorted(Path("quarantine").iterdir())
    assert [(folder / "validation.html").exists() for folder in kept] == [True] * 4
    assert [(folder / "data").exists() for folder in kept] == [True, False, False, True]


def test_edited_data_is_not_overwritten_and_missing_data_is_rebuilt(settled: room.Ingested) -> None:
    Path("data/field/a.png").write_bytes(picture(99))
    with pytest.raises(LanduseError, match="dvc checkout --force data"):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert Path("data/field/a.png").read_bytes() == picture(99)
    Path("data").rename("edited")
    again = bring_in("../set.zip")
    assert again == replace(settled, changed=False, again=True) and str(again).startswith("data/ is there again: 4 ")
    assert files_in(Path("data")) == pictures() and in_step()


def test_data_that_was_never_versioned_is_not_overwritten(project: Path) -> None:
    folder_of(Path("data"), pictures())
    with pytest.raises(LanduseError, match="data/ is not versioned: move it elsewhere"):
        bring_in("sample")
    assert files_in(Path("data")) == pictures()


def test_a_data_dvc_with_merge_conflicts_is_refused(project: Path) -> None:
    Path("data.dvc").write_text("<<<<<<< ours\nouts:\n")
    with pytest.raises(LanduseError, match="data.dvc has both sides of a merge"):
        bring_in("sample")


@pytest.mark.parametrize("text", ["<<<<<<< ours\nschema: '2.0'\n", "stages: [", ""])
def test_a_dvc_lock_that_dvc_cannot_read_is_named_with_the_way_to_mend_it(settled: room.Ingested, text: str) -> None:
    Path("dvc.lock").write_text(text)
    with pytest.raises(LanduseError, match=re.escape("mend it with git checkout dvc.lock")):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("data")) == pictures() and Path("dvc.lock").read_text() == text


def test_a_version_added_by_hand_is_not_taken_for_the_recorded_source(settled: room.Ingested) -> None:
    Path("data/field/c.png").write_bytes(picture(99))
    with repository() as repo:
        add_data(repo)
    assert bring_in("../set.zip") == settled
    assert files_in(Path("data")) == pictures() and in_step()


def test_where_dvc_cannot_follow_the_old_data_comes_back(settled: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    cache = Path(".dvc/cache/files/md5")
    for number in range(256):  # plain files stand where new objects would need folders
        if not (cache / f"{number:02x}").exists():
            (cache / f"{number:02x}").touch()
    with pytest.raises(LanduseError, match="DVC cannot take data/ in: .*; data/ is as it was"):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before
    assert in_step() and os.listdir(".incoming") == ["lock"]


def test_where_dvc_cannot_follow_the_first_ingest_leaves_nothing(project: Path) -> None:
    Path(".dvc/cache").touch()
    with pytest.raises(LanduseError, match="DVC cannot take data/ in: .*; data/ is as it was"):
        bring_in(zip_of(project.parent / "set.zip", pictures()))
    assert not Path("data").exists() and not Path("data.dvc").exists()


def test_where_dvc_cannot_link_to_a_cache_on_another_disk_nothing_is_taken_in_and_the_key_is_named(
    settled: room.Ingested, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def another_disk(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    subprocess.run(["dvc", "config", "--local", "cache.type", "hardlink"], check=True)
    monkeypatch.setattr(os, "link", another_disk)
    before = [Path(name).read_bytes() for name in ("data.dvc", "dvc.lock")]
    with pytest.raises(LanduseError, match="cannot link files to its cache as cache.type says.*cache.type copy; data/"):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert [Path(name).read_bytes() for name in ("data.dvc", "dvc.lock")] == before
    assert files_in(Path("data")) == pictures() and in_step() and capfd.readouterr().err == ""


def test_where_the_first_results_cannot_be_recorded_none_are_left(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_for(CHECKS)
    monkeypatch.setattr(record, "commit_validation", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bring_in(zip_of(project.parent / "set.zip", pictures()))
    assert not any(path.exists() for path in (DATA, *swap.FOLLOWING, *VALIDATED))


# Cut short


def test_a_second_ingest_at_once_is_told_to_wait(project: Path) -> None:
    with room.alone(room.LOCK, room.BUSY), pytest.raises(LanduseError, match="another ingest is at work"):
        bring_in("sample")


DEADLY = """
import os, signal
from landuse import ingest as room
from landuse.ingest import record
from landuse.params import DataParams, ValidateParams

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{fault}
room.ingest(DataParams(source="../other.zip", checksum=None), {checks!r})
"""
FAULTS = {
    "before the swap": "room.swap_in = die",
    "between the swap and its version": "room.add_data = die",
    "between the version and the record": "room.write_record = die",
    "between the record and the results": "room.keep_findings = die",
    "between two results": "record.copy = lambda source, target: die() if source.is_dir() else target.touch()",
    "where DVC took a result away": "record.commit_validation = lambda _: die(os.unlink('artifacts/validation.json'))",
    "in the middle of dvc.lock": "record.commit_validation = lambda _: die(open('dvc.lock', 'w').close())",
    "when all is done": "room.settle = die",
}


def kill_ingest(fault: str) -> None:
    """Let an ingest of other.zip be killed."""
    zip_of(Path("../other.zip"), pictures(10))
    script = DEADLY.format(fault=FAULTS[fault], checks=CHECKS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("source", "seed"), [("set", 0), ("other", 10)])
def test_killed_at_any_moment_the_next_ingest_takes_in_what_it_is_given(
    settled: room.Ingested, fault: str, source: str, seed: int
) -> None:
    lock = Path("dvc.lock").read_bytes()
    kill_ingest(fault)
    found = bring_in(f"../{source}.zip")
    assert files_in(Path("data")) == pictures(seed) and in_step() and os.listdir(".incoming") == ["lock"]
    assert (found.version == settled.version) == (source == "set")
    if source == "set":
        assert Path("dvc.lock").read_bytes() == lock


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_any_moment_the_next_command_brings_validate_in_step(settled: room.Ingested, fault: str) -> None:
    kill_ingest(fault)
    recover_killed()
    assert in_step() and is_current("validate") and not swap.JOURNAL.exists()
    new = files_in(Path("data")) == pictures(10)
    assert room.recorded()["source"] == ("other.zip" if new else "set.zip")
    assert Path("artifacts/data_docs/manifest.sha256").read_text() == sha256_of(MANIFEST)


@pytest.mark.slow
def test_results_are_not_finished_for_requirements_that_are_others_now(settled: room.Ingested) -> None:
    kill_ingest("between the record and the results")
    ask_for(replace(CHECKS, contrast=2))
    recover_killed()
    assert in_step() and not is_current("validate") and not swap.JOURNAL.exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_an_ingest_that_was_killed_undoes_nothing_that_was_done_since(settled: room.Ingested, fault: str) -> None:
    kill_ingest(fault)
    Path("data/field/c.png").write_bytes(picture(99))
    found, recorded = files_in(Path("data")), Path("data.dvc").read_bytes()
    for _ in range(2):
        with pytest.raises(LanduseError, match=re.escape("data/ is not what data.dvc says, it was edited")):
            bring_in("../set.zip")
        assert files_in(Path("data")) == found and Path("data.dvc").read_bytes() == recorded


@pytest.mark.slow
def test_files_of_dvc_that_somebody_wrote_after_an_ingest_was_killed_stay(settled: room.Ingested) -> None:
    kill_ingest("between the swap and its version")
    for path in swap.FOLLOWING:
        path.write_text(path.read_text() + "# mine\n")
    assert not bring_in("../set.zip").changed
    assert files_in(Path("data")) == pictures()
    assert all(path.read_text().endswith("# mine\n") for path in swap.FOLLOWING)


@pytest.mark.slow
def test_what_was_taken_in_to_the_end_before_an_ingest_was_killed_stays(settled: room.Ingested) -> None:
    kill_ingest("when all is done")
    lock, recorded = Path("dvc.lock").read_bytes(), Path("data.dvc").read_bytes()
    assert not bring_in("../other.zip").changed
    assert files_in(Path("data")) == pictures(10) and is_current("validate")
    assert (Path("dvc.lock").read_bytes(), Path("data.dvc").read_bytes()) == (lock, recorded)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_way_back_that_is_cut_short_is_gone_to_its_end_by_the_next_ingest(
    settled: room.Ingested, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in swap.FOLLOWING}
    replaced, done = os.replace, []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def replace_or_stop(*paths: Path) -> None:
        if Path(paths[0]).parent == swap.BEFORE and len(done) + 1 == cut:
            raise KeyboardInterrupt
        done.extend([paths] if Path(paths[0]).parent == swap.BEFORE else [])
        replaced(*paths)

    with monkeypatch.context() as impatient, pytest.raises(KeyboardInterrupt):
        impatient.setattr(room, "keep_findings", stop)
        impatient.setattr(os, "replace", replace_or_stop)
        impatient.setattr(swap, "take_back", stop)
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert swap.JOURNAL.exists() and files_in(Path("data")) == pictures(10)
    assert bring_in("../set.zip").version == settled.version
    assert files_in(Path("data")) == pictures() and in_step() and os.listdir(".incoming") == ["lock"]
    assert {path: path.read_bytes() for path in swap.FOLLOWING if path.exists()}.keys() == before.keys()


def test_where_the_results_cannot_be_recorded_those_of_before_come_back(
    settled: room.Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = files_in(Path("artifacts"))

    def fail(_: object) -> None:
        raise LanduseError("no")

    with monkeypatch.context() as broken, pytest.raises(LanduseError, match="^no$"):
        broken.setattr(record, "commit_validation", fail)
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("artifacts")) == found and is_current("validate") and files_in(Path("data")) == pictures()


def test_what_a_killed_ingest_left_is_removed_but_a_whole_download_is_kept(project: Path) -> None:
    folder_of(
        Path(".incoming"), {"candidate/data/field/a.png": b"", "downloads/md5-1": b"", "downloads/md5-2.part": b""}
    )
    with pytest.raises(LanduseError):
        bring_in("nowhere")
    assert set(files_in(Path(".incoming"))) == {"lock", "downloads/md5-1"}


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_swap_of_three_renames_can_be_cut_short_after_each(
    project: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(Path("data"), {"field/a.png": b"old"})
    folder_of(room.CANDIDATE, {"data/field/a.png": b"new"})
    rename, done = os.rename, []

    def rename_or_fail(*paths: Path) -> None:
        if len(done) == renames:
            raise OSError(errno.EIO, "cut short")
        rename(*paths)
        done.append(paths)

    with monkeypatch.context() as other_system:
        other_system.setattr(swap.ctypes, "CDLL", lambda *_, **__: object())
        other_system.setattr(os, "rename", rename_or_fail)
        try:
            swap.swap_in(room.CANDIDATE / "data", {})
        except OSError:
            assert renames < 3
    swap.undo_swap()
    assert files_in(Path("data")) == {"field/a.png": b"old"}
    assert files_in(room.CANDIDATE / "data") == {"field/a.png": b"new"}
