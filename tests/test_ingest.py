"""New images come in, or are kept out, and data/ and data.dvc always agree."""

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from landuse import ingest as room
from landuse import sample
from landuse.errors import LanduseError
from landuse.ingest import download, swap, unpack
from landuse.ingest.sources import UCMERCED_CHECKSUM, find_source
from landuse.params import DataParams, ValidateParams

CHECKS = ValidateParams(
    classes=("field", "water"),
    images_per_class=2,
    imbalance=3,
    modes=("RGB",),
    size=32,
    smallest=16,
    brightness=(10, 245),
    contrast=3,
)


def picture(seed: int) -> bytes:
    """A PNG of noise, another one for every seed."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(seed: int = 0) -> dict[str, bytes]:
    """Two images in each of two classes."""
    names = ("field/a.png", "field/b.png", "water/a.png", "water/b.png")
    return {name: picture(seed + number) for number, name in enumerate(names)}


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: the same bytes every time
    return path


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_with(path: Path, kind: bytes) -> Path:
    """A tar whose one member is of a kind that is no file."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("field/a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bring_in(source: Path | str, checks: ValidateParams = CHECKS, checksum: str | None = None) -> room.Ingested:
    return room.ingest(DataParams(source=str(source), checksum=checksum), checks)


def in_step() -> bool:
    """Whether data/ is what data.dvc says."""
    with Repo() as repo:
        return repo.status(["data.dvc"]) == {}


@pytest.fixture
def settled(project: Path, tmp_path_factory: pytest.TempPathFactory) -> room.Ingested:
    """The project after it took in `pictures()` from set.zip beside it: done once, copied from then on."""
    template = tmp_path_factory.getbasetemp() / "settled"
    archive = zip_of(project.parent / "set.zip", pictures())
    if template.exists():
        copytree(template, project, dirs_exist_ok=True)
    else:
        bring_in(archive)
        copytree(project, template)
    return room.outcome(room.recorded(), changed=True)


# What is unpacked


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_images_leave_an_archive_byte_by_byte_whatever_its_kind_and_name(tmp_path: Path, kind: str) -> None:
    inside = {f"UCMerced_LandUse/Images/{name}": content for name, content in pictures().items()}
    archive = tmp_path / "archive"
    zip_of(archive, inside) if kind == "zip" else tar_of(archive, inside, f"w:{kind[4:]}")
    assert unpack.unpack_archive(archive, "archive", tmp_path / "data") == 0
    assert files_in(tmp_path / "data") == pictures()


@pytest.mark.parametrize("pack", [zip_of, tar_of, folder_of])
def test_only_images_are_taken_and_the_rest_is_counted(tmp_path: Path, pack) -> None:
    extra = ["README.txt", "field/notes.csv", "field/.hidden.png", "__MACOSX/field/._a.png", "field/Thumbs.db"]
    source = pack(tmp_path / "source", {"field/A.PNG": b"image", "field/b.TiFf": b"image"} | dict.fromkeys(extra, b""))
    fill = unpack.copy_folder if pack is folder_of else unpack.unpack_archive
    assert fill(source, "source", tmp_path / "data") == len(extra)
    assert set(files_in(tmp_path / "data")) == {"field/A.PNG", "field/b.TiFf"}


@pytest.mark.parametrize("pack", [zip_of, tar_of, folder_of])
def test_odd_file_names_survive(tmp_path: Path, pack) -> None:
    names = ["prés d'été/поле 1.png", "水/🌊 a'\"b.png", "a b/new\nline.png", "-x/--help.jpg", "100%/[x]*?.webp"]
    source = pack(tmp_path / "source", dict.fromkeys(names, b"image"))
    fill = unpack.copy_folder if pack is folder_of else unpack.unpack_archive
    fill(source, "source", tmp_path / "data")
    assert set(files_in(tmp_path / "data")) == set(names)


def test_utf8_names_are_read_from_a_zip_that_does_not_say_so_and_backslashes_are_separators(tmp_path: Path) -> None:
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


def flipped(path: Path) -> Path:
    """One bit of the first image is another."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 10] ^= 1
    path.write_bytes(content)
    return path


def tar_of_latin1_names(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("field/pré.png"), io.BytesIO())
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
    "tar hard link": (lambda path: tar_with(path, tarfile.LNKTYPE), "is a link or a device"),
    "tar device": (lambda path: tar_with(path, tarfile.CHRTYPE), "is a link or a device"),
    "tar pipe": (lambda path: tar_with(path, tarfile.FIFOTYPE), "is a link or a device"),
    "one place for two": (lambda path: zip_of(path, {"x/field/a.png": b"1", "y/field/a.png": b"2"}), "'field/a.png'"),
    "encrypted": (encrypted_zip, "is encrypted"),
    "no images": (lambda path: zip_of(path, {"field/a.txt": b""}), "holds no image"),
    "empty zip": (lambda path: zip_of(path, {}), "holds no image"),
    "no class folder": (lambda path: tar_of(path, {"a.png": b"image"}), "lies in no class folder"),
    "undecodable name": (tar_of_latin1_names, "not valid UTF-8"),
    "no archive": (lambda path: path.write_bytes(b"hello" * 500), "is no zip or tar"),
    "empty file": (lambda path: path.touch(), "is no zip or tar"),
    "cut zip": (lambda path: cut(zip_of(path, pictures()), 5000), "is damaged"),
    "cut tar": (lambda path: cut(tar_of(path, pictures()), 6000), "is damaged"),
    "tar cut between two members": (lambda path: cut(tar_of(path, pictures()), 4096), "is damaged"),
    "cut tar.gz": (lambda path: cut(tar_of(path, pictures(), "w:gz"), 6000), "is damaged"),
    "cut tar.bz2": (lambda path: cut(tar_of(path, pictures(), "w:bz2"), 6000), "is damaged|beginning is damaged"),
    "cut tar.xz": (lambda path: cut(tar_of(path, pictures(), "w:xz"), 6000), "is damaged"),
    "flipped bit": (lambda path: flipped(zip_of(path, pictures())), "is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_archive_is_refused_in_one_line_and_nothing_is_left_of_it(project: Path, case: str) -> None:
    make, words = REFUSED[case]
    make(project / "set.archive")
    before = set(project.parent.rglob("*"))
    with pytest.raises(LanduseError, match=words) as caught:
        bring_in("set.archive")
    assert "set.archive" in str(caught.value) and "\n" not in str(caught.value)
    assert {path.name for path in set(project.parent.rglob("*")) - before} == {".incoming", "lock"}


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(unpack, "UNPACKED_BYTES", 1_000_000)
    bomb = {"field/a.png": bytes(900_000), "field/b.png": bytes(900_000)}
    for archive in (tar_of(tmp_path / "a.tar.xz", bomb, "w:xz"), tar_of(tmp_path / "a.tar.gz", bomb, "w:gz")):
        with pytest.raises(LanduseError, match="unpacks to more than"):
            unpack.unpack_archive(archive, archive.name, tmp_path / archive.suffix[1:])
        assert sum(map(len, files_in(tmp_path / archive.suffix[1:]).values())) < 1_000_000


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(unpack, "MEMBERS", 3)
    with pytest.raises(LanduseError, match="more than 3 files"):
        unpack.unpack_archive(zip_of(tmp_path / "a.zip", pictures()), "a.zip", tmp_path / "data")


def test_a_full_disk_is_said_in_one_line() -> None:
    with (
        pytest.raises(LanduseError, match="does not fit on the disk: free some space"),
        unpack.one_line_errors("a.zip"),
    ):
        Path("/dev/full").write_bytes(b"x")
    with pytest.raises(LanduseError, match="the disk is full"), room.room_on_disk():
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


# Which source


def test_a_source_is_recorded_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "set.zip", pictures())
    source = find_source(DataParams(source=str(archive), checksum=None))
    assert (source.name, source.digest) == ("set.zip", f"sha256:{sha256(archive.read_bytes()).hexdigest()}")
    assert find_source(DataParams(source=str(folder_of(tmp_path / "set", pictures())), checksum=None)).name == "set"


def test_the_digest_of_a_folder_follows_names_and_contents(tmp_path: Path) -> None:
    def digest() -> str:
        return find_source(DataParams(source=str(tmp_path / "set"), checksum=None)).digest

    folder = folder_of(tmp_path / "set", pictures())
    first = digest()
    assert digest() == first
    (folder / "field/a.png").rename(folder / "field/c.png")
    second = digest()
    (folder / "field/c.png").write_bytes(b"other")
    assert len({first, second, digest()}) == 3


def test_the_sample_and_ucmerced_are_known_by_name() -> None:
    drawn = find_source(DataParams(source="sample", checksum=None))
    assert (drawn.name, drawn.digest) == ("sample", sample.fingerprint())
    official = find_source(DataParams(source="ucmerced", checksum=None))
    assert (official.name, official.digest) == ("ucmerced", UCMERCED_CHECKSUM)


WRONG = "md5:" + "0" * 32
SENSELESS = {
    "missing file": ("nowhere.zip", None, "nowhere.zip: there is no such file or folder"),
    "URL without checksum": ("http://host/a.zip", None, "a URL needs data.checksum"),
    "other scheme": ("s3://bucket/a.zip", WRONG, "only http and https"),
    "no URL": ("http://[host/a.zip", WRONG, "check the URL"),
    "checksum of a folder": (".", WRONG, "data.checksum is for archives"),
    "checksum of the sample": ("sample", WRONG, "data.checksum is for archives"),
    "another checksum": ("params.yaml", WRONG, f"params.yaml has md5:.* instead of {WRONG}"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_a_source_that_cannot_be_had_is_refused_before_anything_happens(project: Path, case: str) -> None:
    source, checksum, words = SENSELESS[case]
    with pytest.raises(LanduseError, match=words):
        bring_in(source, checksum=checksum)
    assert not Path("data").exists() and not Path("data.dvc").exists()


# Downloads


class Web(BaseHTTPRequestHandler):
    """A site with one archive, and the ways in which a transfer goes wrong."""

    archive = b""
    seen: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Authorization"]))
        self.path = self.path.partition("?")[0]
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/set.zip")
            self.end_headers()
        elif self.path == "/missing.zip":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.archive)))
            self.end_headers()
            self.send_archive()

    def send_archive(self) -> None:
        if self.path == "/cut.zip":
            self.wfile.write(self.archive[:1000])
        elif self.path == "/stalled.zip":
            self.wfile.write(self.archive[:1000])
            time.sleep(1)
        elif self.path == "/reset.zip":
            self.connection.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: close with a reset
            self.wfile.write(self.archive[:1000])
            time.sleep(0.1)
            self.connection.close()
        else:
            self.wfile.write(self.archive)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a real web server on this machine."""
    Web.archive, Web.seen = zip_of(tmp_path / "served.zip", pictures()).read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def served() -> str:
    return f"md5:{md5(Web.archive).hexdigest()}"


def test_a_url_is_ingested_and_recorded_without_its_secrets_and_not_fetched_again(project: Path, site: str) -> None:
    url = site.replace("http://", "http://user:pa%40ss@") + "/set.zip?token=secret"
    first = bring_in(url, checksum=served())
    assert (first.source, first.digest, first.changed) == (f"{site}/set.zip", served(), True)
    assert "secret" not in Path("data.dvc").read_text() and "pa" not in first.source
    assert Web.seen == [("/set.zip?token=secret", "Basic " + b64encode(b"user:pa@ss").decode())]
    assert bring_in(url, checksum=served()) == replace(first, changed=False)
    assert len(Web.seen) == 1


def test_a_password_is_not_sent_on_to_where_a_redirect_leads(project: Path, site: str) -> None:
    download.fetch(site.replace("http://", "http://user:word@") + "/moved.zip", served())
    assert [bool(authorization) for _, authorization in Web.seen] == [True, False]


def test_a_download_with_another_checksum_is_refused_and_not_kept(project: Path, site: str) -> None:
    with pytest.raises(LanduseError, match=f"set.zip has {served()} instead of {WRONG}"):
        bring_in(f"{site}/set.zip", checksum=WRONG)
    assert not Path("data").exists() and list(download.DOWNLOADS.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("missing.zip", "answers 404 Not Found: check data.source"),
        ("cut.zip", "broke off after 1,000 of"),
        ("stalled.zip", r"broke off \(timed out\)"),
        ("reset.zip", "broke off"),
    ],
)
def test_a_failed_transfer_says_what_happened_and_leaves_nothing(
    project: Path, site: str, page: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    with pytest.raises(LanduseError, match=words) as caught:
        bring_in(f"{site}/{page}?token=secret", checksum=served())
    assert f"{site}/{page}" in str(caught.value) and "secret" not in str(caught.value)
    assert list(download.DOWNLOADS.iterdir()) == [] and not Path("data").exists()


def test_a_host_that_cannot_be_reached_is_named_with_the_remedy(project: Path) -> None:
    with pytest.raises(
        LanduseError, match=r"http://127.0.0.1:1/a.zip cannot be reached \(Connection refused\)"
    ) as caught:
        bring_in("http://127.0.0.1:1/a.zip", checksum=WRONG)
    assert "data.source" in str(caught.value)


def test_a_kept_download_is_used_until_it_is_damaged_or_another_replaces_it(project: Path, site: str) -> None:
    kept = download.fetch(f"{site}/set.zip", served())
    assert download.fetch(f"{site}/set.zip", served()) == kept and len(Web.seen) == 1
    kept.write_bytes(b"damaged")
    (kept.parent / "md5-older").touch()
    assert download.fetch(f"{site}/set.zip", served()).read_bytes() == Web.archive
    assert list(kept.parent.iterdir()) == [kept]


# What becomes of data/


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


def test_edited_data_is_not_overwritten_and_missing_data_is_rebuilt(settled: room.Ingested) -> None:
    Path("data/field/a.png").write_bytes(picture(99))
    with pytest.raises(LanduseError, match="dvc checkout --force data"):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert Path("data/field/a.png").read_bytes() == picture(99)
    Path("data").rename("edited")
    assert bring_in("../set.zip") == replace(settled, changed=False)
    assert files_in(Path("data")) == pictures() and in_step()


def test_data_that_was_never_versioned_is_not_overwritten(project: Path) -> None:
    folder_of(Path("data"), pictures())
    with pytest.raises(LanduseError, match="data/ is not versioned: move it elsewhere"):
        bring_in("sample")
    assert files_in(Path("data")) == pictures()


def test_a_data_dvc_with_merge_conflicts_is_refused(project: Path) -> None:
    Path("data.dvc").write_text("<<<<<<< ours\nouts:\n")
    with pytest.raises(LanduseError, match="data.dvc is not valid"):
        bring_in("sample")


def test_a_version_added_by_hand_is_not_taken_for_the_recorded_source(settled: room.Ingested) -> None:
    Path("data/field/c.png").write_bytes(picture(99))
    room.dvc("add", "data")
    assert bring_in("../set.zip") == settled
    assert files_in(Path("data")) == pictures() and in_step()


def test_where_dvc_cannot_follow_the_old_data_comes_back(settled: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    cache = Path(".dvc/cache/files/md5")
    for number in range(256):  # plain files stand where new objects would need folders
        if not (cache / f"{number:02x}").exists():
            (cache / f"{number:02x}").touch()
    with pytest.raises(LanduseError, match="dvc add data failed"):
        bring_in(zip_of(Path("../other.zip"), pictures(10)))
    assert files_in(Path("data")) == pictures() and Path("data.dvc").read_bytes() == before
    assert in_step() and os.listdir(".incoming") == ["lock"]


def test_where_dvc_cannot_follow_the_first_ingest_leaves_nothing(project: Path) -> None:
    Path(".dvc/cache").touch()
    with pytest.raises(LanduseError, match="dvc add data failed"):
        bring_in(zip_of(project.parent / "set.zip", pictures()))
    assert not Path("data").exists() and not Path("data.dvc").exists()


# Cut short


def test_a_second_ingest_at_once_is_told_to_wait(project: Path) -> None:
    with room.alone(), pytest.raises(LanduseError, match="another ingest is at work"):
        bring_in("sample")


DEADLY = """
import os, signal
from landuse import ingest as room
from landuse.params import DataParams, ValidateParams

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

dvc = room.dvc
{fault}
room.ingest(DataParams(source="../other.zip", checksum=None), {checks!r})
"""
FAULTS = {
    "before the swap": "room.swap_in = die",
    "between swap and dvc add": "room.dvc = lambda *words: die() if words[0] == 'add' else dvc(*words)",
    "between dvc add and the record": "room.write_record = die",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_at_any_moment_the_next_ingest_finds_the_old_pair(settled: room.Ingested, fault: str) -> None:
    zip_of(Path("../other.zip"), pictures(10))
    script = DEADLY.format(fault=FAULTS[fault], checks=CHECKS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert bring_in("../set.zip") == replace(settled, changed=False)
    assert files_in(Path("data")) == pictures() and in_step() and os.listdir(".incoming") == ["lock"]


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
            swap.swap_in(room.CANDIDATE / "data")
        except OSError:
            assert renames < 3
    swap.undo_swap()
    assert files_in(Path("data")) == {"field/a.png": b"old"}
    assert files_in(room.CANDIDATE / "data") == {"field/a.png": b"new"}
