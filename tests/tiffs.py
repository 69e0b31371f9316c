"""A TIFF writer that follows the specification, for files that no library writes."""

import struct
import zlib
from itertools import chain

import numpy as np

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL, STRIPS, BANDS, ROWS, SIZES = (
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279),
)
PLANAR, PREDICTOR, PALETTE, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 284, 317, 320, 322, 323, 324, 325
EXTRA, FORMAT = 338, 339
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, COLOURS, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
DEFLATE = 8
REVERSED = np.array([int(f"{value:08b}"[::-1], 2) for value in range(256)], np.uint8)


def scaled(scene: np.ndarray, bits: int) -> np.ndarray:
    """Scale levels 0-255 to levels of `bits` bits."""
    return np.rint(scene * ((2**bits - 1) / 255)).astype(np.uint32)


def tiff(
    levels: np.ndarray,
    bits: int,
    photometric: int,
    order: str = "<",
    big: bool = False,
    planar: bool = False,
    tile: int = 0,
    compression: int = 1,
    overrides: dict[int, tuple[int, ...] | None] | None = None,
) -> bytes:
    """Write levels [height, width, bands] of `bits` bits as a TIFF, in tiles of side `tile` or strips of 7 rows.

    `planar` stores band by band. `overrides` sets tags by number, or omits a tag if None; its fill order and
    predictor are applied.
    """
    overrides = overrides or {}
    height, width, bands = levels.shape
    planes = [levels[..., band : band + 1] for band in range(bands)] if planar else [levels]
    pieces = list(chain.from_iterable(map(lambda plane: cut(plane, tile), planes)))
    blocks = [pack(piece, bits, order, overrides) for piece in pieces]
    if compression == DEFLATE:
        blocks = [zlib.compress(block) for block in blocks]
    if overrides.get(FILL) == (2,):
        blocks = [REVERSED[np.frombuffer(block, np.uint8)].tobytes() for block in blocks]
    tags = {WIDTH: (width,), HEIGHT: (height,), BITS: (bits,) * bands, COMPRESSION: (compression,)}
    tags |= {PHOTOMETRIC: (photometric,), BANDS: (bands,), PLANAR: (2 if planar else 1,)}
    tags |= {TILE_WIDTH: (tile,), TILE_HEIGHT: (tile,)} if tile else {ROWS: (7,)}
    return assemble(tags | overrides, blocks, (TILES, TILE_SIZES) if tile else (STRIPS, SIZES), order, big)


def cut(plane: np.ndarray, tile: int) -> list[np.ndarray]:
    """Cut a plane into strips of 7 rows, or into tiles, padded at the edges of the image."""
    height, width, _ = plane.shape
    if not tile:
        return [plane[top : top + 7] for top in range(0, height, 7)]
    filled = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
    corners = ((top, left) for top in range(0, height, tile) for left in range(0, width, tile))
    return [filled[top : top + tile, left : left + tile] for top, left in corners]


def pack(piece: np.ndarray, bits: int, order: str, overrides: dict) -> bytes:
    """Pack the levels of a strip or tile as bits; each row starts with a new byte."""
    if overrides.get(PREDICTOR) == (2,):
        piece = np.diff(piece, axis=1, prepend=0) & (2**bits - 1)
    rows = piece.reshape(len(piece), -1)
    if bits % 8 == 0:
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    digits = rows[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(bool), axis=1).tobytes()


def assemble(tags: dict, blocks: list[bytes], block_tags: tuple[int, int], order: str, big: bool) -> bytes:
    """Join header, blocks, long values and directory of a file."""
    start = 16 if big else 8
    ends = np.cumsum([start, *map(len, blocks)]).tolist()
    tags |= {block_tags[0]: tuple(ends[:-1]), block_tags[1]: tuple(map(len, blocks))}
    entry, count, inline = ("HHQ", "Q", 8) if big else ("HHI", "H", 4)
    offset, values, entries = ends[-1], b"", []
    for tag in sorted(tag for tag in tags if tags[tag] is not None):
        wide = tag in (WIDTH, HEIGHT, *block_tags)
        value = struct.pack(f"{order}{len(tags[tag])}{'I' if wide else 'H'}", *tags[tag])
        if len(value) > inline:
            place = struct.pack(f"{order}{'Q' if big else 'I'}", offset + len(values))
            values += value
        else:
            place = value.ljust(inline, b"\0")
        entries.append(struct.pack(f"{order}{entry}", tag, 4 if wide else 3, len(tags[tag])) + place)
    directory = struct.pack(f"{order}{count}", len(entries)) + b"".join(entries) + bytes(8)
    byte_order = b"II" if order == "<" else b"MM"
    header = (
        struct.pack(f"{order}HHHQ", 43, 8, 0, offset + len(values))
        if big
        else struct.pack(f"{order}HI", 42, offset + len(values))
    )
    return byte_order + header + b"".join(blocks) + values + directory
