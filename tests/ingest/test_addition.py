"""An addition joins data/, known images are taken once, and nothing is lost or undone by it."""

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from archives import CHECKS, files_in, folder_of, ingest_source, is_current, is_data_current, picture, pictures, zip_of
from dvc.repo import Repo

from landuse import ingest
from landuse.core.errors import LanduseError, NotReady, Refused, Unavailable
from landuse.ingest import addition as addition_module
from landuse.params import DataParams
from landuse.project.dvc_repo import add_data, repository
from landuse.project.lineage import data_record

SET = DataParams(source="../set.zip", checksum=None)
NEW = {"field/c.png": picture(50), "water/c.png": picture(51), "water/d.png": picture(52)}


def add(path: Path | str, data: DataParams = SET) -> ingest.IngestResult:
    return ingest.add(data, CHECKS, str(path))


def add_files(files: dict[str, bytes], name: str = "../tiles.zip") -> ingest.IngestResult:
    return add(zip_of(Path(name), files))


def test_an_addition_joins_the_images_that_are_there(settled: ingest.IngestResult) -> None:
    result = add_files(NEW)
    assert files_in(Path("data")) == pictures() | NEW and is_data_current() and is_current("validate")
    assert os.listdir(".incoming") == ["lock"]
    assert str(result) == (
        "data/ is new: 7 images in 2 classes from set.zip and 1 batch since; "
        f"+3 images (water +2, field +1); version {result.version}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("pack", [zip_of, folder_of])
def test_a_folder_of_one_class_is_an_addition_too(settled: ingest.IngestResult, pack: Callable) -> None:
    add(pack(Path("../tiles"), {"water/c.png": picture(50)}))
    assert files_in(Path("data")) == pictures() | {"water/c.png": picture(50)}


def test_the_batches_are_on_record_with_their_counts(settled: ingest.IngestResult) -> None:
    added = add_files(NEW)
    meta = yaml.safe_load(Path("data.dvc").read_text())["meta"]
    first, second = meta["batches"]
    assert (first["source"], first["digest"], first["images"]) == ("set.zip", settled.digest, 4)
    assert (second["source"], second["images"], second["classes"]) == ("tiles.zip", 3, {"field": 1, "water": 2})
    assert second["date"].endswith("Z") and "T" in second["date"] and first["date"] <= second["date"]
    assert meta["source"] == added.source == "set.zip and 1 batch since"
    assert (meta["images"], meta["supersedes"]) == (7, settled.digest)


@pytest.mark.slow
def test_known_images_are_left_out_whatever_their_name(settled: ingest.IngestResult) -> None:
    again = {"field/other-name.png": pictures()["field/a.png"], "water/a.png": pictures()["water/a.png"]}
    result = add_files(NEW | again)
    assert files_in(Path("data")) == pictures() | NEW and "2 of its images were there already" in str(result)


@pytest.mark.slow
def test_the_same_image_twice_in_an_addition_is_taken_once(settled: ingest.IngestResult) -> None:
    result = add_files({"field/c.png": picture(50), "field/d.png": picture(50)})
    assert files_in(Path("data")) == pictures() | {"field/c.png": picture(50)}
    assert "1 of its images was there already" in str(result)


def test_an_addition_of_known_images_changes_nothing_and_says_so(settled: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    result = add("../set.zip")
    assert not result.changed and "data/ is unchanged" in str(result) and Path("data.dvc").read_bytes() == before
    assert "all images of set.zip were there already" in str(result)


def test_another_image_under_a_taken_name_gets_a_free_one_and_that_is_told(settled: ingest.IngestResult) -> None:
    result = add_files({"field/a.png": picture(50), "field/a-2.png": picture(51), "water/A.png": picture(52)})
    taken_in = {"field/a-3.png": picture(50), "field/a-2.png": picture(51), "water/A-2.png": picture(52)}
    assert files_in(Path("data")) == pictures() | taken_in
    assert "taken in under a free name: field/a.png as field/a-3.png, water/A.png as water/A-2.png" in str(result)


def test_names_that_differ_in_capitals_only_are_kept_apart(settled: ingest.IngestResult) -> None:
    add_files({"field/Zed.png": picture(50), "field/zed.png": picture(51)})
    assert files_in(Path("data")) == pictures() | {"field/Zed.png": picture(50), "field/zed-2.png": picture(51)}


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [3, [3], [{"source": "x"}], [{"classes": 3}]])
def test_a_damaged_record_of_batches_counts_as_none(settled: ingest.IngestResult, damaged: object) -> None:
    content = yaml.safe_load(Path("data.dvc").read_text())
    content["meta"]["batches"] = damaged
    Path("data.dvc").write_text(yaml.safe_dump(content))
    add_files(NEW)
    assert [batch["images"] for batch in data_record()["batches"]] == [4, 3]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"water/x.png": pictures()["field/a.png"]}, "its water/x.png is the same image as data/field/a.png"),
        ({"field/x.png": picture(70), "water/x.png": picture(70)}, "its water/x.png is the same image as its field/x"),
    ],
    ids=["in data/", "within the addition"],
)
def test_an_image_under_two_classes_is_refused_with_both_places(
    settled: ingest.IngestResult, files: dict[str, bytes], words: str
) -> None:
    before = Path("data.dvc").read_bytes()
    with pytest.raises(Refused, match=rf"tiles\.zip is refused: {words}"):
        add_files(NEW | files)
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before
    assert os.listdir(".incoming") == ["lock"]


def test_the_first_images_of_a_project_may_be_an_addition(project: Path) -> None:
    zip_of(Path("../set.zip"), pictures(10))
    result = add_files(pictures() | {"field/again.png": pictures()["field/a.png"]})
    assert files_in(Path("data")) == pictures() and result.source == "tiles.zip"
    assert len(data_record()["batches"]) == 1
    assert not ingest_source("../set.zip").changed, "data.source does not undo it"


# The source


def test_a_plain_ingest_does_not_undo_additions_while_the_source_is_unchanged(settled: ingest.IngestResult) -> None:
    add_files(NEW)
    added = add_files({"field/d.png": picture(60)}, "../more.zip")
    assert ingest_source("../set.zip") == replace(added, changed=False)
    assert added.source == "set.zip and 2 batches since" and len(files_in(Path("data"))) == 8


def test_a_source_that_really_changed_replaces_everything_and_says_so(settled: ingest.IngestResult) -> None:
    add_files(NEW)
    result = ingest_source(zip_of(Path("../set.zip"), pictures(20)))
    assert files_in(Path("data")) == pictures(20)
    assert "it took the place of set.zip and 1 batch since; −3 images (water −2, field −1), 4 changed" in str(result)
    assert [batch["images"] for batch in data_record()["batches"]] == [4]


@pytest.mark.slow
def test_a_source_named_before_an_addition_but_never_ingested_replaces_it(settled: ingest.IngestResult) -> None:
    own = DataParams(source=str(folder_of(Path("../own"), pictures(30))), checksum=None)
    ingest.add(own, CHECKS, str(zip_of(Path("../tiles.zip"), NEW)))
    assert ingest.ingest(own, CHECKS).changed
    assert files_in(Path("data")) == pictures(30)


@pytest.mark.slow
def test_the_base_or_the_last_addition_named_as_an_arrival_replaces_everything(settled: ingest.IngestResult) -> None:
    whole = zip_of(Path("../tiles.zip"), pictures(10))
    add(whole)
    for arrival, seed in (("../set.zip", 0), ("../tiles.zip", 10)):
        assert ingest.ingest(SET, CHECKS, arrival).changed
        assert files_in(Path("data")) == pictures(seed)


@pytest.mark.slow
def test_missing_data_is_not_mistaken_for_no_data(settled: ingest.IngestResult) -> None:
    add_files(NEW)
    shutil.rmtree("data")
    with pytest.raises(NotReady, match="data/ is missing version .*: restore it with `dvc checkout data`"):
        add_files(pictures(20), "../more.zip")
    with pytest.raises(LanduseError, match="made of set.zip and 1 batch since: restore it with `dvc pull data`$"):
        ingest_source("../set.zip")
    with Repo() as repo:
        repo.checkout(["data"])
    assert files_in(Path("data")) == pictures() | NEW


@pytest.mark.slow
def test_data_that_was_versioned_by_hand_or_before_batches_is_added_to(settled: ingest.IngestResult) -> None:
    Path("data/field/c.png").write_bytes(picture(99))
    with repository() as repo:
        add_data(repo)
    unchanged = add("../set.zip")
    assert (unchanged.images, unchanged.changed) == (5, False)
    result = add_files({"water/c.png": picture(50)})
    batches = data_record()["batches"]
    assert [(batch["source"], batch["images"]) for batch in batches][1:] == [("edited by hand", 1), ("tiles.zip", 1)]
    assert result.source == "set.zip and 2 batches since"
    assert not ingest_source("../set.zip").changed


def test_restored_data_keeps_the_record_of_its_batches(settled: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    shutil.rmtree("data")
    assert ingest_source("../set.zip").restored
    assert Path("data.dvc").read_bytes() == before


# Links


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["copy", "hardlink", "symlink"])
def test_neither_the_cache_nor_the_images_of_before_are_written_to(settled: ingest.IngestResult, kind: str) -> None:
    with repository() as repo, repo.config.edit("local") as config:
        config["cache"]["type"] = kind
    with repository() as repo:
        repo.checkout(["data"], relink=True)
    cached = files_in(Path(".dvc/cache"))
    add_files(NEW)
    assert files_in(Path("data")) == pictures() | NEW and is_data_current()
    assert files_in(Path(".dvc/cache")).items() >= cached.items()
    path = Path("data/field/a.png")
    assert path.is_symlink() == (kind == "symlink") and path.stat().st_nlink == 1 + (kind == "hardlink")


@pytest.mark.slow
def test_the_images_of_before_take_no_room_twice(settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = Path("data/field/a.png").stat().st_ino
    add_files(NEW)
    assert Path("data/field/a.png").stat().st_ino == inode

    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(addition_module.os, "link", no_links)
    add_files({"field/d.png": picture(60)}, "../more.zip")
    assert Path("data/field/a.png").stat().st_ino != inode and len(files_in(Path("data"))) == 8


# Refusals


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"swamp/a.png": picture(60)}, "swamp"),
        ({"water/broken.png": picture(60)[:500]}, "water/broken.png"),
        pytest.param(
            {f"water/{number}.png": picture(100 + number) for number in range(20)}, "imbalance", marks=pytest.mark.slow
        ),
    ],
    ids=["an unknown class", "one bad image", "too many of one class"],
)
def test_of_a_refused_addition_only_its_own_images_go_to_quarantine(
    settled: ingest.IngestResult, files: dict[str, bytes], words: str
) -> None:
    before = Path("data.dvc").read_bytes()
    with pytest.raises(Refused, match=rf"^\.\./tiles\.zip is rejected: .*{words}"):
        add_files(NEW | files)
    [folder] = Path("quarantine").iterdir()
    assert files_in(folder / "data") == NEW | files
    assert {"validation.html", "validation.json", "data_docs"} <= set(os.listdir(folder))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before and is_data_current()


def test_two_changes_at_once_are_refused(settled: ingest.IngestResult) -> None:
    Path("list.txt").write_text("field/a.png\n")
    with ingest.exclusive_lock(ingest.LOCK, ingest.BUSY):
        with pytest.raises(Unavailable, match="another ingest is running in this project"):
            add("../set.zip")
        with pytest.raises(Unavailable, match="another ingest is running in this project"):
            ingest.remove_images(SET, CHECKS, "list.txt")


def test_an_addition_to_data_that_changed_meanwhile_is_refused(
    settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("data.dvc").read_text().replace(settled.version, f"{'0' * 32}.dir")
    monkeypatch.setattr(ingest, "check_candidate", lambda *_: Path("data.dvc").write_text(other))
    with pytest.raises(Unavailable, match="data.dvc was changed meanwhile: the same command goes on"):
        add_files(NEW)
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_text() == other


@pytest.mark.slow
@pytest.mark.parametrize("place", ["link", "rename"])
def test_a_full_disk_leaves_everything_as_it_was(
    settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = Path("data.dvc").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(addition_module.os, place, fail)
        with pytest.raises(LanduseError, match="disk.*: free some space and ingest again; data/ is unchanged"):
            add_files(NEW)
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before
    assert os.listdir(".incoming") == ["lock"] and add("../tiles.zip").changed


def test_an_addition_has_a_path_and_is_not_data_itself(settled: ingest.IngestResult) -> None:
    for arrival, words in (
        ("", "the arrival has no name"),
        ("nowhere.zip", "there is no such file or folder"),
        ("http://127.0.0.1:9/set.zip", "set data.source to ingest from a URL"),
        ("data", "data/ is what would be replaced"),
    ):
        with pytest.raises(LanduseError, match=words):
            add(arrival)
