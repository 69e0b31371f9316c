"""Perceptual hashes: which images look alike, whatever their size and encoding, and however they were turned."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

PLAIN, TURNED = "phash", "phash_turned"


def difference_hashes(grey: Image.Image) -> dict[str, str]:
    """64 bits as 16 hex digits: is each of 8 x 9 area-averaged grey levels brighter than its right neighbour.

    Of equals, as on a border without data, the outer one counts as brighter, so that mirroring turns every bit over.
    PLAIN is that of the image, TURNED that of the image mirrored along its diagonal. Alike images differ in few bits,
    whatever their size, file format or overall brightness.
    """
    levels = grey.convert("F")  # or the eight bits of a grey level would make neighbours of a faint image equal
    plain, turned = (np.asarray(levels.resize(size, Image.Resampling.BOX)) for size in ((9, 8), (8, 9)))
    return {PLAIN: digits(plain), TURNED: digits(turned.T)}


def digits(levels: NDArray[np.float32]) -> str:
    """Of levels [8, 9], 16 hex digits."""
    left, right = levels[:, :-1], levels[:, 1:]
    return np.packbits((left > right) | (left == right) & (np.arange(8) < 4)).tobytes().hex()


def numbers(hashes: pd.Series) -> NDArray[np.uint64]:
    """The bits of hashes [images]."""
    return np.array([int(value, 16) for value in hashes], np.uint64)


def views(images: pd.DataFrame) -> NDArray[np.uint64]:
    """The bits [images, 8] of every flip and quarter turn of images (columns PLAIN, TURNED), as they are first."""
    given = np.stack([numbers(images[name]) for name in (PLAIN, TURNED)], axis=1)
    bits = np.unpackbits(given.astype(">u8").view(np.uint8), axis=1).astype(bool).reshape(-1, 2, 8, 8)
    mirrored = ~bits[..., ::-1]  # what was darker than its right neighbour is brighter than its left one
    every = np.stack((bits, mirrored, bits[..., ::-1, :], mirrored[..., ::-1, :]), axis=2)
    return np.packbits(every.reshape(-1, 8, 64), axis=2).view(">u8")[..., 0].astype(np.uint64)


def near(some: NDArray[np.uint64], others: NDArray[np.uint64], distance: int) -> NDArray[np.bool_]:
    """Which of some images [n] differ in at most so many bits from which of others [m, 8 views], as [n, m]."""
    alike = np.zeros((len(some), len(others)), bool)
    for view in others.T:
        alike |= np.bitwise_count(some[:, None] ^ view) <= distance
    return alike
