"""A removal takes listed images out of data/, and only if the rest is still a valid data set."""

import os
from hashlib import sha256
from pathlib import Path

import pytest
from archives import CHECKS, files_in, ingest_source, is_current, is_data_current, picture, pictures, zip_of

from landuse import ingest
from landuse.core.errors import LanduseError, NotReady, Refused
from landuse.params import DataParams
from landuse.project.dvc_repo import add_data, repository
from landuse.project.lineage import data_record

SET = DataParams(source="../set.zip", checksum=None)
NEW = {"field/c.png": picture(50), "water/c.png": picture(51), "water/d é.png": picture(52)}


def remove(text: str) -> ingest.IngestResult:
    Path("../list.txt").write_text(text, encoding="utf-8")
    return ingest.remove_images(SET, CHECKS, "../list.txt")


@pytest.fixture
def grown(settled: ingest.IngestResult) -> ingest.IngestResult:
    """The project after an addition of three images."""
    return ingest.add(SET, CHECKS, str(zip_of(Path("../tiles.zip"), NEW)))


def test_listed_images_are_taken_out_by_path_and_by_content(grown: ingest.IngestResult) -> None:
    by_content = sha256(picture(51)).hexdigest()
    result = remove(f"# blurred\n\n  field/c.png  \n{by_content}\nwater/d e\u0301.png\n")
    assert files_in(Path("data")) == pictures() and is_data_current() and is_current("validate")
    assert str(result) == (
        "data/ is new: 4 images in 2 classes from set.zip and 2 batches since; "
        f"−3 images (water −2, field −1); version {result.version}"
    )
    assert os.listdir(".incoming") == ["lock"]


def test_a_removal_is_on_record_and_deletes_nothing_from_the_cache(grown: ingest.IngestResult) -> None:
    cached = files_in(Path(".dvc/cache"))
    remove("field/c.png\n")
    assert files_in(Path(".dvc/cache")).items() >= cached.items()
    last = data_record()["batches"][-1]
    assert (last["source"], last["images"], last["classes"]) == ("list.txt", -1, {"field": -1})
    assert sum(batch["images"] for batch in data_record()["batches"]) == 6


@pytest.mark.slow
def test_a_plain_ingest_does_not_bring_back_what_was_removed(grown: ingest.IngestResult) -> None:
    remove("field/c.png\n")
    assert not ingest_source("../set.zip").changed and "field/c.png" not in files_in(Path("data"))


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["data/field/c.png", "./field/c.png", "{digest}", "{digest}  field/c.png"])
def test_entries_may_have_the_forms_that_other_tools_print(grown: ingest.IngestResult, entry: str) -> None:
    remove(entry.format(digest=sha256(NEW["field/c.png"]).hexdigest().upper()))
    assert "field/c.png" not in files_in(Path("data")) and len(files_in(Path("data"))) == 6


def test_the_same_content_that_stays_under_another_name_is_told(settled: ingest.IngestResult) -> None:
    Path("data/field/twin.png").write_bytes(pictures()["field/a.png"])
    with repository() as repo:
        add_data(repo)
    assert "the same content stays under another name: field/twin.png;" in str(remove("field/a.png"))


@pytest.mark.parametrize("entry", ["field/z.png", "0" * 64, "field", "data/field/z.png"])
def test_an_unknown_entry_is_refused_with_its_line(settled: ingest.IngestResult, entry: str) -> None:
    with pytest.raises(Refused, match=rf"^\.\./list\.txt is refused: line 3, {entry}, names no image in data/$"):
        remove(f"# two\nfield/a.png\n{entry}\n")
    assert files_in(Path("data")) == pictures()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"# nothing\n\n", "names no image"),
        (b"\xff\xfe\n", "is no text in UTF-8"),
        (None, "there is no such file"),
    ],
)
def test_an_unusable_list_is_told_in_one_line(settled: ingest.IngestResult, content: bytes | None, words: str) -> None:
    if content:
        Path("list.txt").write_bytes(content)
    with pytest.raises(LanduseError, match=f"^list.txt.*{words}"):
        ingest.remove_images(SET, CHECKS, "list.txt")


@pytest.mark.slow
@pytest.mark.parametrize("entries", ["field/a.png", "field/a.png\nfield/b.png", "\n".join(pictures())])
def test_a_removal_that_leaves_a_class_too_small_is_refused_with_a_report(
    settled: ingest.IngestResult, entries: str
) -> None:
    before = Path("data.dvc").read_bytes()
    with pytest.raises(Refused) as refusal:
        remove(entries)
    assert str(refusal.value).startswith("../list.txt is rejected: ")
    [folder] = Path("quarantine").iterdir()
    assert str(folder) in str(refusal.value) and list((folder / "data").glob("*")) == []
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before


def test_there_is_nothing_to_remove_without_data(project: Path) -> None:
    with pytest.raises(NotReady, match="there is no data set yet"):
        remove("field/a.png\n")
