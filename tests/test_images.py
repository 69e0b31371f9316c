"""From an image file of any kind to the pixels a network gets."""

import io
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from tiffs import RGB, tiff

from landuse.core.errors import LanduseError
from landuse.ml import images
from landuse.ml.images import (
    READ_AHEAD,
    cores,
    exif_orientation,
    image_paths,
    parallel_map,
    read_image,
    to_upright_rgb,
    view,
)

QUARTERS = np.kron(np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [120, 120, 120]]]), np.ones((16, 16, 1)))
COLOURS = Image.fromarray(QUARTERS.astype(np.uint8))  # a different colour in every quarter


def corners(pixels: np.ndarray) -> np.ndarray:
    """Return the centre pixel of each quarter."""
    quarter = len(pixels) // 4
    return pixels[quarter :: 2 * quarter, quarter :: 2 * quarter].astype(int)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {"quality": 95, "subsampling": 0}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("webp", {"lossless": True}),
        ("webp", {"quality": 95}),
    ],
)
def test_every_format_gives_the_same_picture(tmp_path: Path, suffix: str, options: dict) -> None:
    path = tmp_path / f"image.{suffix}"
    COLOURS.save(path, **options)
    pixels = read_image(path, 32)
    assert pixels.dtype == np.uint8 and pixels.shape == (32, 32, 3)
    assert np.abs(corners(pixels) - corners(QUARTERS)).max() <= 12


def test_a_file_and_its_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    COLOURS.save(tmp_path / "image.jpg")
    content = (tmp_path / "image.jpg").read_bytes()
    assert np.array_equal(read_image(tmp_path / "image.jpg", 24), read_image(io.BytesIO(content), 24))


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def test_cmyk_becomes_rgb() -> None:
    pixels = read_image(saved(COLOURS.convert("CMYK"), "JPEG", quality=95, subsampling=0), 32)
    assert np.abs(corners(pixels) - corners(QUARTERS)).max() <= 12


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white(mode: str) -> None:
    image = Image.new("RGB", (16, 16), (20, 20, 20)).convert(mode)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([[0], [255]]), 8, axis=0).repeat(16, axis=1)))
    pixels = read_image(saved(image, "PNG"), 16)
    assert (pixels[:8] == 255).all() and (pixels[8:] == 20).all()


def test_the_transparent_colour_of_a_palette_becomes_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 8, 16, 16))
    pixels = read_image(saved(image, "PNG", transparency=0), 16)
    assert (pixels[:8] == 255).all() and (pixels[8:] == (0, 0, 200)).all()


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF")])
def test_sixteen_bits_of_grey_become_the_upper_eight(mode: str, kind: str) -> None:
    levels = np.repeat(np.array([0, 0x40FF, 0x8000, 0xFFFF], "<u2" if mode == "I;16" else ">u2"), 4)
    image = Image.frombytes(mode, (16, 4), levels.tobytes() * 4)
    pixels = read_image(saved(image, kind), 16)
    assert pixels[0, ::4].tolist() == [[level] * 3 for level in (0, 0x40, 0x80, 0xFF)]


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white_become_three_equal_channels(mode: str) -> None:
    pixels = read_image(saved(COLOURS.convert(mode), "PNG"), 32)
    assert (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) > 1


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_image_is_rotated_upright_by_its_exif_orientation(number: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = COLOURS.crop((0, 0, 32, 20))
    file = saved(stored, kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).resize(
        (32, 32), Image.Resampling.BILINEAR
    )
    assert np.array_equal(read_image(file, 32), np.asarray(expected))
    assert (number == 1) == np.array_equal(np.asarray(expected), read_image(saved(stored, "PNG"), 32))


@pytest.mark.parametrize("number", [0, 9, 77])
def test_an_invalid_orientation_is_ignored(number: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    assert np.array_equal(read_image(saved(COLOURS, "PNG", exif=exif), 32), QUARTERS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"rubbish"]
)
def test_a_damaged_exif_block_does_not_affect_the_pixels(exif: bytes) -> None:
    file = saved(COLOURS, "JPEG", quality=95, subsampling=0, exif=exif)
    assert exif_orientation(Image.open(io.BytesIO(file.getvalue()))) == 1
    assert np.abs(corners(read_image(file, 32)) - corners(QUARTERS)).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_used(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    file = saved(COLOURS, kind, save_all=True, append_images=[Image.new("RGB", (32, 32), "black")], **options)
    assert np.array_equal(read_image(file, 32), QUARTERS)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_truncated_image_is_refused_with_its_name_and_reason(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LanduseError, match=rf"image\.{suffix} cannot be decoded: \w") as caught:
        read_image(path, 32)
    assert "\n" not in str(caught.value)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"


@pytest.mark.parametrize("content", [b"", b"not an image", SVG, POSTSCRIPT, b"RIFF\0\0\0\0WEBP"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(LanduseError, match=r"image\.png cannot be decoded: not a TIFF, JPEG, PNG or WebP image$"):
        read_image(tmp_path / "image.png", 32)
    with pytest.raises(LanduseError, match="^image cannot be decoded: not a TIFF, JPEG, PNG or WebP image$"):
        read_image(io.BytesIO(content), 32)


@pytest.mark.parametrize(("kind", "content"), [("PNG", b"\x89PNG\r\n\x1a\n"), ("JPEG", b"\xff\xd8\xff\xe0")])
def test_an_image_cut_off_after_its_signature_is_reported_as_truncated(kind: str, content: bytes) -> None:
    with pytest.raises(
        LanduseError, match=f"a {kind} image that is damaged or of an unsupported kind: it is truncated or garbled$"
    ):
        read_image(io.BytesIO(content), 32)


@pytest.mark.parametrize("content", [b"II*\0", tiff(np.zeros((8, 8, 13), int), 16, RGB)])
def test_an_unsupported_tiff_is_reported_as_a_tiff(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image.tif").write_bytes(content)
    for source in (tmp_path / "image.tif", io.BytesIO(content)):
        with pytest.raises(LanduseError, match="a TIFF with unsupported bands or levels.*; save it with 8 or 16"):
            read_image(source, 32)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "JPEG2000"])
def test_other_formats_are_refused_even_if_pillow_reads_them(kind: str) -> None:
    with pytest.raises(LanduseError, match="not a TIFF, JPEG, PNG or WebP image"):
        read_image(saved(COLOURS, kind), 32)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LanduseError, match=r"gone\.png cannot be decoded: .*No such file"):
        read_image(tmp_path / "gone.png", 32)


@pytest.mark.parametrize(("side", "words"), [(7_072, "it has 7,072 x 7,072 pixels"), (40_000, "1600000000 pixels")])
def test_a_decompression_bomb_is_refused_at_once(side: int, words: str) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(LanduseError, match=f"cannot be decoded: .*{words}"):
        read_image(io.BytesIO(bomb), 32)


def test_palette_indices_without_a_palette_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("P", (8, 8)).save(path)
    content = path.read_bytes()
    start = content.index(b"PLTE") - 4
    length = struct.unpack(">I", content[start : start + 4])[0] + 12
    path.write_bytes(content[:start] + content[start + length :])
    with pytest.raises(LanduseError, match="image.png cannot be decoded: .*it has no palette"):
        read_image(path, 8)


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit levels"), ("F", "floating-point levels")])
def test_levels_without_a_scale_are_refused(mode: str, words: str) -> None:
    with pytest.raises(LanduseError, match=f"{words}; save it with 8 or 16 bits per channel"):
        read_image(saved(COLOURS.convert(mode), "TIFF"), 32)


def test_a_single_pixel_is_an_image() -> None:
    assert (read_image(saved(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), 32) == (9, 8, 7)).all()


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Change, remove or insert some bytes of a file, mostly near its start."""
    damaged = bytearray(content)
    for _ in range(random.integers(1, 6)):
        where = int(random.integers(min(len(damaged), random.choice([100, 10_000]))))
        length = int(random.integers(1, 9))
        damaged[where : where + length * int(random.integers(2))] = random.bytes(length * int(random.integers(2)))
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::Warning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_image_is_either_read_or_refused_in_one_line(kind: str) -> None:
    random, refused = np.random.default_rng(1), 0
    content = saved(COLOURS, kind, exif=COLOURS.getexif()).getvalue()
    for _ in range(500):
        try:
            pixels = read_image(io.BytesIO(mutated(content, random)), 32)
            assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        except LanduseError as error:
            assert str(error).startswith("image cannot be decoded: ") and "\n" not in str(error)
            refused += 1
    assert 50 < refused < 500


def test_an_image_that_is_not_square_is_stretched_not_cropped() -> None:
    wide = COLOURS.resize((96, 24), Image.Resampling.NEAREST)
    pixels = read_image(saved(wide, "PNG"), 32)
    assert pixels.shape == (32, 32, 3) and np.array_equal(corners(pixels), corners(QUARTERS))


def test_downsizing_averages_pixels_instead_of_sampling_them() -> None:
    board = Image.fromarray((np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8))
    assert np.abs(read_image(saved(board, "PNG"), 16).astype(int) - 127).max() <= 2


def test_images_are_found_by_suffix_in_class_folders_only_and_sorted(tmp_path: Path) -> None:
    names = ["b/2.PNG", "b/1.jpeg", "a/3.Tif", "a/x.txt", "a/deep/4.png", "5.png", "c/6.webp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.as_posix() for path in image_paths(tmp_path)] == ["a/3.Tif", "b/1.jpeg", "b/2.PNG", "c/6.webp"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has CPU affinity")
def test_a_process_pinned_to_one_core_uses_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "CPU_QUOTA", tmp_path / "cpu.max")
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(affinity)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, affinity)
    assert cores() == len(affinity)


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("99900000 100000", None), ("max 100000", None)])
def test_a_container_uses_no_more_cores_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int | None
) -> None:
    monkeypatch.setattr(images, "CPU_QUOTA", tmp_path / "cpu.max")
    available = cores()
    images.CPU_QUOTA.write_text(f"{quota}\n")
    assert cores() == (expected or available)


def test_parallel_map_keeps_the_order_of_its_items() -> None:
    waits = [threading.Event() for _ in range(2)]

    def slow_first(number: int) -> int:
        if number == 0:
            waits[0].wait(5)
        if number == 1:
            waits[0].set()
        return number * number

    assert list(parallel_map(slow_first, range(200))) == [number * number for number in range(200)]
    assert list(parallel_map(slow_first, [])) == []


def test_parallel_map_reads_ahead_a_bounded_number_of_items() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    farthest = max(len(taken) - number for number in parallel_map(lambda number: number, items()))
    assert farthest <= READ_AHEAD + 1 and len(taken) == 1000


def test_parallel_map_raises_an_error_in_its_place_and_stops() -> None:
    def fail_at_five(number: int) -> int:
        started.append(number)
        if number == 5:
            raise LanduseError("five")
        return number

    started: list[int] = []
    results, collected = parallel_map(fail_at_five, range(10_000)), []
    with pytest.raises(LanduseError, match="five"):
        for result in results:
            collected.append(result)
    assert collected == [0, 1, 2, 3, 4] and len(started) <= READ_AHEAD + 6


def test_parallel_map_cancels_pending_work_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "cores", lambda: 1)
    started: list[int] = []

    def fail_slowly(number: int) -> None:
        started.append(number)
        time.sleep(0.02)
        raise LanduseError("all of them")

    with pytest.raises(LanduseError):
        list(parallel_map(fail_slowly, range(10_000)))
    assert len(started) < READ_AHEAD // 2


@pytest.mark.parametrize("size", [(64, 64), (37, 23), (1, 301), (301, 1), (50, 1)])
def test_compositing_by_tiles_gives_the_same_pixels_as_all_at_once(monkeypatch, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(pixels)
    expected = Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")
    monkeypatch.setattr(images, "TILE_PIXELS", 50)
    assert to_upright_rgb(image).tobytes() == expected.tobytes()


def test_the_eight_views_differ_and_the_first_is_the_image_itself() -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    views = [view(image, number) for number in range(8)]
    assert np.array_equal(views[0], image)
    assert len({each.tobytes() for each in views}) == 8
    assert all(sorted(each.reshape(-1, 3).tolist()) == sorted(image.reshape(-1, 3).tolist()) for each in views)


def test_views_are_pairs_of_image_and_mirror_image_rotated_by_quarter_turns() -> None:
    image = np.arange(9).reshape(3, 3, 1)
    mirror = image[:, ::-1]
    for number in range(8):
        assert np.array_equal(view(image, number), np.rot90((image, mirror)[number % 2], number // 2))
