"""Every kind of image file gives the pixels of its scene, or is refused with a reason that names what is wrong."""

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
from landuse.ml.images import decode, read_image, upright

HEIGHT, WIDTH = 30, 45  # of which neither is a multiple of a byte, strip or tile
NOISE = np.random.default_rng(3).integers(0, 60, (HEIGHT, WIDTH, 3))
SCENE = NOISE + np.array([90, 120, 60]) + np.arange(WIDTH)[:, None]
GREY = SCENE[..., :1]
FADING = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(int)[:, None], GREY.shape)  # of an alpha channel
ON_WHITE = np.rint(SCENE * (FADING / 255) + 255 - FADING)
DEPTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)


def layouts() -> list[dict[str, Any]]:
    """Every way in which the same levels can lie in a TIFF."""
    ways = product("<>", (False, True), (0, 16), (1, DEFLATE), ({}, {FILL: (2,)}), ({}, {PREDICTOR: (2,)}))
    return [
        {"order": order, "apart": apart, "tile": tile, "compression": compression, "more": fill | predictor}
        for order, apart, tile, compression, fill, predictor in ways
        if compression == DEFLATE or not predictor
    ]


def look(content: bytes) -> np.ndarray | str:
    """The pixels, or the reason why there are none."""
    try:
        with decode(io.BytesIO(content)) as image:
            return np.asarray(upright(image)).astype(int)
    except LanduseError as error:
        return str(error)


def agree(
    levels: np.ndarray, bits: int, meaning: int, expected: np.ndarray, words: str, more: dict | None = None
) -> int:
    """How many layouts are read; all of them rightly, or refused with these words."""
    read = 0
    for layout in layouts():
        found = look(tiff(levels, bits, meaning, **layout | {"more": layout["more"] | (more or {})}))
        if isinstance(found, str):
            assert words in found and "\n" not in found
        else:
            assert np.abs(found - expected).max() <= 4, layout
            read += 1
    return read


def as_stored(levels: np.ndarray, bits: int) -> np.ndarray:
    """Scale levels of so many bits to 8, as RGB."""
    return np.broadcast_to(np.rint(levels * (255 / (2**bits - 1))), SCENE.shape)


@pytest.mark.parametrize("meaning", [WHITE_IS_ZERO, BLACK_IS_ZERO])
@pytest.mark.parametrize("bits", DEPTHS)
def test_grey_of_every_depth_is_read_rightly_or_its_depth_named(bits: int, meaning: int) -> None:
    levels = scaled(GREY, bits)
    stored = levels if meaning == BLACK_IS_ZERO else 2**bits - 1 - levels
    read = agree(stored, bits, meaning, as_stored(levels, bits), f"{bits} bits")
    known = {1: 32, 2: 32, 4: 32, 8: 48, 12: 8 * meaning, 16: 12 + 24 * meaning}
    assert read == known.get(bits, 0)


@pytest.mark.parametrize("bits", DEPTHS)
def test_colours_of_every_depth_are_read_rightly_or_their_depth_named(bits: int) -> None:
    levels = scaled(SCENE, bits)
    assert agree(levels, bits, RGB, as_stored(levels, bits), f"{bits} bits") == {8: 48, 16: 24}.get(bits, 0)


@pytest.mark.parametrize(("bits", "extra"), [*product([8, 16], [0, 1, 2])])
def test_a_fourth_band_is_alpha_only_where_the_file_says_so(bits: int, extra: int) -> None:
    colours = SCENE * (FADING / 255) if extra == 1 else SCENE  # premultiplied
    levels = scaled(np.concatenate([colours, FADING], axis=2), bits)
    expected = ON_WHITE if extra else SCENE
    assert agree(levels, bits, RGB, expected, f"4 bands, {bits} bits, RGB, ExtraSamples", {EXTRA: (extra,)}) >= 24


def test_a_band_of_no_known_meaning_is_asked_about_by_the_name_of_its_tag() -> None:
    for bits in (8, 16):
        levels = scaled(np.concatenate([SCENE, GREY], axis=2), bits)
        assert agree(levels, bits, RGB, SCENE, "", {}) == 0
        assert "what its fourth band is (ExtraSamples)" in look(tiff(levels, bits, RGB))


@pytest.mark.parametrize(("bits", "extra"), [*product([8, 16], [None, 0, 1, 2])])
def test_grey_with_a_second_band_is_read_rightly_or_refused(bits: int, extra: int | None) -> None:
    levels = scaled(np.concatenate([GREY, FADING], axis=2), bits)
    expected = np.rint(GREY * (FADING / 255) + 255 - FADING) if extra == 2 else GREY
    more = {} if extra is None else {EXTRA: (extra,)}
    agree(levels, bits, BLACK_IS_ZERO, np.broadcast_to(expected, SCENE.shape), f"2 bands, {bits} bits", more)


@pytest.mark.parametrize(("bits", "scale"), [*product([1, 2, 4, 8], [1, 257])])
def test_a_palette_has_its_colours_whether_they_have_eight_bits_or_sixteen(bits: int, scale: int) -> None:
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) * 7 // 11 % 2**bits
    colours = np.random.default_rng(4).integers(0, 256, (3, 2**bits))
    more = {PALETTE: tuple((colours * scale).ravel().tolist())}
    assert agree(numbers, bits, COLOURS, colours.T[numbers[..., 0]], f"{bits} bits", more) >= 32


def test_a_palette_that_ends_before_the_numbers_do_is_refused() -> None:
    content = tiff(GREY, 8, COLOURS, more={PALETTE: (0, 65535) * 24})
    assert "its palette has 16 colours, not one for every number" in look(content)


def test_inks_are_read_as_cmyk_and_as_nothing_else() -> None:
    inks = np.asarray(Image.fromarray(SCENE.astype(np.uint8)).convert("CMYK"))
    for bits in (8, 16):
        assert agree(scaled(inks, bits), bits, CMYK, SCENE, f"{bits} bits, CMYK") == 24
    assert "InkSet" in look(tiff(inks, 8, CMYK, more={332: (2,)}))


def luminance() -> np.ndarray:
    return np.asarray(Image.fromarray(SCENE.astype(np.uint8)).convert("YCbCr"))


def test_luminance_and_colour_differences_become_rgb_compressed_or_not() -> None:
    assert agree(luminance(), 8, YCBCR, SCENE, "8 bits, YCbCr", {530: (1, 1)}) == 24


def test_colour_differences_of_four_pixels_together_become_rgb() -> None:
    flat = np.broadcast_to(np.array([[[150, 120, 90]]]), (28, 44, 3)).astype(np.uint8)
    y, cb, cr = np.asarray(Image.fromarray(flat).convert("YCbCr"))[0, 0].tolist()
    units = np.tile(np.array([y, y, y, y, cb, cr]), (14, 22)).reshape(14, 132, 1)
    shape = {tiffs.WIDTH: (44,), tiffs.HEIGHT: (28,), BITS: (8, 8, 8), tiffs.BANDS: (3,), ROWS: (14,), 530: (2, 2)}
    for compression in (1, DEFLATE):
        found = look(tiff(units, 8, YCBCR, compression=compression, more=shape))
        assert np.abs(found - flat).max() <= 4


def test_lightness_becomes_grey() -> None:
    steps = np.broadcast_to(np.arange(WIDTH)[:, None] * 5, GREY.shape)
    neutral = np.concatenate([steps, np.zeros_like(steps), np.zeros_like(steps)], axis=2)
    found = look(tiff(neutral, 8, LAB))
    lightness = np.arange(WIDTH) * 5 * 100 / 255
    linear = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255
    assert np.abs(found[0] - curved[:, None]).max() <= 5
    assert "one after the other" in look(tiff(neutral, 8, LAB, apart=True))


@pytest.mark.parametrize(("kind", "words"), [(2, "signed"), (3, "floating-point"), (4, "of no kind")])
@pytest.mark.parametrize(("bits", "bands"), [*product([8, 16, 32], [1, 3])])
def test_levels_that_are_no_unsigned_numbers_are_refused_by_name(kind: int, words: str, bits: int, bands: int) -> None:
    content = tiff(SCENE[..., :bands], bits, RGB if bands == 3 else BLACK_IS_ZERO, more={FORMAT: (kind,) * bands})
    assert words in look(content)


COMPRESSIONS = {34887: "LERC", 34712: "JPEG 2000", 50002: "JPEG XL", 34661: "JBIG", 34934: "JPEG XR", 4711: "unknown"}


@pytest.mark.parametrize("number", COMPRESSIONS)
def test_a_compression_that_cannot_be_read_is_named(number: int) -> None:
    words = rf"compression cannot be read: {COMPRESSIONS[number]} ({number}); save it with LZW or deflate"
    assert words in look(tiff(SCENE, 8, RGB, compression=number))


@pytest.mark.parametrize("number", [32809, 34676, 34677, 34925, 50000, 50001, 7, 6, 2, 3, 4])
def test_pixels_that_are_not_in_the_compression_named_are_refused_by_its_name(number: int) -> None:
    found = look(tiff(SCENE, 8, RGB, compression=number))
    assert isinstance(found, str) and image_formats.COMPRESSION_INFO[number].removeprefix("tiff_") in found.lower()


def test_grey_that_does_not_say_what_zero_is_is_refused() -> None:
    for bits in (1, 8, 16):
        assert "PhotometricInterpretation" in look(tiff(scaled(GREY, bits), bits, 1, more={PHOTOMETRIC: None}))


def test_tags_that_old_programs_leave_out_are_not_missed() -> None:
    for more in ({SIZES: None}, {BITS: (8,)}, {FORMAT: (1, 1, 1)}):
        assert (look(tiff(SCENE, 8, RGB, more=more)) == SCENE).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # so Pillow calls it
def test_a_large_tiff_is_read_or_refused_by_name() -> None:
    assert (look(tiff(SCENE, 8, RGB, big=True)) == SCENE).all()
    assert "BigTIFF with the high bytes first" in look(tiff(SCENE, 8, RGB, order=">", big=True))


def test_a_small_image_in_a_tile_of_a_gigapixel_is_refused_at_once() -> None:
    more = {tiffs.TILE_WIDTH: (32768,), tiffs.TILE_HEIGHT: (32768,)}
    content = tiff(GREY[:16, :16], 8, BLACK_IS_ZERO, tile=16, compression=DEFLATE, more=more)
    assert "32,768 x 32,768 pixels in a tile" in look(content)


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(
    levels: np.ndarray, bits: int, colour: int, before: bytes = b"", after: bytes = b"", woven: bool = False
) -> bytes:
    """A PNG of levels [height, width, bands], with other chunks before and after its pixels."""
    parts = [levels[y::down, x::across] for x, y, across, down in PASSES] if woven else [levels]
    rows = b"".join(b"\0" + tiffs.pack(row[None], bits, ">", {}) for part in parts for row in part if row.size)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], bits, colour, 0, 0, woven)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)) + after) + chunk(
        b"IEND", b""
    )


@pytest.mark.parametrize("woven", [False, True])
@pytest.mark.parametrize(("bits", "colour"), [*product([1, 2, 4, 8, 16], [0]), *product([8, 16], [2, 4, 6])])
def test_a_png_of_every_depth_and_kind_is_read_rightly(bits: int, colour: int, woven: bool) -> None:
    base = SCENE if colour in (2, 6) else GREY
    levels = scaled(np.concatenate([base, FADING], axis=2) if colour in (4, 6) else base, bits)
    shown = np.rint(base * (FADING / 255) + 255 - FADING) if colour in (4, 6) else as_stored(scaled(base, bits), bits)
    assert np.abs(look(png(levels, bits, colour, woven=woven)) - shown).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_palette_of_a_png_has_its_colours_or_is_refused_where_it_is_too_short(bits: int) -> None:
    numbers = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 2**bits
    colours = np.random.default_rng(4).integers(0, 256, (2**bits, 3)).astype(np.uint8)
    whole, short = (chunk(b"PLTE", colours[:count].tobytes()) for count in (2**bits, 2 ** (bits - 1)))
    assert (look(png(numbers, bits, 3, whole)) == colours[numbers[..., 0]]).all()
    assert f"has {2 ** (bits - 1)} colours, and" in look(png(numbers, bits, 3, short))
    clear = np.where(numbers == 1, 255, colours[numbers[..., 0]])
    assert (look(png(numbers, bits, 3, whole + chunk(b"tRNS", b"\xff\0"))) == clear).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_grey_png_becomes_white_whatever_its_depth(bits: int) -> None:
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) % 2 ** min(bits, 8) * (257 if bits == 16 else 1)
    for clear in (0, 1, 2**bits - 2):
        clear = clear * 257 if bits == 16 and clear < 2 else clear
        found = look(png(levels, bits, 0, chunk(b"tRNS", struct.pack(">H", clear))))
        assert (found == np.where(levels == clear, 255, as_stored(levels, bits).astype(int))).all()


def test_the_transparent_colour_of_a_png_becomes_white_or_is_refused() -> None:
    first = SCENE[0, 0]
    found = look(png(SCENE, 8, 2, chunk(b"tRNS", struct.pack(">3H", *first))))
    assert (found == np.where((first == SCENE).all(axis=2, keepdims=True), 255, SCENE)).all()
    assert "16-bit colours is transparent" in look(png(SCENE * 257, 16, 2, chunk(b"tRNS", bytes(6))))


LARGE = zlib.compress(bytes(3_000_000))
NOTES = {
    "profile": chunk(b"iCCP", b"p\0\0" + LARGE),
    "text": chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + LARGE),
    "international text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "plain text": chunk(b"tEXt", b"k\0" + bytes(70_000_000)),
    "profile of an unknown compression": chunk(b"iCCP", b"p\0\7" + LARGE),
    "damaged text": chunk(b"zTXt", b"k\0\0" + LARGE)[:-4] + b"\0\0\0\0",
    "hundred texts": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 100,
    "frames that there are not": chunk(b"acTL", bytes(8)) * 2,
    "odd chunks": chunk(b"gAMA", b"") + chunk(b"sRGB", b"") + chunk(b"pHYs", b"\1") + chunk(b"cHRM", b"x"),
}


@pytest.mark.parametrize("kind", NOTES)
def test_what_a_png_says_beside_its_pixels_does_them_no_harm(kind: str) -> None:
    for content in (png(SCENE, 8, 2, NOTES[kind]), png(SCENE, 8, 2, after=NOTES[kind])):
        assert (look(content) == SCENE).all()


def test_a_png_that_breaks_off_within_a_note_is_refused() -> None:
    content = png(SCENE, 8, 2, NOTES["profile"])
    assert "cannot be decoded" in look(content[:2000])


def test_a_png_of_a_file_and_of_bytes_is_turned_as_its_exif_says(tmp_path) -> None:
    exif = Image.Exif()
    exif[274] = 3
    (tmp_path / "a.png").write_bytes(png(SCENE, 8, 2, NOTES["profile"] + chunk(b"eXIf", exif.tobytes()[6:])))
    turned = np.asarray(Image.fromarray(SCENE[::-1, ::-1].astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR))
    assert (read_image(tmp_path / "a.png", 32) == turned).all()


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """The scene, as Pillow saves it."""
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
def test_what_other_programs_write_is_read_rightly(kind: str) -> None:
    (form, mode, options), expected = SAVED[kind]
    found = look(saved(form, mode, **options))
    assert np.abs(found - expected).max() <= 10 and abs(found.mean() - expected.mean()) <= 1


def test_inks_that_may_be_upside_down_are_refused() -> None:
    content = saved("JPEG", "CMYK")
    start = content.index(b"\xff\xee")  # the marker in which Adobe's programs say that they are
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    assert "CMYK, and does not say whether 0 is no ink" in look(content[:start] + content[start + 2 + length :])


def test_a_jpeg_of_twelve_bits_is_refused_by_name() -> None:
    content = saved("JPEG")
    start = content.index(b"\xff\xc0")
    assert "12-bit" in look(content[: start + 4] + b"\x0c" + content[start + 5 :])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::Warning:PIL")
def test_a_damaged_tiff_is_either_read_or_refused_in_one_line() -> None:
    random, refused = np.random.default_rng(1), 0
    whole = [tiff(SCENE, 8, RGB), tiff(scaled(GREY, 12), 12, 1, tile=16), tiff(SCENE, 8, RGB, compression=DEFLATE)]
    for number in range(600):
        content = bytearray(whole[number % 3])
        for where in random.integers(0, 400, 3):
            content[-int(where) - 1] = random.integers(256)
        found = look(bytes(content))
        refused += isinstance(found, str)
        assert not isinstance(found, str) or "\n" not in found
    assert 50 < refused < 600
