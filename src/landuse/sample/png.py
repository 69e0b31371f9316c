"""Encode PNG files whose bytes depend only on the pixels, and which are marked as drawn."""

from struct import pack
from zlib import adler32, crc32

from PIL import Image

MAX_BLOCK = 65535
MARK = b"Software\0landuse.sample"  # text chunk that names the creator


def encode_png(image: Image.Image) -> bytes:
    """Encode a small RGB image as PNG without compression; the pixels must fit into one block of MAX_BLOCK bytes.

    Pillow's own writer would not do: the output of zlib differs between builds, even without compression.
    """
    width, height = image.size
    pixels, stride = image.tobytes(), 3 * width
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    block = pack("<BHH", 1, len(rows), MAX_BLOCK - len(rows))
    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    stored = b"\x78\x01" + block + rows + pack(">I", adler32(rows))
    chunks = {b"IHDR": header, b"tEXt": MARK, b"IDAT": stored, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(encode_chunk(kind, content) for kind, content in chunks.items())


def encode_chunk(kind: bytes, content: bytes) -> bytes:
    """Encode one chunk of a PNG file: length, kind, content, checksum."""
    return pack(">I", len(content)) + kind + content + pack(">I", crc32(kind + content))
