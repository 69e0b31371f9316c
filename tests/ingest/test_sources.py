"""Sources: what the params name, and how it is recorded."""

from hashlib import sha256
from pathlib import Path

import pytest
from archives import WRONG, folder_of, ingest_source, pictures, zip_of

from landuse import sample
from landuse.core.errors import LanduseError
from landuse.ingest.sources import UCMERCED_CHECKSUM, find_source
from landuse.params import DataParams


def test_a_source_is_recorded_without_local_folders(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "set.zip", pictures())
    source = find_source(DataParams(source=str(archive), checksum=None))
    assert (source.name, source.digest) == ("set.zip", f"sha256:{sha256(archive.read_bytes()).hexdigest()}")
    assert find_source(DataParams(source=str(folder_of(tmp_path / "set", pictures())), checksum=None)).name == "set"


def test_the_digest_of_a_folder_depends_on_names_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        return find_source(DataParams(source=str(tmp_path / "set"), checksum=None)).digest

    folder = folder_of(tmp_path / "set", pictures())
    first = digest()
    assert digest() == first
    (folder / "field/a.png").rename(folder / "field/c.png")
    second = digest()
    (folder / "field/c.png").write_bytes(b"other")
    assert len({first, second, digest()}) == 3


def test_the_sample_and_ucmerced_are_built_in() -> None:
    drawn = find_source(DataParams(source="sample", checksum=None))
    assert (drawn.name, drawn.digest) == ("sample", sample.FINGERPRINT)
    official = find_source(DataParams(source="ucmerced", checksum=None))
    assert (official.name, official.digest) == ("ucmerced", UCMERCED_CHECKSUM)


INVALID_SOURCES = {
    "missing file": ("nowhere.zip", None, "nowhere.zip: there is no such file or folder"),
    "URL without checksum": ("http://host/a.zip", None, "a URL needs data.checksum"),
    "other scheme": ("s3://bucket/a.zip", WRONG, "only http and https"),
    "no URL": ("http://[host/a.zip", WRONG, "check the URL"),
    "checksum of a folder": (".", WRONG, "data.checksum is for archives"),
    "checksum of the sample": ("sample", WRONG, "data.checksum is for archives"),
    "its own data": (".", None, "data/ is what would be replaced"),
    "home of an unknown user": ("~nobody-knows/a.zip", None, "there is no such file or folder"),
    "another checksum": ("params.yaml", WRONG, f"params.yaml has md5:.* instead of {WRONG}"),
}


@pytest.mark.parametrize("case", INVALID_SOURCES)
def test_an_invalid_source_is_refused_before_anything_changes(project: Path, case: str) -> None:
    source, checksum, message = INVALID_SOURCES[case]
    with pytest.raises(LanduseError, match=message):
        ingest_source(source, checksum=checksum)
    assert not Path("data").exists() and not Path("data.dvc").exists()


@pytest.mark.parametrize("source", [".", "data", "data/field"])
def test_a_folder_around_or_within_its_own_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("data"), pictures())
    with pytest.raises(LanduseError, match="data/ is what would be replaced"):
        find_source(DataParams(source=source, checksum=None))
