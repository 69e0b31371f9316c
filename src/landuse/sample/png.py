"""PNG files whose bytes depend on the pixels alone, and which say that they were drawn."""

from struct import pack
from zlib import adler32, crc32

from PIL import Image

LARGEST_BLOCK = 65535
MARK = b"Software\0landuse.sample"  # the text by which a file tells what made it


def png(image: Image.Image) -> bytes:
    """The PNG file of a small RGB image, its pixels stored as they are; they must fit into one block of LARGEST_BLOCK.

    zlib's builds differ in their bytes, even where they are told not to compress, so Pillow's own writer would not do.
    """
    width, height = image.size
    pixels, stride = image.tobytes(), 3 * width
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    block = pack("<BHH", 1, len(rows), LARGEST_BLOCK - len(rows))
    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    stored = b"\x78\x01" + block + rows + pack(">I", adler32(rows))
    chunks = {b"IHDR": header, b"tEXt": MARK, b"IDAT": stored, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks.items())


def chunk(kind: bytes, content: bytes) -> bytes:
    """One part of a PNG file: length, kind, content, checksum."""
    return pack(">I", len(content)) + kind + content + pack(">I", crc32(kind + content))
