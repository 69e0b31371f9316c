"""Archives and folders: the images that are extracted, and the members that are refused."""

import io
import os
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archives import files_in, folder_of, ingest_source, pictures, tar_of, zip_of

from landuse import ingest
from landuse.core.errors import LanduseError
from landuse.ingest import unpack


def tar_with(path: Path, kind: bytes) -> Path:
    """Write a tar whose only member is not a regular file."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("field/a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_images_are_extracted_unchanged_from_any_kind_of_archive(tmp_path: Path, kind: str) -> None:
    inside = {f"UCMerced_LandUse/Images/{name}": content for name, content in pictures().items()}
    archive = tmp_path / "archive"
    zip_of(archive, inside) if kind == "zip" else tar_of(archive, inside, f"w:{kind[4:]}")
    assert unpack.unpack_archive(archive, "archive", tmp_path / "data") == 0
    assert files_in(tmp_path / "data") == pictures()


@pytest.mark.parametrize("pack", [zip_of, tar_of, folder_of])
def test_only_images_are_extracted_and_other_files_are_counted(tmp_path: Path, pack) -> None:
    extra = ["README.txt", "field/notes.csv", "field/.hidden.png", "__MACOSX/field/._a.png", "field/Thumbs.db"]
    source = pack(tmp_path / "source", {"field/A.PNG": b"image", "field/b.TiFf": b"image"} | dict.fromkeys(extra, b""))
    fill = unpack.copy_folder if pack is folder_of else unpack.unpack_archive
    assert fill(source, "source", tmp_path / "data") == len(extra)
    assert set(files_in(tmp_path / "data")) == {"field/A.PNG", "field/b.TiFf"}


@pytest.mark.parametrize("pack", [zip_of, tar_of, folder_of])
def test_unusual_file_names_are_preserved(tmp_path: Path, pack) -> None:
    names = ["prés d'été/поле 1.png", "水/🌊 a'\"b.png", "a b/new\nline.png", "-x/--help.jpg", "100%/[x]*?.webp"]
    source = pack(tmp_path / "source", dict.fromkeys(names, b"image"))
    fill = unpack.copy_folder if pack is folder_of else unpack.unpack_archive
    fill(source, "source", tmp_path / "data")
    assert set(files_in(tmp_path / "data")) == set(names)


@pytest.mark.parametrize("pack", [zip_of, tar_of, folder_of])
def test_decomposed_accents_as_written_by_macos_are_composed(tmp_path: Path, pack) -> None:
    source = pack(tmp_path / "source", {unicodedata.normalize("NFD", "grün/é.png"): b"image"})
    fill = unpack.copy_folder if pack is folder_of else unpack.unpack_archive
    fill(source, "source", tmp_path / "data")
    assert set(files_in(tmp_path / "data")) == {"grün/é.png"}


def test_zip_names_are_read_as_utf8_without_the_flag_and_with_backslashes(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"Set\\wåter\\ä.png": b"image"})
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset + 1] &= ~0x08
    archive.write_bytes(content)
    unpack.unpack_archive(archive, "a.zip", tmp_path / "data")
    assert set(files_in(tmp_path / "data")) == {"wåter/ä.png"}


def encrypted_zip(path: Path) -> Path:
    content = bytearray(zip_of(path, {"field/a.png": b"image"}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    return path


def zip_with_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("field/a.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return path


def cut(path: Path, length: int) -> Path:
    path.write_bytes(path.read_bytes()[:length])
    return path


def flip_bit(path: Path) -> Path:
    """Flip one bit of the first image."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 10] ^= 1
    path.write_bytes(content)
    return path


def tar_with_flipped_bit(path: Path, mode: str) -> Path:
    """Flip a bit amid content that no compression shrinks, so that only the checksum can tell."""
    content = bytearray(tar_of(path, {"field/a.png": np.random.default_rng(1).bytes(2**19)}, mode).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def tar_of_latin1_names(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("field/pré.png"), io.BytesIO())
    return path


def tar_of_invalid_headers(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("field/a.png")
        info.pax_headers = {"GNU.sparse.map": "no numbers"}
        archive.addfile(info, io.BytesIO())
    return path


REFUSED = {
    "climbs out": (lambda path: zip_of(path, {"../../field/a.png": b""}), "outside of the data folder"),
    "climbs out the Windows way": (
        lambda path: zip_of(path, {"..\\..\\field\\a.png": b""}),
        "outside of the data folder",
    ),
    "climbs out of a tar": (lambda path: tar_of(path, {"field/../../a.png": b""}), "outside of the data folder"),
    "absolute": (lambda path: tar_of(path, {"/field/a.png": b""}), "outside of the data folder"),
    "on a drive": (lambda path: zip_of(path, {"C:\\field\\a.png": b""}), "outside of the data folder"),
    "zip link": (zip_with_link, "is a link or a device"),
    "tar symbolic link": (lambda path: tar_with(path, tarfile.SYMTYPE), "is a link or a device"),
    "tar hard link": (lambda path: tar_with(path, tarfile.LNKTYPE), "is a link to '/etc/passwd', outside of it"),
    "tar device": (lambda path: tar_with(path, tarfile.CHRTYPE), "is a link or a device"),
    "tar pipe": (lambda path: tar_with(path, tarfile.FIFOTYPE), "is a link or a device"),
    "path conflict": (
        lambda path: zip_of(path, {"x/field/a.png": b"1", "y/field/a.png": b"2"}),
        "'field/a.png'",
    ),
    "encrypted": (encrypted_zip, "is encrypted"),
    "no images": (lambda path: zip_of(path, {"field/a.txt": b""}), "holds no image"),
    "archive in an archive": (
        lambda path: zip_of(path, {"readme.txt": b"", "inner/tiles.ZIP": b"", "b.zip": b""}),
        "holds no image .*: unpack 'inner/tiles.ZIP', which lies in it",
    ),
    "empty zip": (lambda path: zip_of(path, {}), "holds no image"),
    "no class folder": (lambda path: tar_of(path, {"a.png": b"image"}), "lies in no class folder"),
    "undecodable name": (tar_of_latin1_names, "not valid UTF-8"),
    "invalid headers": (tar_of_invalid_headers, "is damaged"),
    "no archive": (lambda path: path.write_bytes(b"hello" * 500), "is no zip or tar"),
    "empty file": (lambda path: path.touch(), "is no zip or tar"),
    "cut zip": (lambda path: cut(zip_of(path, pictures()), 5000), "is damaged"),
    "cut tar": (lambda path: cut(tar_of(path, pictures()), 6000), "is damaged"),
    "tar cut between two members": (lambda path: cut(tar_of(path, pictures()), 4096), "is damaged"),
    "cut tar.gz": (lambda path: cut(tar_of(path, pictures(), "w:gz"), 6000), "is damaged"),
    "cut tar.bz2": (lambda path: cut(tar_of(path, pictures(), "w:bz2"), 6000), "is damaged|beginning is damaged"),
    "cut tar.xz": (lambda path: cut(tar_of(path, pictures(), "w:xz"), 6000), "is damaged"),
    "name too long": (
        lambda path: zip_of(path, {f"field/{'a' * 300}.png": b""}),
        "too long a name: a{60}…; use",
    ),
    "flipped bit": (lambda path: flip_bit(zip_of(path, pictures())), "is damaged"),
    "flipped bit in a tar.gz": (lambda path: tar_with_flipped_bit(path, "w:gz"), "is damaged"),
    "flipped bit in a tar.xz": (lambda path: tar_with_flipped_bit(path, "w:xz"), "is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_archive_is_refused_in_one_line_and_leaves_nothing(project: Path, case: str) -> None:
    make, message = REFUSED[case]
    make(project / "set.archive")
    before = set(project.parent.rglob("*"))
    with pytest.raises(LanduseError, match=message) as caught:
        ingest_source("set.archive")
    assert "set.archive" in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name for path in set(project.parent.rglob("*")) - before} == {".incoming", "lock"}


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(unpack, "UNPACKED_BYTES", 1_000_000)
    bomb = {"field/a.png": bytes(900_000), "field/b.png": bytes(900_000)}
    for archive in (tar_of(tmp_path / "a.tar.xz", bomb, "w:xz"), tar_of(tmp_path / "a.tar.gz", bomb, "w:gz")):
        with pytest.raises(LanduseError, match="unpacks to more than"):
            unpack.unpack_archive(archive, archive.name, tmp_path / archive.suffix[1:])
        assert sum(map(len, files_in(tmp_path / archive.suffix[1:]).values())) < 1_000_000


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 3)
    with pytest.raises(LanduseError, match="more than 3 files"):
        unpack.unpack_archive(zip_of(tmp_path / "a.zip", pictures()), "a.zip", tmp_path / "data")


def test_a_full_disk_is_reported_in_one_line() -> None:
    with (
        pytest.raises(LanduseError, match="does not fit on the disk: free some space"),
        unpack.one_line_errors("a.zip"),
    ):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(LanduseError, match="the disk is full"), ingest.explain_full_disk():
        Path("/dev/full").write_bytes(b"x")


def test_a_link_to_a_folder_and_a_pipe_in_a_source_folder_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", pictures())
    (source / "forest").symlink_to(source / "field")
    with pytest.raises(LanduseError, match="link to a folder"):
        unpack.copy_folder(source, "source", tmp_path / "data")
    (source / "forest").unlink()
    os.mkfifo(source / "field" / "pipe.png")
    with pytest.raises(LanduseError, match=r"pipe\.png.* is a device or a broken link"):
        unpack.copy_folder(source, "source", tmp_path / "data")
