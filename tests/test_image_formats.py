"""Every kind of image file gives the pixels of its scene, or is refused with a reason that names the problem."""

import io
import struct
import zlib
from itertools import product
from typing import Any

import numpy as np
import pytest
import tiffs
from PIL import Image
from tiffs import (
    BITS,
    BLACK_IS_ZERO,
    CMYK,
    COLOURS,
    DEFLATE,
    EXTRA,
    FILL,
    FORMAT,
    LAB,
    PALETTE,
    PHOTOMETRIC,
    PREDICTOR,
    RGB,
    ROWS,
    SIZES,
    WHITE_IS_ZERO,
    YCBCR,
    scaled,
    tiff,
)

from landuse.core.errors import LanduseError
from landuse.ml import image_formats
from landuse.ml.images import decode, read_image, to_upright_rgb

HEIGHT, WIDTH = 30, 45  # neither is a multiple of a byte, strip or tile
NOISE = np.random.default_rng(3).integers(0, 60, (HEIGHT, WIDTH, 3))
SCENE = NOISE + np.array([90, 120, 60]) + np.arange(WIDTH)[:, None]
GREY = SCENE[..., :1]
FADING = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(int)[:, None], GREY.shape)  # an alpha channel
ON_WHITE = np.rint(SCENE * (FADING / 255) + 255 - FADING)
DEPTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)


def layouts() -> list[dict[str, Any]]:
    """List all ways to store the same levels in a TIFF."""
    ways = product("<>", (False, True), (0, 16), (1, DEFLATE), ({}, {FILL: (2,)}), ({}, {PREDICTOR: (2,)}))
    return [
        {"order": order, "planar": planar, "tile": tile, "compression": compression, "overrides": fill | predictor}
        for order, planar, tile, compression, fill, predictor in ways
        if compression == DEFLATE or not predictor
    ]


def outcome(content: bytes) -> np.ndarray | str:
    """Return the pixels, or the message if the image is refused."""
    try:
        with decode(io.BytesIO(content)) as image:
            return np.asarray(to_upright_rgb(image)).astype(int)
    except LanduseError as error:
        return str(error)


def count_read(
    levels: np.ndarray, bits: int, photometric: int, expected: np.ndarray, words: str, overrides: dict | None = None
) -> int:
    """Check that each layout is read correctly or refused with these words. Returns how many are read."""
    read = 0
    for layout in layouts():
        result = outcome(
            tiff(levels, bits, photometric, **layout | {"overrides": layout["overrides"] | (overrides or {})})
        )
        if isinstance(result, str):
            assert words in result and "\n" not in result
        else:
            assert np.abs(result - expected).max() <= 4, layout
            read += 1
    return read


def as_stored(levels: np.ndarray, bits: int) -> np.ndarray:
    """Scale levels of `bits` bits to 8, as RGB."""
    return np.broadcast_to(np.rint(levels * (255 / (2**bits - 1))), SCENE.shape)


@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", DEPTHS)
def test_grey_of_every_depth_is_read_correctly_or_its_depth_named(bits: int, photometric: int) -> None:
    levels = scaled(GREY, bits)
    stored = levels if photometric == BLACK_IS_ZERO else 2**bits - 1 - levels
    read = count_read(stored, bits, photometric, as_stored(levels, bits), f"{bits} bits")
    expected = {1: 32, 2: 32, 4: 32, 8: 48, 12: 8 * photometric, 16: 12 + 24 * photometric}
    assert read == expected.get(bits, 0)


@pytest.mark.parametrize("bits", DEPTHS)
def test_colours_of_every_depth_are_read_correctly_or_their_depth_named(bits: int) -> None:
    levels = scaled(SCENE, bits)
    assert count_read(levels, bits, RGB, as_stored(levels, bits), f"{bits} bits") == {8: 48, 16: 24}.get(bits, 0)


@pytest.mark.parametrize(("bits", "extra"), [*product([8, 16], [0, 1, 2])])
def test_a_fourth_band_is_alpha_only_if_the_file_says_so(bits: int, extra: int) -> None:
    colours = SCENE * (FADING / 255) if extra == 1 else SCENE  # premultiplied
    levels = scaled(np.concatenate([colours, FADING], axis=2), bits)
    expected = ON_WHITE if extra else SCENE
    assert count_read(levels, bits, RGB, expected, f"4 bands, {bits} bits, RGB, ExtraSamples", {EXTRA: (extra,)}) >= 24


def test_a_fourth_band_of_unknown_meaning_is_refused_with_the_tag_it_needs() -> None:
    for bits in (8, 16):
        levels = scaled(np.concatenate([SCENE, GREY], axis=2), bits)
        assert count_read(levels, bits, RGB, SCENE, "", {}) == 0
        assert "what its fourth band is (ExtraSamples)" in outcome(tiff(levels, bits, RGB))


@pytest.mark.parametrize(("bits", "extra"), [*product([8, 16], [None, 0, 1, 2])])
def test_grey_with_a_second_band_is_read_correctly_or_refused(bits: int, extra: int | None) -> None:
    faded = np.rint(GREY * (FADING / 255))
    levels = scaled(np.concatenate([faded if extra == 1 else GREY, FADING], axis=2).astype(int), bits)
    expected = faded + 255 - FADING if extra in (1, 2) else GREY
    overrides = {} if extra is None else {EXTRA: (extra,)}
    count_read(levels, bits, BLACK_IS_ZERO, np.broadcast_to(expected, SCENE.shape), f"2 bands, {bits} bits", overrides)


@pytest.mark.parametrize(("bits", "scale"), [*product([1, 2, 4, 8], [1, 257])])
def test_palettes_of_eight_and_sixteen_bits_give_the_right_colours(bits: int, scale: int) -> None:
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) * 7 // 11 % 2**bits
    colours = np.random.default_rng(4).integers(0, 256, (3, 2**bits))
    overrides = {PALETTE: tuple((colours * scale).ravel().tolist())}
    assert count_read(numbers, bits, COLOURS, colours.T[numbers[..., 0]], f"{bits} bits", overrides) >= 32


def test_a_palette_too_short_for_its_indices_is_refused() -> None:
    content = tiff(GREY, 8, COLOURS, overrides={PALETTE: (0, 65535) * 24})
    assert "its palette has 16 colours, not 256 as its pixels need" in outcome(content)


def test_only_cmyk_inks_are_read() -> None:
    inks = np.asarray(Image.fromarray(SCENE.astype(np.uint8)).convert("CMYK"))
    for bits in (8, 16):
        assert count_read(scaled(inks, bits), bits, CMYK, SCENE, f"{bits} bits, CMYK") == 24
    assert "InkSet" in outcome(tiff(inks, 8, CMYK, overrides={332: (2,)}))


def luminance() -> np.ndarray:
    return np.asarray(Image.fromarray(SCENE.astype(np.uint8)).convert("YCbCr"))


def test_ycbcr_becomes_rgb_compressed_or_not() -> None:
    assert count_read(luminance(), 8, YCBCR, SCENE, "8 bits, YCbCr", {530: (1, 1)}) == 24


def test_subsampled_ycbcr_becomes_rgb() -> None:
    flat = np.broadcast_to(np.array([[[150, 120, 90]]]), (28, 44, 3)).astype(np.uint8)
    y, cb, cr = np.asarray(Image.fromarray(flat).convert("YCbCr"))[0, 0].tolist()
    units = np.tile(np.array([y, y, y, y, cb, cr]), (14, 22)).reshape(14, 132, 1)
    shape = {tiffs.WIDTH: (44,), tiffs.HEIGHT: (28,), BITS: (8, 8, 8), tiffs.BANDS: (3,), ROWS: (14,), 530: (2, 2)}
    for compression in (1, DEFLATE):
        result = outcome(tiff(units, 8, YCBCR, compression=compression, overrides=shape))
        assert np.abs(result - flat).max() <= 4


def test_lightness_becomes_grey() -> None:
    steps = np.broadcast_to(np.arange(WIDTH)[:, None] * 5, GREY.shape)
    neutral = np.concatenate([steps, np.zeros_like(steps), np.zeros_like(steps)], axis=2)
    result = outcome(tiff(neutral, 8, LAB))
    lightness = np.arange(WIDTH) * 5 * 100 / 255
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255
    assert np.abs(result[0] - curved[:, None]).max() <= 5
    assert "bands are stored separately" in outcome(tiff(neutral, 8, LAB, planar=True))


@pytest.mark.parametrize(("kind", "words"), [(2, "signed"), (3, "floating-point"), (4, "undefined")])
@pytest.mark.parametrize(("bits", "bands"), [*product([8, 16, 32], [1, 3])])
def test_levels_that_are_not_unsigned_are_refused_with_their_type(kind: int, words: str, bits: int, bands: int) -> None:
    content = tiff(SCENE[..., :bands], bits, RGB if bands == 3 else BLACK_IS_ZERO, overrides={FORMAT: (kind,) * bands})
    assert words in outcome(content)


COMPRESSIONS = {34887: "LERC", 34712: "JPEG 2000", 50002: "JPEG XL", 34661: "JBIG", 34934: "JPEG XR", 4711: "unknown"}


@pytest.mark.parametrize("number", COMPRESSIONS)
def test_a_compression_that_cannot_be_read_is_named(number: int) -> None:
    words = rf"compression cannot be read: {COMPRESSIONS[number]} ({number}); save it with LZW or deflate"
    assert words in outcome(tiff(SCENE, 8, RGB, compression=number))


@pytest.mark.parametrize("number", [32809, 34676, 34677, 34925, 50000, 50001, 7, 6, 2, 3, 4])
def test_pixels_that_do_not_match_their_compression_are_refused_with_its_name(number: int) -> None:
    result = outcome(tiff(SCENE, 8, RGB, compression=number))
    assert isinstance(result, str) and image_formats.COMPRESSION_INFO[number].removeprefix("tiff_") in result.lower()


def test_grey_without_a_photometric_interpretation_is_refused() -> None:
    for bits in (1, 8, 16):
        assert "PhotometricInterpretation" in outcome(tiff(scaled(GREY, bits), bits, 1, overrides={PHOTOMETRIC: None}))


def test_tags_that_old_programs_omit_are_not_required() -> None:
    for overrides in ({SIZES: None}, {BITS: (8,)}, {FORMAT: (1, 1, 1)}):
        assert (outcome(tiff(SCENE, 8, RGB, overrides=overrides)) == SCENE).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # which is how Pillow reports it
def test_a_bigtiff_is_read_if_little_endian_else_refused() -> None:
    assert (outcome(tiff(SCENE, 8, RGB, big=True)) == SCENE).all()
    assert "a big-endian BigTIFF" in outcome(tiff(SCENE, 8, RGB, order=">", big=True))


def test_a_small_image_in_a_gigapixel_tile_is_refused_at_once() -> None:
    overrides = {tiffs.TILE_WIDTH: (32768,), tiffs.TILE_HEIGHT: (32768,)}
    content = tiff(GREY[:16, :16], 8, BLACK_IS_ZERO, tile=16, compression=DEFLATE, overrides=overrides)
    assert "32,768 x 32,768 pixels in a tile" in outcome(content)


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(
    levels: np.ndarray, bits: int, colour: int, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """Write levels [height, width, bands] as a PNG, with other chunks before and after its pixels."""
    parts = [levels[y::down, x::across] for x, y, across, down in PASSES] if interlaced else [levels]
    rows = b"".join(b"\0" + tiffs.pack(row[None], bits, ">", {}) for part in parts for row in part if row.size)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, colour, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)) + after) + chunk(
        b"IEND", b""
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colour"), [*product([1, 2, 4, 8, 16], [0]), *product([8, 16], [2, 4, 6])])
def test_a_png_of_every_depth_and_colour_type_is_read_correctly(bits: int, colour: int, interlaced: bool) -> None:
    base = SCENE if colour in (2, 6) else GREY
    levels = scaled(np.concatenate([base, FADING], axis=2) if colour in (4, 6) else base, bits)
    shown = np.rint(base * (FADING / 255) + 255 - FADING) if colour in (4, 6) else as_stored(scaled(base, bits), bits)
    assert np.abs(outcome(png(levels, bits, colour, interlaced=interlaced)) - shown).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_palette_of_a_png_is_used_or_refused_if_too_short(bits: int) -> None:
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 2**bits
    colours = np.random.default_rng(4).integers(0, 256, (2**bits, 3)).astype(np.uint8)
    full, short = (chunk(b"PLTE", colours[:count].tobytes()) for count in (2**bits, 2 ** (bits - 1)))
    assert (outcome(png(numbers, bits, 3, full)) == colours[numbers[..., 0]]).all()
    assert f"has {2 ** (bits - 1)} colours, and" in outcome(png(numbers, bits, 3, short))
    transparent = np.where(numbers == 1, 255, colours[numbers[..., 0]])
    assert (outcome(png(numbers, bits, 3, full + chunk(b"tRNS", b"\xff\0"))) == transparent).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_grey_png_becomes_white_at_every_depth(bits: int) -> None:
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 2 ** min(bits, 8) * (257 if bits == 16 else 1)
    for transparent in (0, 1, 2**bits - 2):
        transparent = transparent * 257 if bits == 16 and transparent < 2 else transparent
        result = outcome(png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", transparent))))
        assert (result == np.where(levels == transparent, 255, as_stored(levels, bits).astype(int))).all()


def test_the_transparent_colour_of_a_png_becomes_white_or_is_refused() -> None:
    first = SCENE[0, 0]
    result = outcome(png(SCENE, 8, 2, chunk(b"tRNS", struct.pack(">3H", *first))))
    assert (result == np.where((first == SCENE).all(axis=2, keepdims=True), 255, SCENE)).all()
    assert "16-bit colours is transparent" in outcome(png(SCENE * 257, 16, 2, chunk(b"tRNS", bytes(6))))


LARGE = zlib.compress(bytes(3_000_000))
ANCILLARY = {
    "profile": chunk(b"iCCP", b"p\0\0" + LARGE),
    "text": chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + LARGE),
    "international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "plain text": chunk(b"tEXt", b"k\0" + bytes(70_000_000)),
    "profile of an unknown compression": chunk(b"iCCP", b"p\0\7" + LARGE),
    "damaged text": chunk(b"zTXt", b"k\0\0" + LARGE)[:-4] + b"\0\0\0\0",
    "hundred texts": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 100,
    "missing frames": chunk(b"acTL", bytes(8)) * 2,
    "odd chunks": chunk(b"gAMA", b"") + chunk(b"sRGB", b"") + chunk(b"pHYs", b"\1") + chunk(b"cHRM", b"x"),
}


@pytest.mark.parametrize("kind", ANCILLARY)
def test_ancillary_chunks_of_a_png_do_not_affect_its_pixels(kind: str) -> None:
    for content in (png(SCENE, 8, 2, ANCILLARY[kind]), png(SCENE, 8, 2, after=ANCILLARY[kind])):
        assert (outcome(content) == SCENE).all()


def test_a_png_truncated_within_an_ancillary_chunk_is_refused() -> None:
    content = png(SCENE, 8, 2, ANCILLARY["profile"])
    assert "cannot be decoded" in outcome(content[:2000])


def test_a_png_file_is_rotated_by_its_exif_orientation(tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    (tmp_path / "a.png").write_bytes(png(SCENE, 8, 2, ANCILLARY["profile"] + chunk(b"eXIf", exif.tobytes()[6:])))
    turned = np.asarray(Image.fromarray(SCENE[::-1, ::-1].astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR))
    assert (read_image(tmp_path / "a.png", 32) == turned).all()


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return a smooth scene as saved by Pillow."""
    file = io.BytesIO()
    smooth = np.broadcast_to(np.linspace(40, 200, WIDTH)[:, None], SCENE.shape).astype(np.uint8)
    image = Image.fromarray(smooth).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(FADING[..., 0].astype(np.uint8)))
    if options.get("save_all"):
        options["append_images"] = [Image.new(mode, image.size)]
    image.save(file, kind, **options)
    return file.getvalue()


SMOOTH = np.broadcast_to(np.linspace(40, 200, WIDTH)[:, None], SCENE.shape).astype(np.uint8).astype(int)
SHOWN = np.rint(SMOOTH * (FADING / 255) + 255 - FADING)
SAVED = {
    "progressive": (("JPEG", "RGB", {"progressive": True, "quality": 95}), SMOOTH),
    "subsampled": (("JPEG", "RGB", {"subsampling": "4:2:0", "quality": 95}), SMOOTH),
    "RGB in a JPEG": (("JPEG", "RGB", {"keep_rgb": True, "quality": 95}), SMOOTH),
    "inks": (("JPEG", "CMYK", {"quality": 95}), SMOOTH),
    "several pictures": (("MPO", "RGB", {"save_all": True, "quality": 95}), SMOOTH),
    "lossy": (("WEBP", "RGB", {"quality": 95}), SMOOTH),
    "lossy alpha": (("WEBP", "RGBA", {"quality": 95}), SHOWN),
    "lossless alpha": (("WEBP", "RGBA", {"lossless": True}), SHOWN),
    "animated": (("WEBP", "RGB", {"save_all": True, "lossless": True}), SMOOTH),
    "animated PNG": (("PNG", "RGB", {"save_all": True}), SMOOTH),
    "JPEG in a TIFF": (("TIFF", "RGB", {"compression": "jpeg", "quality": 95}), SMOOTH),
    "YCbCr JPEG in a TIFF": (("TIFF", "YCbCr", {"compression": "jpeg", "quality": 95}), SMOOTH),
    "alpha in a TIFF": (("TIFF", "RGBA", {"compression": "tiff_lzw"}), SHOWN),
    "zstd": (("TIFF", "RGB", {"compression": "zstd"}), SMOOTH),
    "packbits": (("TIFF", "RGB", {"compression": "packbits"}), SMOOTH),
    "lzma": (("TIFF", "RGB", {"compression": "lzma"}), SMOOTH),
}


@pytest.mark.parametrize("kind", SAVED)
def test_files_saved_by_pillow_in_many_variants_are_read_correctly(kind: str) -> None:
    (form, mode, options), expected = SAVED[kind]
    result = outcome(saved(form, mode, **options))
    assert np.abs(result - expected).max() <= 10 and abs(result.mean() - expected.mean()) <= 1


def test_cmyk_that_may_be_inverted_is_refused() -> None:
    content = saved("JPEG", "CMYK")
    start = content.index(b"\xff\xee")  # the marker by which Adobe's programs declare inverted inks
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    assert "CMYK, and does not say whether 0 is no ink" in outcome(content[:start] + content[start + 2 + length :])


def with_scans(content: bytes, scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG until there are this many."""
    start, end = content.index(b"\xff\xda"), content.index(b"\xff\xd9")
    last = content.rindex(b"\xff\xda", start, end)
    missing = scans - content.count(b"\xff\xda", start, end)
    return content[:end] + content[last:end] * missing + content[end:]


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(tmp_path, kind: str) -> None:
    content = saved(kind, progressive=True)
    assert not isinstance(outcome(with_scans(content, 100)), str)
    refusal = "cannot be decoded: it has more than 100 scans; save it again, not as a progressive JPEG"
    assert outcome(with_scans(content, 101)) == f"image {refusal}"
    (tmp_path / "a.jpg").write_bytes(with_scans(content, 20_000))
    with pytest.raises(LanduseError, match=f"a.jpg {refusal}$"):
        read_image(tmp_path / "a.jpg", 32)


SKIPPED = [b"\xff" * 5, b"\xff\xd3", b"\xff\x01", b"\xff\0", b"\xff\xfe\0\0", b"\xff\xfe\0\4\xff\xd9", b"noise"]


@pytest.mark.parametrize("skipped", SKIPPED)
def test_scans_are_counted_behind_everything_that_libjpeg_skips(skipped: bytes) -> None:
    for scans in (100, 101):
        content = with_scans(saved("JPEG", progressive=True), scans)
        second = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
        result = outcome(content[:second] + skipped + content[second:])
        assert "more than 100 scans" in result if scans > 100 else not isinstance(result, str)


def test_the_scans_of_a_thumbnail_or_of_a_film_behind_a_photograph_do_not_count() -> None:
    scans = b"\xff\xda" * 1000
    exif = Image.Exif()
    exif[0x9286] = scans  # UserComment
    for progressive in (False, True):
        content = saved("JPEG", exif=exif, comment=scans, progressive=progressive) + scans
        assert content.count(b"\xff\xda") > 3000 and np.abs(outcome(content) - SMOOTH).max() <= 10


def test_a_twelve_bit_jpeg_is_refused_with_its_depth() -> None:
    content = saved("JPEG")
    start = content.index(b"\xff\xc0")
    assert "12-bit" in outcome(content[: start + 4] + b"\x0c" + content[start + 5 :])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::Warning:PIL")
def test_a_damaged_tiff_is_either_read_or_refused_in_one_line() -> None:
    random, refused = np.random.default_rng(1), 0
    full = [tiff(SCENE, 8, RGB), tiff(scaled(GREY, 12), 12, 1, tile=16), tiff(SCENE, 8, RGB, compression=DEFLATE)]
    for number in range(600):
        content = bytearray(full[number % 3])
        for where in random.integers(0, 400, 3):
            content[-int(where) - 1] = random.integers(256)
        result = outcome(bytes(content))
        refused += isinstance(result, str)
        assert not isinstance(result, str) or "\n" not in result
    assert 50 < refused < 600
