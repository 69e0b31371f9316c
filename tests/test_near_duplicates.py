"""Groups are those of a comparison of all pairs, however images are spared from it."""

from time import process_time

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from landuse.ml import near_duplicates
from landuse.ml.near_duplicates import Groups, link_by_embedding, link_by_hash, masks
from landuse.ml.perceptual_hash import view_hashes

DISTANCES = range(17)  # all that params.yaml may ask for
COSINES = (0.05, 0.5, 0.9, 0.97, 0.999, 0.9999999)
SMALL = {"PAIRS_AT_ONCE": 50, "ROWS_AT_ONCE": 20, "HASH_TILE": (8, 60), "PRODUCTS_AT_ONCE": 9, "MANY": 5}


@pytest.fixture(params=["large", "small buckets", "large buckets"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as they are, or so small that few images need several; the same for what counts as a large bucket."""
    if request.param != "large":
        for name, value in SMALL.items():
            monkeypatch.setattr(near_duplicates, name, value)
        monkeypatch.setattr(near_duplicates, "SMALL_BUCKET", 2**14 if request.param == "small buckets" else 30)


def components(linked: np.ndarray) -> np.ndarray:
    """Return the group of each image by a table [images, images] of who is linked to whom."""
    return connected_components(coo_array(linked), directed=False)[1]


def groups_by_hash(views: np.ndarray, distance: int) -> np.ndarray:
    """Compare the first view of every image with every view of all after it."""
    differing = np.bitwise_count(views[:, None, :1] ^ views)
    return components(np.triu((differing <= distance).any(axis=2)))


def groups_by_embedding(embeddings: np.ndarray, cosine: float) -> np.ndarray:
    """Compare every embedding with every other."""
    lengths = np.linalg.norm(embeddings, axis=1).clip(min=1e-12)
    first, second = np.triu_indices(len(embeddings))
    products = np.einsum("ij,ij->i", embeddings[first], embeddings[second])
    linked = np.zeros((len(embeddings),) * 2, bool)
    linked[first, second] = products >= cosine * (lengths[first] * lengths[second])
    return components(linked)


def linked_by_hash(views: np.ndarray, distance: int) -> np.ndarray:
    groups = Groups(len(views))
    link_by_hash(groups, views, distance)
    return groups.numbers()


def linked_by_embedding(embeddings: np.ndarray, cosine: float) -> np.ndarray:
    groups = Groups(len(embeddings))
    link_by_embedding(groups, embeddings, cosine)
    return groups.numbers()


def views_of(hashes: np.ndarray) -> np.ndarray:
    """Return the hashes [images, 8] of all views, of hashes [images, 2] of images and of their transposes."""
    digits = [[f"{value:016x}" for value in row] for row in hashes.tolist()]
    return view_hashes(pd.DataFrame(digits, columns=["phash", "phash_turned"]))


def some_hashes(rng: np.random.Generator, images: int, originals: int, flips: int) -> np.ndarray:
    """Draw hashes [images, 2] that differ from an original in up to `flips` bits; half of them are of another view."""
    hashes = rng.integers(0, 2**64, (originals, 2), dtype=np.uint64)[rng.integers(0, originals, images)]
    for _ in range(flips):
        hashes ^= np.uint64(1) << rng.integers(0, 64, hashes.shape, dtype=np.uint64)
    turned = rng.random(images) < 0.5
    hashes[turned] = np.take_along_axis(views_of(hashes), rng.integers(0, 8, (images, 2)), axis=1)[turned]
    return hashes


def some_embeddings(rng: np.random.Generator, images: int, channels: int, noise: float) -> np.ndarray:
    """Draw embeddings of any length, in clusters of three on average, more or less alike."""
    originals = rng.standard_normal((max(images // 3, 1), channels)) ** 2
    levels = noise * 10.0 ** rng.uniform(-3, 1, (images, 1))
    embeddings = originals[rng.integers(0, len(originals), images)]
    embeddings = embeddings + levels * rng.standard_normal(embeddings.shape)
    return (embeddings * 10.0 ** rng.uniform(-3, 3, (images, 1))).astype(np.float32)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("originals", [1, 8, 60])
def test_groups_by_hash_are_those_of_all_pairs(blocks: None, originals: int, distance: int) -> None:
    rng = np.random.default_rng(distance)
    for flips in {distance // 2, distance}:
        views = views_of(some_hashes(rng, 60, originals, flips))
        assert (linked_by_hash(views, distance) == groups_by_hash(views, distance)).all(), flips


def test_the_groups_that_are_compared_are_neither_all_images_nor_single_ones() -> None:
    counts = [
        len(set(groups_by_hash(views_of(some_hashes(np.random.default_rng(1), 60, 8, 4)), distance)))
        for distance in (4, 6, 8)
    ]
    assert 60 > counts[0] > counts[1] > counts[2] > 1


@pytest.mark.parametrize("distance", DISTANCES)
def test_hashes_are_linked_at_the_limit_and_not_above(distance: int) -> None:
    rng = np.random.default_rng(distance)
    for _ in range(20):
        hashes = rng.integers(0, 2**64, (3, 2), dtype=np.uint64)
        for image, differing in ((1, distance), (2, distance + 1)):
            bits = rng.permutation(64)[:differing].astype(np.uint64)
            hashes[image, 0] = hashes[0, 0] ^ (np.uint64(1) << bits).sum(dtype=np.uint64)
        groups = groups_by_hash(views_of(hashes), distance)
        assert groups[0] == groups[1]
        assert (linked_by_hash(views_of(hashes), distance) == groups).all()


def test_a_turned_image_is_linked_only_if_it_comes_after() -> None:
    """Its hash may resemble that of a view of the other where that of its own view does not resemble the other's."""
    hashes = np.array([[0x1234, 0xFFFF_0000_1111], [0xABCD_EF01_2345_6789, 0x1234]], np.uint64)
    assert linked_by_hash(views_of(hashes), 2).tolist() == groups_by_hash(views_of(hashes), 2).tolist() == [0, 0]
    back = views_of(hashes[::-1])
    assert linked_by_hash(back, 2).tolist() == groups_by_hash(back, 2).tolist() == [0, 1]


@pytest.mark.parametrize("distance", DISTANCES)
def test_hashes_within_the_distance_are_equal_in_all_bits_of_one_mask(distance: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        differing = np.uint64(sum(1 << bit for bit in rng.permutation(64)[:distance].tolist()))
        assert any(mask & differing == 0 for mask in masks(distance))


@pytest.mark.parametrize("spread", [0, 2, 12])
def test_many_images_with_nearly_the_same_hash_take_seconds(spread: int) -> None:
    rng = np.random.default_rng(1)
    hashes = np.full((20_000, 2), 0xF0F0_F0F0_F0F0_F0F0, np.uint64)
    for _ in range(spread):
        hashes ^= np.uint64(1) << rng.integers(0, 64, hashes.shape, dtype=np.uint64)
    views, start = views_of(hashes), process_time()
    groups = linked_by_hash(views, 2)
    assert process_time() - start < 10
    assert (groups.max() == 0) == (spread < 12)


@pytest.mark.parametrize("cosine", COSINES)
@pytest.mark.parametrize(("images", "channels"), [(1, 8), (60, 3), (60, 64), (150, 200)])
def test_groups_by_embedding_are_those_of_all_pairs(blocks: None, images: int, channels: int, cosine: float) -> None:
    rng = np.random.default_rng(images)
    for noise in (0.01, 0.1, 1):
        embeddings = some_embeddings(rng, images, channels, noise)
        embeddings[0] = 0
        assert (linked_by_embedding(embeddings, cosine) == groups_by_embedding(embeddings, cosine)).all(), noise


@pytest.mark.parametrize("cosine", [0.25, 0.5, 0.75])
def test_embeddings_are_linked_at_the_limit_and_not_below(blocks: None, cosine: float) -> None:
    rng = np.random.default_rng(1)
    embeddings = np.zeros((120, 40), np.float32)
    for row in embeddings:
        row[rng.permutation(40)[:4]] = 1  # two of them have a cosine similarity of 0, 0.25, 0.5, 0.75 or 1
    groups = linked_by_embedding(embeddings, cosine)
    assert (groups == groups_by_embedding(embeddings, cosine)).all()
    assert len(set(groups)) < len(set(groups_by_embedding(embeddings, cosine + 1e-6)))


def test_many_images_with_nearly_the_same_embedding_take_seconds() -> None:
    rng = np.random.default_rng(1)
    embeddings = 1 + 0.01 * rng.standard_normal((20_000, 64), np.float32)
    start = process_time()
    assert linked_by_embedding(embeddings, 0.97).max() == 0
    assert process_time() - start < 30


def test_groups_are_numbered_by_their_first_images() -> None:
    groups = Groups(6)
    groups.link(np.array([5, 3]), np.array([1, 4]))
    groups.link_equal(np.array(["a", "b", "c", "a", "d", "e"]))
    assert groups.numbers().tolist() == [0, 1, 2, 0, 0, 1]
