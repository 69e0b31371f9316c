"""Hard links in a tar become files, and no header takes excessive memory or time."""

import gzip
import io
import lzma
import os
import subprocess
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import files_in, folder_of, picture, pictures, tar_of

from landuse.core.errors import LanduseError, Refused
from landuse.ingest import tar, unpack

IMAGE = b"an image"
BLOCK = 512


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int = -1) -> bytes:
    """Return one tar member as bytes; its size field may differ from the size of its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if size < 0 else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def link(name: str, source: str) -> bytes:
    return entry(name, kind=tarfile.LNKTYPE, link=source)


def unpacked(folder: Path, *entries: bytes, packed: Callable = bytes) -> dict[str, bytes]:
    """Unpack an archive of these members and return its files."""
    archive = folder / "a.tar"
    archive.write_bytes(packed(b"".join(entries) + bytes(2 * BLOCK)))
    unpack.unpack_archive(archive, "a.tar", folder / "data")
    return files_in(folder / "data")


@pytest.mark.parametrize("mode", ["cf", "czf"])
def test_a_folder_with_hard_links_survives_a_tar_unchanged(tmp_path: Path, mode: str) -> None:
    folder = folder_of(tmp_path / "source", pictures())
    for number in range(3):
        os.link(folder / "field" / "a.png", folder / "field" / f"twin{number}.png")
    subprocess.run(["tar", mode, tmp_path / "a", "-C", folder, "."], check=True)
    with tarfile.open(tmp_path / "a") as archive:
        assert sum(member.islnk() for member in archive) == 3
    unpack.unpack_archive(tmp_path / "a", "a", tmp_path / "data")
    assert files_in(tmp_path / "data") == files_in(folder)


def test_images_hard_linked_to_a_cache_in_the_archive_are_extracted(tmp_path: Path) -> None:
    """A project with `cache.type hardlink` looks like this."""
    project = folder_of(tmp_path / "project", {f".dvc/cache/{name}": image for name, image in pictures().items()})
    for name in pictures():
        (project / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(project / ".dvc" / "cache" / name, project / "data" / name)
    os.link(project / "data" / "water" / "a.png", project / "data" / "water" / "twin.png")
    archive = tmp_path / "a.tgz"
    subprocess.run(["tar", "czf", archive, "-C", project, ".dvc", "data"], check=True)
    assert unpack.unpack_archive(archive, "a.tgz", tmp_path / "data") == len(pictures())
    assert files_in(tmp_path / "data") == pictures() | {"water/twin.png": pictures()["water/a.png"]}


def test_chained_links_and_links_to_skipped_files_have_the_right_content(tmp_path: Path) -> None:
    entries = [
        entry("x/a/one.png", IMAGE),
        link("x/a/two.png", "./x/a//one.png"),
        link("x/a/three.png", "x/a/two.png"),
        entry("x/.hidden/four", b"hidden"),
        entry("x/notes.bin", b"no image by its name"),
        link("x/b/four.png", "x/.hidden/four"),
        link("x/b/five.png", "x/b/four.png"),
        link("x/b/six.png", "x/notes.bin"),
        link("x/b/seven.png", "x/later.bin"),
        link("x/b/notes.txt", "x/nowhere"),
        link("x/.b/hidden.png", "x/nowhere"),
        entry("x/later.bin", b"it comes later"),
    ]
    for number, packed in enumerate((bytes, gzip.compress)):
        (tmp_path / str(number)).mkdir()
        assert unpacked(tmp_path / str(number), *entries, packed=packed) == {
            **dict.fromkeys(("a/one.png", "a/two.png", "a/three.png"), IMAGE),
            **dict.fromkeys(("b/four.png", "b/five.png"), b"hidden"),
            "b/six.png": b"no image by its name",
            "b/seven.png": b"it comes later",
        }


BAD_LINKS = {
    "to the outside": (link("a/b.png", "../a/one.png"), "is a link to '../a/one.png', outside of it"),
    "to a file of this machine": (link("a/b.png", "/etc/passwd"), "is a link to '/etc/passwd', outside of it"),
    "to nothing": (link("a/b.png", "a/gone.png"), "is a link to 'a/gone.png', which is not a file in it"),
    "to itself": (link("a/b.png", "a/b.png"), "is a link to 'a/b.png', which is not a file in it"),
    "in a ring": (link("a/b.png", "a/c.png") + link("a/c.png", "a/b.png"), "which is not a file in it"),
    "to a folder": (entry("a", kind=tarfile.DIRTYPE) + link("a/b.png", "a"), "which is not a file in it"),
    "to an image of the same name elsewhere": (link("a/b.png", "y/a/one.png"), "which is not a file in it"),
    "to a symbolic link": (
        entry("a/s.png", kind=tarfile.SYMTYPE, link="one.png") + link("a/b.png", "a/s.png"),
        "its member 'a/s.png' is a link or a device",
    ),
    "where an image is": (link("a/one.png", "x/a/one.png"), "two of its images would become 'a/one.png'"),
    "of no class": (link("b.png", "x/a/one.png"), "lies in no class folder"),
    "from the outside": (link("../a/b.png", "x/a/one.png"), "would be written outside"),
}


@pytest.mark.parametrize("case", BAD_LINKS)
def test_a_link_whose_target_is_not_in_the_archive_is_refused(tmp_path: Path, case: str) -> None:
    entries, message = BAD_LINKS[case]
    with pytest.raises(Refused, match=message) as caught:
        unpacked(tmp_path, entry("x/a/one.png", IMAGE), entries)
    assert "\n" not in str(caught.value)


def test_links_count_towards_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "UNPACKED_BYTES", 2_000_000)
    monkeypatch.setattr(unpack, "UNPACKED_RATIO", 1)
    links = [link(f"a/{number}.png", "a/one.png") for number in range(10)]
    with pytest.raises(Refused, match="unpacks to more than"):
        unpacked(tmp_path, entry("a/one.png", bytes(500_000)), *links, packed=gzip.compress)
    assert sum(map(len, files_in(tmp_path / "data").values())) <= 2_100_000


def test_pending_links_take_bounded_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tar, "MAX_PENDING_BYTES", 1000)
    with pytest.raises(Refused, match="too many hard links"):
        unpacked(tmp_path, *(link(f"a/{number}.png", "b") for number in range(200)))


GIANT = 3 * 2**30
FILLED = bytes(64 * 2**20)  # a naive reader would load this into memory


def pax(kind: bytes, *records: tuple[str, str]) -> bytes:
    """Return an extended (pax) header."""
    content = b""
    for key, value in records:
        length = len(key) + len(value) + 3
        digits = next(digits for digits in range(1, 12) if len(str(length + digits)) == digits)
        content += f"{length + digits} {key}={value}\n".encode()
    return entry("pax", content, kind)


def sparse(extended: int) -> bytes:
    """Return a member in the old GNU sparse format, with `extended` extension blocks."""
    head = bytearray(entry("a/one.png", kind=tarfile.GNUTYPE_SPARSE))
    head[482], head[148:156] = 1, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    block = b"%011o\0%011o\0" % (1, 1) * 21 + b"\1" + bytes(7)
    return bytes(head) + block * extended + bytes(BLOCK)


HEADERS = {
    "long name": lambda: entry("x", kind=tarfile.GNUTYPE_LONGNAME, size=GIANT) + FILLED,
    "long link": lambda: entry("x", kind=tarfile.GNUTYPE_LONGLINK, size=GIANT) + FILLED,
    "extended": lambda: entry("x", kind=tarfile.XHDTYPE, size=GIANT) + FILLED,
    "extended, Solaris": lambda: entry("x", kind=tarfile.SOLARIS_XHDTYPE, size=GIANT) + FILLED,
    "global": lambda: entry("x", kind=tarfile.XGLTYPE, size=GIANT) + FILLED,
    "many global": lambda: b"".join(
        pax(tarfile.XGLTYPE, (f"k{number}", "v" * 200_000)) + entry(f"a/{number}.png", IMAGE) for number in range(200)
    ),
    "repeated extended": lambda: pax(tarfile.XHDTYPE, ("comment", "x" * 400)) * 50_000,
    "repeated long names": lambda: entry("x", b"n" * 500, kind=tarfile.GNUTYPE_LONGNAME) * 50_000,
    "keys that overlap": lambda: entry("x", b"2 " * 2**13 + b"=", kind=tarfile.XHDTYPE),
    "sparse": lambda: sparse(60_000),
    "sparse, version 1.0": lambda: (
        pax(tarfile.XHDTYPE, ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"))
        + entry("a/one.png", b"9999999\n" + b"1\n" * 2**23)
    ),
    "sparse, without a newline": lambda: (
        pax(tarfile.XHDTYPE, ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"))
        + entry("a/one.png", b"2\n" + b"1" * 2**24)
    ),
}
ABSURD_SIZES = {
    "negative": pax(tarfile.XHDTYPE, ("size", "-1024")) + entry("a/one.png", IMAGE),
    "negative, global": pax(tarfile.XGLTYPE, ("size", "-1024")) + entry("a/one.png", IMAGE),
    "huge": pax(tarfile.XHDTYPE, ("size", "9" * 40)) + entry("a/one.png", IMAGE),
    "sparse": pax(tarfile.XHDTYPE, ("GNU.sparse.realsize", "-5"), ("GNU.sparse.map", "0,5")) + entry("a/b.png"),
    "huge link": pax(tarfile.XHDTYPE, ("size", "9" * 40)) + link("a/one.png", "a/one.png"),
}


@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("first", [True, False])
def test_a_huge_header_is_refused_before_it_takes_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, first: bool
) -> None:
    monkeypatch.setattr(tar, "MAX_HEADER_BYTES", 2**17)  # the default would make tracemalloc take seconds
    archive = tmp_path / "a.tgz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write((b"" if first else entry("a/zero.png", IMAGE)) + HEADERS[case]())
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match=r"headers of more than 131,072 bytes|300 digits|is damaged") as caught:
            unpack.unpack_archive(archive, "a.tgz", tmp_path / "data")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("case", ABSURD_SIZES)
def test_an_absurd_size_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    with pytest.raises(LanduseError, match="damaged|unpacks to more|not a file in it") as caught:
        unpacked(tmp_path, ABSURD_SIZES[case], entry("a/two.png", IMAGE))
    assert "\n" not in str(caught.value)


def test_a_negative_size_in_the_header_itself_is_refused(tmp_path: Path) -> None:
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE):
        head = bytearray(entry("a/one.png", kind=kind))
        head[124:136], head[148:156] = b"\xff" * 10 + b"\xfc\x00", b" " * 8  # -1024
        head[148:156] = b"%06o\0 " % sum(head)
        with pytest.raises(LanduseError, match="damaged|headers of more"):
            unpacked(tmp_path, entry(f"a/{kind[0]}.png", IMAGE), bytes(head))


def keys(start: int, end: int) -> list[tuple[str, str]]:
    return [(f"k{number}", "") for number in range(start, end)]


MANY_KEYS = {
    "global": pax(tarfile.XGLTYPE, *keys(0, 201)),
    "global, one by one": b"".join(pax(tarfile.XGLTYPE, key) + entry("x.txt") for key in keys(0, 201)),
    "extended": pax(tarfile.XHDTYPE, *keys(0, 201)),
    "extended, Solaris": pax(tarfile.SOLARIS_XHDTYPE, *keys(0, 201)),
    "together": pax(tarfile.XGLTYPE, *keys(0, 101)) + pax(tarfile.XHDTYPE, *keys(101, 201)),
}


@pytest.mark.parametrize("case", MANY_KEYS)
@pytest.mark.parametrize("first", [b"", entry("a/zero.png", IMAGE)])
def test_very_many_extended_headers_are_refused(tmp_path: Path, case: str, first: bytes) -> None:
    end = pax(tarfile.XHDTYPE, ("k200", "")) if case == "together" else b""
    with pytest.raises(Refused, match="a.tar cannot be unpacked: it has extended headers of more than 200 kinds; pack"):
        unpacked(tmp_path, first, MANY_KEYS[case], end, entry("a/one.png", IMAGE))


def test_extended_headers_that_repeat_their_keys_are_read(tmp_path: Path) -> None:
    headers = [pax(kind, *keys(0, 200)) for kind in (tarfile.XGLTYPE, tarfile.XHDTYPE)]
    members = [b"".join(headers) + entry(f"a/{number}.png", IMAGE) for number in range(20)]
    assert len(unpacked(tmp_path, *members)) == 20


def test_digits_that_tarfile_would_search_for_minutes_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
        header = entry("x", b"1234567890" * 1000, kind)
        with pytest.raises(
            Refused, match="a.tar cannot be unpacked: it has a header with 300 digits in a row; pack it"
        ):
            unpacked(tmp_path, header, entry("a/one.png", IMAGE))


def test_names_of_digits_are_read(tmp_path: Path) -> None:
    name = f"{'1' * 255}/{'2' * 251}.png"
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=style) as archive:
            info = tarfile.TarInfo(name)
            info.size = len(IMAGE)
            archive.addfile(info, io.BytesIO(IMAGE))
        (tmp_path / "a").write_bytes(content.getvalue())
        unpack.unpack_archive(tmp_path / "a", "a", tmp_path / str(style))
        assert files_in(tmp_path / str(style)) == {name: IMAGE}


def xz(content: bytes, dictionary: int = 0) -> bytes:
    """Compress to one stream, whose header asks for a dictionary: 28 is 64 MiB, 30 is 128 MiB, 38 is 2 GiB."""
    packed = lzma.compress(content)
    header = bytearray(packed[12 : 12 + packed[12] * 4])
    header[4] = dictionary or header[4]
    return packed[:12] + header + zlib.crc32(header).to_bytes(4, "little") + packed[12 + len(header) + 4 :]


def alone(content: bytes, dictionary: int) -> bytes:
    """Compress to the older .lzma format; the dictionary is given as in `xz`."""
    packed = lzma.compress(content, format=lzma.FORMAT_ALONE)
    return packed[:1] + (2 ** (dictionary // 2 + 12)).to_bytes(4, "little") + packed[5:]


STREAMS: dict[str, Callable[[bytes, int], bytes]] = {
    "xz": xz,
    "lzma": alone,
    "second stream": lambda content, dictionary: xz(content[:700]) + xz(content[700:], dictionary),
    "late stream": lambda content, dictionary: xz(content) + xz(bytes(512)) * 999 + xz(bytes(512), dictionary),
}


@pytest.mark.parametrize("case", STREAMS)
@pytest.mark.parametrize("dictionary", [30, 38])
def test_a_dictionary_that_takes_much_memory_is_refused(tmp_path: Path, case: str, dictionary: int) -> None:
    message = "a.tar cannot be unpacked: it takes more than 128 MiB of memory to decompress; pack it again as"
    with pytest.raises(Refused, match=message):
        unpacked(tmp_path, entry("a/one.png", IMAGE), packed=lambda content: STREAMS[case](content, dictionary))


@pytest.mark.parametrize("case", STREAMS)
def test_the_largest_dictionary_of_the_presets_of_xz_is_read(tmp_path: Path, case: str) -> None:
    members = [entry(f"a/{number}.png", os.urandom(300_000)) for number in range(10)]
    found = unpacked(tmp_path, *members, packed=lambda content: STREAMS[case](content, 28))
    assert [found[f"a/{number}.png"] for number in range(10)] == [member[512 : 512 + 300_000] for member in members]


def test_bytes_behind_the_last_stream_are_ignored_and_damaged_ones_in_it_are_not(tmp_path: Path) -> None:
    image = entry("a/one.png", os.urandom(3_000_000))
    (tmp_path / "whole").mkdir()
    assert unpacked(tmp_path / "whole", image, packed=lambda content: xz(content) + b"rubbish" * 5000)
    packed = xz(image + bytes(2 * BLOCK))
    for where in (1_500_000, -40, -30, -5):  # the content, its checksum, the index and the footer
        broken = bytearray(packed)
        broken[where] ^= 1
        with pytest.raises(Refused, match="a.tar is damaged: .*; fetch or pack it again"):
            unpacked(tmp_path, image, packed=lambda _, broken=broken: bytes(broken))
        (tmp_path / "data" / "a" / "one.png").unlink(missing_ok=True)
    with pytest.raises(Refused, match="a.tar is damaged: it breaks off before its end; fetch or pack it again"):
        unpacked(tmp_path, image, packed=lambda _: packed[:-1])
    (tmp_path / "data" / "a" / "one.png").unlink()
    padding = bytearray(xz(bytes(100_000)))  # of a stream that holds nothing but zeros behind the end marker
    padding[-40] ^= 1
    with pytest.raises(Refused, match="a.tar is damaged: .*; fetch or pack it again"):
        unpacked(tmp_path, image, packed=lambda content: xz(content) + padding)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_is_refused_if_its_images_are_compressed_without_a_limit(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/notes.txt", b"not read", method)
        archive.writestr("a/one.png", IMAGE, zipfile.ZIP_DEFLATED)
    assert unpack.unpack_archive(tmp_path / "a.zip", "a.zip", tmp_path / "data") == 1
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("a/two.png", IMAGE, method)
    with pytest.raises(Refused, match="its member 'a/two.png' is compressed with bzip2 or LZMA; pack it again as a"):
        unpack.unpack_archive(tmp_path / "a.zip", "a.zip", tmp_path / "other")


def test_headers_count_towards_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "UNPACKED_BYTES", 10_000_000)
    members = b"".join(pax(tarfile.XHDTYPE, ("comment", "x" * 900_000)) + entry(f"a/{n}.txt") for n in range(20))
    with pytest.raises(Refused, match="unpacks to more than"):
        unpacked(tmp_path, members, packed=gzip.compress)


def test_folders_count_as_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 5)
    folders = [entry(f"a{number}", kind=tarfile.DIRTYPE) for number in range(10)]
    with pytest.raises(Refused, match="more than 5 files"):
        unpacked(tmp_path, *folders, entry("a/one.png", IMAGE))


def test_names_and_comments_of_ordinary_length_are_read(tmp_path: Path) -> None:
    folder = "/".join(["a" * 200] * 15)
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=style, pax_headers={"comment": "x" * 5000}) as archive:
            for number in range(20):
                info = tarfile.TarInfo(f"{folder}/wåter/{style}{number}.png")
                info.size, info.pax_headers = len(IMAGE), {"SCHILY.xattr.user.x": "x" * 60_000}
                archive.addfile(info, io.BytesIO(IMAGE))
        (tmp_path / "a").write_bytes(content.getvalue())
        unpack.unpack_archive(tmp_path / "a", "a", tmp_path / str(style))
        assert len(files_in(tmp_path / str(style))) == 20


def test_a_sparse_file_is_extracted_with_its_holes(tmp_path: Path) -> None:
    content = picture(1) + bytes(2**20) + b"end"
    source = folder_of(tmp_path / "source", {"a/one.png": b""})
    with (source / "a" / "one.png").open("r+b") as file:
        file.write(picture(1))
        file.seek(2**20, 1)
        file.write(b"end")
    for style in ("gnu", "posix"):
        archive = tmp_path / f"{style}.tar"
        subprocess.run(["tar", f"--format={style}", "-cSf", archive, "-C", source, "a"], check=True)
        unpack.unpack_archive(archive, style, tmp_path / style)
        assert files_in(tmp_path / style) == {"a/one.png": content}


@pytest.mark.parametrize("pack", ["zip", "tar", "folder"])
def test_an_absurd_number_of_classes_is_refused_early(tmp_path: Path, monkeypatch, pack: str) -> None:
    monkeypatch.setattr(unpack, "MAX_CLASSES", 20)
    files = {f"class{number:03}/a.png": IMAGE for number in range(30)}
    source = folder_of(tmp_path / "source", files)
    if pack == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif pack == "tar":
        tar_of(tmp_path / "a", files)
    with pytest.raises(Refused, match="more than 20 class folders; use <class>/<image>"):
        if pack == "folder":
            unpack.copy_folder(source, "source", tmp_path / "data")
        else:
            unpack.unpack_archive(tmp_path / "a", "a", tmp_path / "data")
    assert len(files_in(tmp_path / "data")) == 20


def test_zip_entries_are_counted_before_they_take_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(1001):
            archive.writestr(f"a/{number}.txt", b"")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(Refused, match="more than 1,000 files"):
        unpack.unpack_archive(tmp_path / "a.zip", "a.zip", tmp_path / "data")
