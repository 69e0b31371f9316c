"""Special cases of image files: what Pillow misreads, fails on, or refuses without a reason."""

import re
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

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

# Pillow's own reader of uncompressed TIFFs misreads bit depths, planar bands and YCbCr; libtiff does not.
TiffImagePlugin.READ_LIBTIFF = True

Result = TypeVar("Result")

FORMATS = ("TIFF", "JPEG", "PNG", "WEBP")
REMEDY = "save it with 8 or 16 bits per channel"
UNSUPPORTED_TIFF = "a TIFF with unsupported bands or levels"
NOT_AN_IMAGE = "not a TIFF, JPEG, PNG or WebP image"
UNSCALED_MODES = {"I": "signed or 32-bit", "F": "floating-point"}
COMPRESSIONS = {  # those that Pillow does not name
    **{34887: "LERC", 34712: "JPEG 2000", 33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000"},
    **{50002: "JPEG XL", 52546: "JPEG XL", 9: "JBIG", 10: "JBIG", 34661: "JBIG", 34715: "JBIG2", 34892: "lossy JPEG"},
    **{22610: "JPEG XR", 34934: "JPEG XR", 34713: "Nikon NEF", 32766: "NeXT", 65000: "Kodak DCR"},
}
SAMPLE_FORMATS = {2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}  # SampleFormat
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG_ENDIAN_BIGTIFF, PNG_SIGNATURE = b"MM\0+", b"\x89PNG\r\n\x1a\n"
WHITE_IS_ZERO, SEPARATE, UNSIGNED, INK_SET = 0, 2, 1, 332
PLANAR_MODES = frozenset({"1", "L", "P", "I;16", "I;16B", "RGB", "RGBA", "CMYK"})  # which libtiff reads band by band
BYTE_COLOURS = 256  # a TIFF palette whose colours are all below this has 8 bits, although the standard says 16
LEVEL_STEPS = {"L;2": 85, "L;4": 17}  # 8-bit levels per level of 2 or 4 bits
KEPT_CHUNKS = frozenset({b"tRNS", b"eXIf"})  # the ancillary PNG chunks that affect the pixels
MAX_PNG_BYTES = MAX_JPEG_BYTES = 2**29  # more than MAX_PIXELS need without any compression
MAX_SCANS = 100  # of a JPEG, usual are up to 20: each takes as long as decoding an image
SCAN, END_OF_IMAGE = b"\xda", b"\xd9"  # JPEG markers, which follow 0xFF
JPEG_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xef\xfe])")  # a marker with a length, which data have none of


def open_image(source: Path | BinaryIO) -> Image.Image:
    """Open an image without decoding its pixels.

    Raises UnidentifiedImageError, or whatever Pillow raises for a damaged file.
    """
    if read_signature(source).startswith(PNG_SIGNATURE):
        return Image.open(with_file(source, strip_ancillary_chunks), formats=FORMATS)
    return Image.open(source, formats=FORMATS)


def read_signature(source: Path | BinaryIO) -> bytes:
    """Read the first bytes, which identify the format."""
    return with_file(source, lambda file: file.read(16))


def with_file(source: Path | BinaryIO, function: Callable[[BinaryIO], Result]) -> Result:
    """Apply a function to the file, opened at or rewound to its start."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return function(file)
    source.seek(0)
    result = function(source)
    source.seek(0)
    return result


def strip_ancillary_chunks(file: BinaryIO) -> BytesIO:
    """Copy a PNG without profiles, texts and further frames: these may be damaged or huge, so they are not read."""
    stripped = BytesIO()
    stripped.write(file.read(len(PNG_SIGNATURE)))
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name[:1].islower() and name not in KEPT_CHUNKS:
            file.seek(length + 4, 1)
            continue
        if stripped.tell() + length > MAX_PNG_BYTES:
            raise ValueError(f"it has more than {MAX_PNG_BYTES:,} bytes of pixel data")
        stripped.write(head + file.read(length + 4))
        if name == b"IEND":
            break
    stripped.write(head if len(head) < 8 else b"")
    stripped.seek(0)
    return stripped


def tiff_tags(image: Image.Image) -> Mapping[int, Any]:
    """Return the tags of a TIFF; empty for other formats."""
    return getattr(image, "tag_v2", {})


def tile_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of a TIFF's tiles, or 0 without tiles. A small image may have large tiles."""
    tags = tiff_tags(image)
    return tags.get(TILEWIDTH, 0), tags.get(TILELENGTH, 0)


def refuse_misread(image: Image.Image) -> None:
    """Raise ValueError for an image that Pillow would decode to wrong pixels."""
    if image.mode in UNSCALED_MODES:
        raise ValueError(f"it has {UNSCALED_MODES[image.mode]} levels; {REMEDY}")
    if image.mode == "P" and image.palette is None:
        raise ValueError("its pixels are palette indices, and it has no palette")
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        raise ValueError("it is CMYK, and does not say whether 0 is no ink or all of it; save it as RGB")
    if image.format == "TIFF":
        refuse_ambiguous_tiff(image, tiff_tags(image))
    if image.mode == "RGB" and "transparency" in image.info and raw_mode(image).startswith("RGB;16"):
        raise ValueError(f"one of its 16-bit colours is transparent; {REMEDY}, and with an alpha channel")


def refuse_ambiguous_tiff(image: Image.Image, tags: Mapping[int, Any]) -> None:
    """Raise ValueError for tags that Pillow ignores or replaces with a guess."""
    if set(tags.get(SAMPLEFORMAT, (UNSIGNED,))) != {UNSIGNED}:
        raise ValueError(f"it has signed levels; {REMEDY}")
    if PHOTOMETRIC_INTERPRETATION not in tags:
        raise ValueError("it does not say whether 0 is black or white (PhotometricInterpretation); save it again")
    if image.mode == "RGBA" and EXTRASAMPLES not in tags:
        raise ValueError("it does not say what its fourth band is (ExtraSamples); save it as RGB, or as RGB and alpha")
    if tags.get(INK_SET, 1) != 1:
        raise ValueError("its bands are inks other than CMYK (InkSet); save it as RGB")
    if tags.get(PLANAR_CONFIGURATION) == SEPARATE and image.mode not in PLANAR_MODES:
        raise ValueError(f"its bands are stored separately ({describe_tags(tags)}); save it with interleaved bands")
    if image.mode in ("P", "PA"):
        colours, indices = len(tags[COLORMAP]), 1 << tags.get(BITSPERSAMPLE, (1,))[0]
        if colours != 3 * indices:
            raise ValueError(f"its palette has {colours // 3} colours, not {indices} as its pixels need")


def refuse_many_scans(source: Path | BinaryIO, image: Image.Image) -> None:
    """Raise ValueError for a JPEG with more than MAX_SCANS scans, which a small file has room for."""
    if image.format in ("JPEG", "MPO") and with_file(source, has_many_scans):
        raise ValueError(f"it has more than {MAX_SCANS} scans; save it again, not as a progressive JPEG")


def has_many_scans(file: BinaryIO) -> bool:
    """Return whether a JPEG has more than MAX_SCANS scans, without those of a thumbnail in it or a film behind it."""
    content = file.read(MAX_JPEG_BYTES)
    scans = position = 0
    while scans <= MAX_SCANS and (segment := JPEG_SEGMENT.search(content, position)) and segment[1] != END_OF_IMAGE:
        scans += segment[1] == SCAN
        length = int.from_bytes(content[segment.end() : segment.end() + 2], "big")
        position = segment.end() + max(length, 2)
    return scans > MAX_SCANS


def correct_colours(image: Image.Image) -> None:
    """Correct a palette or transparent level that Pillow misreads. Call before the pixels are decoded."""
    is_tiff_palette = image.format == "TIFF" and image.mode in ("P", "PA")
    colours = tiff_tags(image)[COLORMAP] if is_tiff_palette else (BYTE_COLOURS,)
    if max(colours) < BYTE_COLOURS:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    if isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= LEVEL_STEPS.get(raw_mode(image), 1)


def refuse_missing_colours(image: Image.Image) -> None:
    """Raise ValueError if decoded pixels have indices beyond the end of the palette."""
    if image.mode != "P":
        return
    colours, highest = len(image.getpalette() or ()) // 3, image.getextrema()[1]
    if not isinstance(highest, tuple) and highest >= colours:
        raise ValueError(f"its palette has {colours} colours, and its pixels have indices up to {highest}")


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the stored layout of a PNG's levels; meaningless for other formats."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    return args if isinstance(args, str) else ""


def bit_depth(image: Image.Image) -> int:
    """Return the bits per level of an image with more than 8 of them."""
    bits: tuple[int, ...] = tiff_tags(image).get(BITSPERSAMPLE, (16,))
    return max(bits)


def is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in an image with more than 8 bits per level; Pillow inverts the others itself."""
    return tiff_tags(image).get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def explain_undecodable(image: Image.Image, error: Exception) -> Exception:
    """Replace an error of libtiff that is only a number by one that describes the TIFF."""
    if image.format != "TIFF" or not str(error).startswith("decoder error"):
        return error
    return ValueError(f"its pixels are damaged or of an unsupported kind: {describe_tags(tiff_tags(image))}")


def explain_unidentified(source: Path | BinaryIO) -> str:
    """Explain why Pillow finds no image of the four formats in a file."""
    signature = read_signature(source)
    if signature.startswith(TIFF_SIGNATURES):
        return explain_unidentified_tiff(source, signature)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept and accept(signature) is True:
            with suppress(OSError):
                return with_file(source, partial(explain_by_plugin, factory, name))
    return NOT_AN_IMAGE


def explain_by_plugin(factory: Callable[[BinaryIO, str], Image.Image], name: str, file: BinaryIO) -> str:
    """Return the reason that a plugin of Pillow gives for not opening a file."""
    try:
        factory(file, "").close()
    except Exception as error:  # Pillow raises all kinds of errors for a damaged file
        reason = "it is truncated or garbled" if error.__cause__ else one_line(error)
        return f"a {name} image that is damaged or of an unsupported kind: {reason}"
    return NOT_AN_IMAGE


def explain_unidentified_tiff(source: Path | BinaryIO, signature: bytes) -> str:
    """Describe the compression, bands and levels of an unsupported TIFF, as far as its tags give them."""
    if signature.startswith(BIG_ENDIAN_BIGTIFF):
        return "a big-endian BigTIFF; save it as a little-endian one, or as a plain TIFF"
    tags = with_file(source, read_tags)
    compression = tags.get(COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        return f"a TIFF whose compression cannot be read: {compression_name(compression)}; save it with LZW or deflate"
    return f"{UNSUPPORTED_TIFF}{': ' + describe_tags(tags) if tags else ', or damaged'}; {REMEDY}, as grey or RGB"


def read_tags(file: BinaryIO) -> Mapping[int, Any]:
    """Read the tags of the first image of a TIFF; empty if they cannot be read."""
    with suppress(Exception):  # Pillow raises all kinds of errors for a damaged file
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        dict(tags)  # reads the values, which are loaded lazily
        return tags
    return {}


def compression_name(number: int) -> str:
    """Return the name and number of a TIFF compression."""
    return f"{COMPRESSIONS.get(number, 'unknown')} ({number})"


def describe_tags(tags: Mapping[int, Any]) -> str:
    """Describe bands, bits, meaning and compression of a TIFF, as in `3 bands, 12 bits, signed, RGB, lzw`."""
    meanings = {number: word for word, number in TiffTags.lookup(PHOTOMETRIC_INTERPRETATION).enum.items()}
    meaning: Any = tags.get(PHOTOMETRIC_INTERPRETATION)
    formats = set(tags.get(SAMPLEFORMAT, (UNSIGNED,)))
    bands = tags.get(SAMPLESPERPIXEL, 1)
    words = [
        f"{bands} band{'s' if bands != 1 else ''}",
        f"{' and '.join(map(str, sorted(set(tags.get(BITSPERSAMPLE, (1,))))))} bits",
        *(SAMPLE_FORMATS[each] for each in sorted(formats & set(SAMPLE_FORMATS))),
        str(meanings.get(meaning, f"PhotometricInterpretation {meaning}")),
        f"ExtraSamples {extra}" if (extra := tags.get(EXTRASAMPLES)) else "",
        "band by band" if tags.get(PLANAR_CONFIGURATION) == SEPARATE else "",
        "big-endian" if getattr(tags, "prefix", b"") == b"MM" else "",
        "bits in reverse order" if tags.get(FILLORDER, 1) != 1 else "",
        COMPRESSION_INFO.get(tags.get(COMPRESSION, 1), "").removeprefix("tiff_").replace("raw", ""),
    ]
    return one_line(", ".join(filter(None, words)), 200)
