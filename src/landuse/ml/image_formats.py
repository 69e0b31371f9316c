"""Odd files among images: those that Pillow takes for something else, stumbles over, or refuses without a reason."""

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImagePalette, TiffImagePlugin, TiffTags
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    FILLORDER,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
)

from landuse.core.errors import one_line

# Pillow's own reader of TIFFs without compression takes bits, bands and YCbCr for something else; libtiff does not.
TiffImagePlugin.READ_LIBTIFF = True

FORMATS = ("TIFF", "JPEG", "PNG", "WEBP")
USABLE = "save it with 8 or 16 bits per channel"
ODD_TIFF = "a TIFF of bands or levels that cannot be used"
UNKNOWN = "not a TIFF, JPEG, PNG or WebP image"
UNSCALED = {"I": "signed or 32-bit", "F": "floating-point"}
COMPRESSIONS = {
    **{34887: "LERC", 34712: "JPEG 2000", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000"},
    **{50002: "JPEG XL", 52546: "JPEG XL", 9: "JBIG", 10: "JBIG", 34661: "JBIG", 34715: "JBIG2", 34892: "lossy JPEG"},
    **{22610: "JPEG XR", 34934: "JPEG XR", 34713: "Nikon NEF", 32766: "NeXT", 65000: "Kodak DCR"},
}
LEVELS = {2: "signed", 3: "floating-point", 4: "of no kind", 5: "complex", 6: "complex"}  # SampleFormat
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGE_BIG_ENDIAN, PNG_BEGINNING = b"MM\0+", b"\x89PNG\r\n\x1a\n"
WHITE_IS_ZERO, SEPARATE, UNSIGNED, INK_SET = 0, 2, 1, 332
BAND_BY_BAND = frozenset({"1", "L", "P", "I;16", "I;16B", "RGB", "RGBA", "CMYK"})  # of which libtiff gives each its own
FAINT = 256  # colours below it in all of a TIFF's palette have 8 bits, where 16 are the rule
STEPS = {"L;2": 85, "L;4": 17}  # of 8-bit levels from one level of 2 or 4 bits to the next
WANTED = frozenset({b"tRNS", b"eXIf"})  # the chunks that matter among those which a PNG can do without
MOST_PIXEL_DATA = 2**29  # bytes of a PNG: more than MAX_PIXELS need without any compression


def opened(source: Path | BinaryIO) -> Image.Image:
    """The image, its pixels not decoded yet. Raises UnidentifiedImageError, or whatever a damaged file leads to."""
    if beginning(source).startswith(PNG_BEGINNING):
        return Image.open(with_file(source, without_notes), formats=FORMATS)
    return Image.open(source, formats=FORMATS)


def beginning(source: Path | BinaryIO) -> bytes:
    """The first bytes, by which a format is told."""
    return with_file(source, lambda file: file.read(16))


def with_file(source: Path | BinaryIO, do: Callable[[BinaryIO], Any]) -> Any:
    """Apply a function to the file, opened at its beginning."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return do(file)
    source.seek(0)
    found = do(source)
    source.seek(0)
    return found


def without_notes(file: BinaryIO) -> BytesIO:
    """A PNG without profiles, texts and further frames, which may be damaged or of any size: they are not even read."""
    kept = BytesIO()
    kept.write(file.read(len(PNG_BEGINNING)))
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name[:1].islower() and name not in WANTED:
            file.seek(length + 4, 1)
            continue
        if kept.tell() + length > MOST_PIXEL_DATA:
            raise ValueError(f"it has more than {MOST_PIXEL_DATA:,} bytes of pixel data")
        kept.write(head + file.read(length + 4))
        if name == b"IEND":
            break
    kept.write(head if len(head) < 8 else b"")
    kept.seek(0)
    return kept


def tile_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF, of which a small image may have a large one; 0 where it has none."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(TILEWIDTH, 0), tags.get(TILELENGTH, 0)


def refuse_misread(image: Image.Image) -> None:
    """Raise ValueError for what Pillow would make other pixels of than the file holds."""
    if image.mode in UNSCALED:
        raise ValueError(f"it has {UNSCALED[image.mode]} levels; {USABLE}")
    if image.mode == "P" and image.palette is None:
        raise ValueError("its pixels are numbers of colours, and it has no palette")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        raise ValueError("it is CMYK, and does not say whether 0 is no ink or all of it; save it as RGB")
    if image.format == "TIFF":
        refuse_odd_tiff(image, image.tag_v2)
    if image.mode == "RGB" and "transparency" in image.info and raw_mode(image).startswith("RGB;16"):
        raise ValueError(f"one of its 16-bit colours is transparent; {USABLE}, and with an alpha channel")


def refuse_odd_tiff(image: Image.Image, tags: Mapping[int, Any]) -> None:
    """Raise ValueError for tags that Pillow passes over, or fills in by a guess of its own."""
    if set(tags.get(SAMPLEFORMAT, (UNSIGNED,))) != {UNSIGNED}:
        raise ValueError(f"it has signed levels; {USABLE}")
    if PHOTOMETRIC_INTERPRETATION not in tags:
        raise ValueError("it does not say whether 0 is black or white (PhotometricInterpretation); save it anew")
    if image.mode == "RGBA" and EXTRASAMPLES not in tags:
        raise ValueError("it does not say what its fourth band is (ExtraSamples); save it as RGB, or as RGB and alpha")
    if tags.get(INK_SET, 1) != 1:
        raise ValueError("its bands are inks other than CMYK (InkSet); save it as RGB")
    if tags.get(PLANAR_CONFIGURATION) == SEPARATE and image.mode not in BAND_BY_BAND:
        raise ValueError(f"its bands stand one after the other ({kind_of(tags)}); save it with interleaved bands")
    if image.mode in ("P", "PA") and len(tags[COLORMAP]) != 3 << tags.get(BITSPERSAMPLE, (1,))[0]:
        raise ValueError(f"its palette has {len(tags[COLORMAP]) // 3} colours, not one for every number of its pixels")


def mend(image: Image.Image) -> None:
    """Set right what Pillow took for something else; before the pixels are decoded."""
    colours = image.tag_v2[COLORMAP] if image.format == "TIFF" and image.mode in ("P", "PA") else (FAINT,)
    if max(colours) < FAINT:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    if isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= STEPS.get(raw_mode(image), 1)


def refuse_lost_colours(image: Image.Image) -> None:
    """Raise ValueError where pixels, decoded by now, have numbers that the palette has no colour for."""
    if image.mode != "P":
        return
    colours, highest = len(image.getpalette()) // 3, image.getextrema()[1]
    if highest >= colours:
        raise ValueError(f"its palette has {colours} colours, and its pixels have numbers up to {highest}")


def raw_mode(image: Image.Image) -> str:
    """How the levels stand in a PNG, as Pillow calls it; of others, what does not matter."""
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else ""


def bits_of(image: Image.Image) -> int:
    """Bits of a level where an image has more than 8 of them."""
    return max(getattr(image, "tag_v2", {}).get(BITSPERSAMPLE, (16,)))


def is_negative(image: Image.Image) -> bool:
    """Whether 0 is white in what Pillow gives for more than 8 bits; of others it turns the levels itself."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def why_undecodable(image: Image.Image, error: Exception) -> Exception:
    """The error, with what the TIFF holds where libtiff says a number only."""
    if image.format != "TIFF" or not str(error).startswith("decoder error"):
        return error
    return ValueError(f"its pixels are damaged, or of a kind that cannot be read: {kind_of(image.tag_v2)}")


def why_unidentified(source: Path | BinaryIO) -> str:
    """Why Pillow finds no image of the four formats in a file."""
    start = beginning(source)
    if start.startswith(TIFF_BEGINNINGS):
        return why_no_tiff(source, start)
    for name in FORMATS:
        make, accept = Image.OPEN[name]
        if accept and accept(start) is True:
            with suppress(OSError):
                return with_file(source, lambda file, make=make, name=name: why_not(make, name, file))
    return UNKNOWN


def why_not(make: Callable[[BinaryIO, str], Image.Image], name: str, file: BinaryIO) -> str:
    """The reason that a plugin of Pillow gives."""
    try:
        make(file, "").close()
    except Exception as error:  # Pillow raises whatever a damaged file leads to
        reason = "it breaks off or is garbled" if error.__cause__ else one_line(error)
        return f"a {name} image that is damaged, or of a kind that cannot be used: {reason}"
    return UNKNOWN


def why_no_tiff(source: Path | BinaryIO, start: bytes) -> str:
    """Describe the bands and levels of a TIFF, as far as its tags tell."""
    if start.startswith(LARGE_BIG_ENDIAN):
        return "a BigTIFF with the high bytes first; save it with the low bytes first, or as a plain TIFF"
    tags = with_file(source, tags_of)
    compression = tags.get(COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        return f"a TIFF whose compression cannot be read: {compression_name(compression)}; save it with LZW or deflate"
    return f"{ODD_TIFF}{': ' + kind_of(tags) if tags else ', or damaged'}; {USABLE}, as grey or RGB"


def tags_of(file: BinaryIO) -> Mapping[int, Any]:
    """The tags of the first image of a TIFF; none where they cannot be read."""
    with suppress(Exception):  # Pillow raises whatever a damaged file leads to
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        dict(tags)  # reads the values, which it puts off
        return tags
    return {}


def compression_name(number: object) -> str:
    """The name and number of a compression."""
    return f"{COMPRESSIONS.get(number, 'unknown')} ({number})"


def kind_of(tags: Mapping[int, Any]) -> str:
    """Bands, bits, meaning and compression of a TIFF: `3 bands, 12 bits, signed, RGB, separate, LZW`."""
    meanings = {number: word for word, number in TiffTags.lookup(PHOTOMETRIC_INTERPRETATION).enum.items()}
    formats = set(tags.get(SAMPLEFORMAT, (UNSIGNED,)))
    bands = tags.get(SAMPLESPERPIXEL, 1)
    words = [
        f"{bands} band{'s' if bands != 1 else ''}",
        f"{' and '.join(map(str, sorted(set(tags.get(BITSPERSAMPLE, (1,))))))} bits",
        *(LEVELS[each] for each in sorted(formats & set(LEVELS))),
        str(meanings.get(meaning := tags.get(PHOTOMETRIC_INTERPRETATION), f"PhotometricInterpretation {meaning}")),
        f"ExtraSamples {extra}" if (extra := tags.get(EXTRASAMPLES)) else "",
        "band by band" if tags.get(PLANAR_CONFIGURATION) == SEPARATE else "",
        "high bytes first" if getattr(tags, "prefix", b"") == b"MM" else "",
        "bits in reverse order" if tags.get(FILLORDER, 1) != 1 else "",
        COMPRESSION_INFO.get(tags.get(COMPRESSION, 1), "").removeprefix("tiff_").replace("raw", ""),
    ]
    return one_line(", ".join(filter(None, words)), 200)
