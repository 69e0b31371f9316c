"""Perceptual hashes: find similar images regardless of size, encoding and orientation."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import pandas as pd

PHASH, PHASH_TURNED = "phash", "phash_turned"


def difference_hashes(grey: Image.Image) -> dict[str, str]:
    """Compute two 64-bit difference hashes (dHash) as 16 hex digits each.

    A bit says whether one of 8 x 9 area-averaged grey levels is brighter than its right neighbour. PHASH is the hash
    of the image, PHASH_TURNED that of its transpose. Similar images differ in few bits, whatever their size, file
    format or overall brightness.
    """
    levels = grey.convert("F")  # 8-bit levels would round neighbours in a low-contrast image to equal values
    plain, turned = (np.asarray(levels.resize(size, Image.Resampling.BOX)) for size in ((9, 8), (8, 9)))
    return {PHASH: hex_digits(plain), PHASH_TURNED: hex_digits(turned.T)}


def hex_digits(levels: NDArray[np.float32]) -> str:
    """Hash levels [8, 9] to 16 hex digits.

    Of two equal levels, as on a border without data, the outer one counts as brighter, so that mirroring inverts
    every bit.
    """
    left, right = levels[:, :-1], levels[:, 1:]
    return np.packbits((left > right) | (left == right) & (np.arange(8) < 4)).tobytes().hex()


def parse_hashes(hashes: "pd.Series") -> NDArray[np.uint64]:
    """Convert hex hashes to 64-bit integers [images]."""
    return np.array([int(value, 16) for value in hashes], np.uint64)


def view_hashes(images: "pd.DataFrame") -> NDArray[np.uint64]:
    """Return the hashes [images, 8] of all dihedral views (columns PHASH, PHASH_TURNED), the unchanged image first."""
    hashes = np.stack([parse_hashes(images[name]) for name in (PHASH, PHASH_TURNED)], axis=1)
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8), axis=1).astype(bool).reshape(-1, 2, 8, 8)
    mirrored = ~bits[..., ::-1]  # a level darker than its right neighbour is brighter than its left one
    views = np.stack((bits, mirrored, bits[..., ::-1, :], mirrored[..., ::-1, :]), axis=2)
    return np.packbits(views.reshape(-1, 8, 64), axis=2).view(">u8")[..., 0].astype(np.uint64)


def within_distance(hashes: NDArray[np.uint64], others: NDArray[np.uint64], distance: int) -> NDArray[np.bool_]:
    """Mask [n, m] of the pairs of hashes [n] and others [m, 8 views] that differ in at most `distance` bits."""
    mask = np.zeros((len(hashes), len(others)), bool)
    for view in others.T:
        mask |= np.bitwise_count(hashes[:, None] ^ view) <= distance
    return mask
