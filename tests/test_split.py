"""Subsets are stratified by class and share no near-duplicates."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from landuse import sample
from landuse.core import paths
from landuse.core.errors import LanduseError
from landuse.ml.images import view
from landuse.ml.perceptual_hash import difference_hashes
from landuse.params import SplitParams
from landuse.split import assign_subsets, group_near_duplicates, split

SEEDS = range(12)
AS_TRAINED = SplitParams(**tiny.CHANGES["split"])


def settings(validation: float = 0.2, test: float = 0.2, cosine: float = 0.9, seed: int = 1) -> SplitParams:
    return SplitParams(validation=validation, test=test, cosine=cosine, hash_distance=2, seed=seed)


def manifest_of(hashes: list[int], digests: list[str] | None = None) -> pd.DataFrame:
    """Build a manifest of images with these hashes; by default every image has another content."""
    digests = digests or [f"{number:064x}" for number in range(len(hashes))]
    return pd.DataFrame({"sha256": digests}).assign(**with_hashes(hashes))


def with_hashes(values: Iterable[int]) -> dict[str, list[str]]:
    """Build the hash columns of a manifest, for images that resemble no other when turned by 90 degrees."""
    hashes = [f"{value:016x}" for value in values]
    turned = [blake2b(f"{number} {value}".encode(), digest_size=8).hexdigest() for number, value in enumerate(hashes)]
    return {"phash": hashes, "phash_turned": turned}


def grouping(hashes: list[int], digests: list[str] | None = None, embeddings: np.ndarray | None = None) -> list[int]:
    """Return the group of each image, numbered in order of appearance."""
    embeddings = np.eye(len(hashes)) if embeddings is None else embeddings
    return pd.factorize(group_near_duplicates(manifest_of(hashes, digests), embeddings, settings()))[0].tolist()


def distinct_images(labels: Iterable[str], group: Iterable[int] | None = None) -> pd.DataFrame:
    """Build rows of distinct images of these classes; by default each in its own group."""
    labels = list(labels)
    digests = [f"{number:064x}" for number in range(len(labels))]
    return pd.DataFrame({"label": labels, "group": range(len(labels)) if group is None else group, "sha256": digests})


def random_set(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Build three classes with copies, and near-duplicates by hash and by embedding; also return the embeddings."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 120))
    hashes = rng.integers(0, 2**63, count, dtype=np.uint64)
    embeddings = rng.standard_normal((count, 64))
    rows = pd.DataFrame(
        {"path": [f"{number}.png" for number in range(count)], "label": [*"abc"] * (count // 3) + [*"aaa"][: count % 3]}
    )
    digests = [f"{number:064x}" for number in range(count)]
    for one, other in rng.integers(0, count, (6, 2)):
        digests[one], hashes[one] = digests[other], hashes[other]
    for one, other in rng.integers(0, count, (6, 2)):
        hashes[one] = hashes[other] ^ np.uint64(1 << 7)
    for one, other in rng.integers(0, count, (6, 2)):
        embeddings[one] = embeddings[other] + rng.normal(0, 0.01, 64)
    return rows.assign(sha256=digests, **with_hashes(hashes)), embeddings


@pytest.mark.parametrize("seed", SEEDS)
def test_near_duplicates_are_in_the_same_subset(seed: int) -> None:
    manifest, embeddings = random_set(seed)
    groups = group_near_duplicates(manifest, embeddings, settings())
    rows = manifest.assign(group=groups)
    subsets = assign_subsets(rows, settings(seed=seed))
    rows["subset"] = subsets
    assert (rows.groupby("group")["subset"].nunique() == 1).all()
    assert (rows.groupby("sha256")["subset"].nunique() == 1).all()
    apart = subsets[:, None] != subsets
    values = np.array([int(value, 16) for value in manifest["phash"]], np.uint64)
    assert np.bitwise_count(values[:, None] ^ values)[apart].min() > 2
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert (unit @ unit.T)[apart].max() < 0.9
    assert len(np.unique(groups)) < len(groups) - 6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.3, 0), (0.1, 0.1)])
def test_without_near_duplicates_the_shares_of_every_class_are_exact(shares: tuple, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(["a"] * 20 + ["b"] * 33 + ["c"] * 57)
    rows = distinct_images(labels)
    rows["subset"] = assign_subsets(rows, settings(*shares, seed=seed))
    wanted = {"validation": shares[0], "test": shares[1]}
    for label, members in rows.groupby("label"):
        counts = members["subset"].value_counts()
        for subset, share in wanted.items():
            assert abs(counts.get(subset, 0) - share * len(members)) < 1, (label, subset)


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    rows = distinct_images(["a", "b"] * 30)
    first, again, other = (assign_subsets(rows, settings(seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("removed", [0, 1, 10])
def test_held_out_images_stay_held_out_when_images_are_added_or_removed(removed: int) -> None:
    """Otherwise champion and challenger could not be compared on images that neither was trained on."""
    before = distinct_images(label for label in "abcdefgh" for _ in range(100))
    more = distinct_images("abcdefgh" * 5).assign(sha256=[f"{number:064x}" for number in range(10_000, 10_040)])
    after = pd.concat([more, before.iloc[removed:]], ignore_index=True).assign(group=lambda rows: range(len(rows)))
    subsets = [rows.set_index("sha256").assign(subset=assign_subsets(rows, settings())) for rows in (before, after)]
    common = subsets[0].join(subsets[1], suffixes=("", "_now"), how="inner")
    assert len(common) == 800 - removed
    moved = pd.crosstab(common["subset"], common["subset_now"])
    assert moved.loc["test", "test"] >= 0.9 * moved.loc["test"].sum()
    assert moved.loc["train", "test"] <= 0.02 * moved.loc["train"].sum()


def test_near_duplicates_are_held_out_as_often_as_other_images() -> None:
    """Otherwise the held-out subsets would be easier or harder than the images in use."""
    rows = distinct_images(["a"] * 300, group=[*range(180), *(180 + number // 4 for number in range(120))])
    alike = rows["group"] >= 180
    held_out = [(assign_subsets(rows, settings(seed=seed)) != "train")[alike].mean() for seed in range(40)]
    assert abs(np.mean(held_out) - 0.4) < 0.05


def test_the_order_of_the_images_does_not_change_their_subsets() -> None:
    rows = distinct_images(["a", "b"] * 30, group=[*range(40), *(40 + number // 2 for number in range(20))])
    subsets = rows.assign(subset=assign_subsets(rows, settings())).set_index("sha256")["subset"]
    shuffled = rows.sample(frac=1, random_state=1)
    assert (shuffled["sha256"].map(subsets) == assign_subsets(shuffled, settings())).all()


def test_without_a_test_share_there_are_two_subsets() -> None:
    rows = distinct_images(["a", "b"] * 10)
    assert set(assign_subsets(rows, settings(0.3, 0))) == {"train", "validation"}


def test_copies_and_near_duplicates_by_hash_are_grouped_also_in_chains() -> None:
    assert grouping([0, 0xFF00, 0xFF0000], ["a" * 64, "b" * 64, "a" * 64]) == [0, 1, 0]
    assert grouping([0b0, 0b11, 0b111 << 40]) == [0, 0, 1]
    assert grouping([0b0, 0b11, 0b1111, 0b111111, 0b111 << 40]) == [0, 0, 0, 0, 1]


def test_similar_embeddings_of_any_length_are_grouped_also_in_chains() -> None:
    angles = np.deg2rad([0, 20, 40, 90, 180])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [0.01], [1], [1]]
    hashes = [0b1111 << bits for bits in (0, 8, 16, 24, 36)]
    assert grouping(hashes, embeddings=embeddings) == [0, 0, 0, 1, 2]


def test_flipped_and_turned_copies_are_grouped_with_their_original() -> None:
    scenes = [np.array(sample.draw(label, 7)) for label in sample.CLASSES[:4]]
    scenes[0][: len(scenes[0]) // 2] = 0  # a tile at the edge of a mosaic
    images = [*scenes, *(view(scene, number) for scene, number in zip(scenes, (1, 2, 4, 7), strict=True))]
    hashes = pd.DataFrame([difference_hashes(Image.fromarray(image).convert("L")) for image in images])
    groups = group_near_duplicates(hashes.assign(sha256=range(8)), np.eye(8), settings())
    assert pd.factorize(groups)[0].tolist() == [0, 1, 2, 3] * 2


def test_a_chain_may_link_images_by_hash_embedding_and_content() -> None:
    hashes = [0b1111, 0b11111, 0b1111 << 16, 0b1111 << 32, 0b1111 << 48]
    embeddings = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0.01, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    digests = ["a" * 64, "b" * 64, "c" * 64, "c" * 64, "d" * 64]
    assert grouping(hashes, digests, embeddings) == [0, 0, 0, 0, 1]


def test_embeddings_are_not_compared_if_the_threshold_is_one() -> None:
    same = np.ones((3, 4))
    hashes = [0b1111 << (8 * number) for number in range(3)]
    assert len(set(group_near_duplicates(manifest_of(hashes), same, settings(cosine=1.0)))) == 3
    assert len(set(group_near_duplicates(manifest_of(hashes), same, settings(cosine=0.99)))) == 1


def test_a_zero_embedding_is_similar_to_no_other() -> None:
    assert grouping([0b1111, 0b1111 << 8], embeddings=np.zeros((2, 4))) == [0, 1]


@pytest.mark.parametrize(("images", "test"), [(2, 0.2), (1, 0)])
def test_a_class_with_too_few_images_is_reported_with_the_keys_to_change(images: int, test: float) -> None:
    rows = distinct_images(["a"] * 10 + ["rare"] * images)
    with pytest.raises(LanduseError, match=f"class rare: its {images} images leave none for") as caught:
        assign_subsets(rows, settings(test=test))
    assert "\n" not in str(caught.value)
    assert all(f"split.{key}" in str(caught.value) for key in ("validation", "test", "cosine", "hash_distance"))


def test_a_class_of_near_duplicates_only_is_refused_and_nothing_is_written(trained_copy: Path) -> None:
    manifest = pd.read_parquet(paths.MANIFEST)
    manifest.loc[manifest["label"] == "water", "phash"] = "0" * 16
    manifest.to_parquet(paths.MANIFEST)
    tiny.mark_features_current()
    paths.SPLITS.unlink()
    with pytest.raises(LanduseError, match="class water: its 12 images leave none"):
        split(AS_TRAINED)
    assert not paths.SPLITS.exists()


def test_the_split_has_one_row_per_image_in_the_order_of_the_manifest(trained: Path) -> None:
    rows, manifest = pd.read_csv(paths.SPLITS), pd.read_parquet(paths.MANIFEST)
    assert list(rows.columns) == ["path", "label", "group", "subset"]
    assert rows["path"].tolist() == manifest["path"].tolist() and rows["label"].tolist() == manifest["label"].tolist()
    assert pd.crosstab(rows["label"], rows["subset"]).to_dict("index") == {
        label: {"test": 3, "train": 6, "validation": 3} for label in ("field", "forest", "water")
    }


def test_splitting_again_gives_the_same_file_and_returns_the_counts(trained_copy: Path) -> None:
    before = paths.SPLITS.read_bytes()
    counts = split(AS_TRAINED)
    assert paths.SPLITS.read_bytes() == before and counts.to_dict() == {"train": 18, "validation": 9, "test": 9}


def test_a_split_distorted_by_a_large_group_is_refused_with_the_keys_to_change() -> None:
    rows = distinct_images(["a", "b"] * 50, [*range(20), *[20] * 80])
    with pytest.raises(
        LanduseError, match=r"of the images it should: .*\(up to 80 in one group\); raise split\.cosine"
    ):
        assign_subsets(rows, settings(0.45, 0.45))


def test_classes_too_small_for_the_shares_are_not_reported_as_near_duplicates() -> None:
    with pytest.raises(LanduseError, match=r"would hold 167% .*: the classes are too small .*change split\.validation"):
        assign_subsets(distinct_images(["a", "b"] * 3), settings())
