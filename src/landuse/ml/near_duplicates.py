"""Groups of near-duplicates: images linked by equal content, similar hashes or similar embeddings, or chains of them.

Only who is connected to whom matters, so images that are in one group already are not compared again.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.intp]

SMALL_BUCKET = 2**14  # pairs
PAIRS_AT_ONCE = 2**20
ROWS_AT_ONCE = 1024
HASH_TILE = (128, 4096)  # hashes compared at a time, to stay in the processor's cache
SAMPLE_SIZE, DIRECTIONS = 256, 127
PRODUCTS_AT_ONCE = 8192
MANY = 2**14  # pairs of a block, from which on multiplying the whole block is faster than pair by pair
ROUNDING = 1e-4


class Embeddings(Protocol):
    """Embeddings [images, channels], of which some are read at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, images: slice | Rows, /) -> NDArray[np.float32]: ...


class Groups:
    """Groups of images that are linked, directly or in chains.

    `labels` [images] names the group of each image by the group's first image.
    """

    def __init__(self, images: int) -> None:
        self.labels = np.arange(images, dtype=np.int32)

    def link(self, first: Rows, second: Rows) -> None:
        """Merge the groups of each pair of images."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        ends = self.labels[np.stack((first, second))]
        ends = ends[:, ends[0] != ends[1]]
        if not ends.size:
            return
        labels, nodes = np.unique(ends, return_inverse=True)
        links = coo_array((np.ones(ends.shape[1], bool), tuple(nodes.reshape(ends.shape))), shape=(len(labels),) * 2)
        merged = connected_components(links, directed=False)[1]
        renamed = np.arange(len(self.labels), dtype=np.int32)
        renamed[labels] = labels[np.unique(merged, return_index=True)[1]][merged]
        self.labels = renamed[self.labels]

    def link_equal(self, values: "pd.Series[Any] | NDArray[Any]") -> None:
        """Merge the groups of images with the same value [images]."""
        codes, _ = pd.factorize(values)
        self.link(np.arange(len(codes)), np.unique(codes, return_index=True)[1][codes])

    def numbers(self) -> Rows:
        """Return the number of each image's group, in order of their first images."""
        return np.unique(self.labels, return_inverse=True)[1]


class Hashes(NamedTuple):
    """Hashes [n] and the image that each belongs to [n]."""

    bits: NDArray[np.uint64]
    images: Rows

    def take(self, rows: Rows | NDArray[np.bool_] | slice) -> Self:
        """Return some of the hashes."""
        return self._replace(bits=self.bits[rows], images=self.images[rows])

    def sorted_by(self, mask: np.uint64) -> Self:
        """Sort by the bits in the mask, and by image where these are equal."""
        return self.take(np.argsort(self.bits & mask, kind="stable"))


def link_by_hash(groups: Groups, views: NDArray[np.uint64], distance: int) -> None:
    """Link images whose hashes [images, 8 views] differ in at most `distance` of 64 bits.

    The first view of an image is compared with every view of the images after it. The first four views are mirror
    images of one another, as are the last four: mirroring both of two hashes leaves their distance as it is, so images
    that have the same four are equal here, and one of them stands for all.
    """
    groups.link_equal(views[:, :4].min(axis=1))
    hashes, later = first_hashes(views), last_hashes(views, groups)
    for mask in masks(distance):
        link_where_equal(groups, hashes.sorted_by(mask), later.sorted_by(mask), mask, distance)


def first_hashes(views: NDArray[np.uint64]) -> Hashes:
    """Return the distinct hashes and the first image that has each, sorted by image."""
    bits = views[:, :4].min(axis=1)
    images = np.sort(np.unique(bits, return_index=True)[1])
    return Hashes(bits[images], images)


def last_hashes(views: NDArray[np.uint64], groups: Groups) -> Hashes:
    """Return the distinct views and the last image in each group that has them, sorted by image."""
    chosen = []
    for half in (views[:, :4], views[:, 4:]):
        rows = pd.DataFrame({"bits": half.min(axis=1), "group": groups.labels})
        images = rows.index[~rows.duplicated(keep="last")].to_numpy()
        chosen.append(Hashes(half[images].ravel(), images.repeat(4)))
    both = Hashes(*map(np.concatenate, zip(*chosen, strict=True)))
    return both.take(np.argsort(both.images, kind="stable"))


def masks(distance: int) -> Iterator[np.uint64]:
    """Yield masks of 64 bits; two hashes that differ in at most `distance` bits are equal in all bits of one of them.

    If the bits are divided into `distance` + 2 pieces, the two hashes are equal in at least two.
    """
    pieces = [sum(1 << bit for bit in range(first, 64, distance + 2)) for first in range(distance + 2)]
    yield from (np.uint64(one | other) for one, other in combinations(pieces, 2))


def link_where_equal(groups: Groups, hashes: Hashes, later: Hashes, mask: np.uint64, distance: int) -> None:
    """Link similar hashes that are equal in the bits of the mask, by which both are sorted."""
    keys, later_keys = hashes.bits & mask, later.bits & mask
    start, stop = np.searchsorted(later_keys, keys, "left"), np.searchsorted(later_keys, keys, "right")
    _, rows, sizes = np.unique(keys, return_index=True, return_counts=True)
    large = sizes * (stop - start)[rows] > SMALL_BUCKET
    for row, size in zip(rows[large], sizes[large], strict=True):
        bucket = later.take(slice(start[row], stop[row]))
        link_bucket(groups, hashes.take(slice(row, row + size)), bucket, distance)
    small = ~large.repeat(sizes)
    link_ranges(groups, hashes.take(small), later, start[small], stop[small], distance)


def link_ranges(groups: Groups, hashes: Hashes, later: Hashes, start: Rows, stop: Rows, distance: int) -> None:
    """Link each hash with similar ones in its own small range of the others."""
    counts = stop - start
    cuts = np.searchsorted(counts.cumsum(), np.arange(PAIRS_AT_ONCE, counts.sum(), PAIRS_AT_ONCE))
    for part in np.split(np.arange(len(counts)), cuts):
        some = counts[part]
        first = part.repeat(some)
        second = np.arange(len(first)) + (start[part] - some.cumsum() + some).repeat(some)
        close = np.bitwise_count(hashes.bits[first] ^ later.bits[second]) <= distance
        link_forward(groups, hashes.images[first[close]], later.images[second[close]])


def link_bucket(groups: Groups, hashes: Hashes, later: Hashes, distance: int) -> None:
    """Link similar hashes by comparing all, except those of the most frequent group with one another."""
    for start in range(0, len(hashes.bits), ROWS_AT_ONCE):
        block = hashes.take(slice(start, start + ROWS_AT_ONCE))
        labels, counts = np.unique(groups.labels[block.images], return_counts=True)
        inside = groups.labels[block.images] == labels[counts.argmax()]
        outside = groups.labels[later.images] != labels[counts.argmax()]
        link_tiles(groups, block.take(inside), later.take(outside), distance)
        link_tiles(groups, block.take(~inside), later, distance)


def link_tiles(groups: Groups, hashes: Hashes, later: Hashes, distance: int) -> None:
    """Link similar hashes, compared in tables of bounded memory; both are sorted by image."""
    height, width = HASH_TILE
    for row in range(0, len(hashes.bits), height):
        rows = hashes.take(slice(row, row + height))
        for column in range(np.searchsorted(later.images, rows.images[0]), len(later.bits), width):
            columns = later.take(slice(column, column + width))
            close = np.bitwise_count(rows.bits[:, None] ^ columns.bits) <= distance
            close &= groups.labels[rows.images][:, None] != groups.labels[columns.images]
            first, second = np.divmod(np.flatnonzero(close), len(columns.bits))
            link_forward(groups, rows.images[first], columns.images[second])


def link_forward(groups: Groups, first: Rows, second: Rows) -> None:
    """Link pairs of images if the second comes after the first.

    Other pairs tell nothing: an image may be similar to a turned view of another without the reverse being true.
    """
    forward = first < second
    groups.link(first[forward], second[forward])


def link_by_embedding(groups: Groups, embeddings: Embeddings, cosine: float) -> None:
    """Link images whose embeddings [images, channels] have at least this cosine similarity."""
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(embeddings), ROWS_AT_ONCE)]
    lengths = np.concatenate([np.linalg.norm(embeddings[rows], axis=1) for rows in blocks]).clip(min=1e-12)
    for close in batches(close_pairs(groups, embeddings, lengths, cosine)):
        for start in range(0, close.shape[1], PRODUCTS_AT_ONCE):
            pairs = close[:, start : start + PRODUCTS_AT_ONCE]
            first, second = pairs = pairs[:, groups.labels[pairs[0]] != groups.labels[pairs[1]]]
            products = np.einsum("ij,ij->i", embeddings[first], embeddings[second])
            groups.link(*pairs[:, products >= cosine * lengths[pairs].prod(axis=0)])


def batches(pairs: Iterable[Rows]) -> Iterator[Rows]:
    """Join small tables of pairs [2, n] to larger ones, because reading few embeddings at a time is slow."""
    waiting, count = list[Rows](), 0
    for some in pairs:
        waiting.append(some)
        count += some.shape[1]
        if count >= PRODUCTS_AT_ONCE:
            yield np.concatenate(waiting, axis=1)
            waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting, axis=1)


def summaries(embeddings: Embeddings, lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Summarize embeddings [images, channels] as vectors [images, up to 128] with at least their cosine similarities.

    The product of two unit vectors is that of their projections on some directions plus that of the rests, which is at
    most the product of the lengths of the rests. So this length is appended to each projection.
    """
    sample = np.arange(0, len(embeddings), -(-len(embeddings) // SAMPLE_SIZE))
    axes = principal_directions(embeddings[sample] / lengths[sample, None])
    table = np.empty((len(embeddings), axes.shape[1] + 1), lengths.dtype)
    for start in range(0, len(embeddings), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        table[rows, :-1] = embeddings[rows] @ axes / lengths[rows, None]
        table[rows, -1] = np.sqrt((1 + ROUNDING - (table[rows, :-1] ** 2).sum(axis=1)).clip(min=0))
    return table


def principal_directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the orthogonal directions [channels, up to 127] of largest variance, which separate vectors best."""
    return np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)[2][:DIRECTIONS].T


def close_pairs(groups: Groups, embeddings: Embeddings, lengths: NDArray[np.float32], cosine: float) -> Iterator[Rows]:
    """Yield pairs [2, n] of images in different groups that may have this cosine similarity, and all that have it.

    Unit vectors that are close stay close when projected on one direction, by which they are sorted to skip the others.
    """

    def unit(images: Rows) -> NDArray[np.float32]:
        return embeddings[images] / lengths[images, None]

    table, limit = summaries(embeddings, lengths), cosine - ROUNDING
    order = np.argsort(table[:, 0])
    table = table[order]
    ends = np.searchsorted(table[:, 0], table[:, 0] + np.sqrt(2 - 2 * limit), "right")
    for start in range(0, len(order), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for column in range(start, ends[rows][-1], ROWS_AT_ONCE):
            columns = slice(column, column + ROWS_AT_ONCE)
            close = table[rows] @ table[columns].T >= limit
            close &= groups.labels[order[rows]][:, None] != groups.labels[order[columns]]
            if np.count_nonzero(close) > MANY:
                close &= unit(order[rows]) @ unit(order[columns]).T >= limit
            first, second = np.divmod(np.flatnonzero(close), close.shape[1])
            yield np.stack((order[rows][first], order[columns][second]))
