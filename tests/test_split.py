"""Subsets that are fair to every class and share nothing that looks alike."""

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
from landuse.split import assign_subsets, group_lookalikes, near_embedding, near_hash, split

SEEDS = range(12)
AS_TRAINED = SplitParams(**tiny.CHANGES["split"])


def settings(validation: float = 0.2, test: float = 0.2, cosine: float = 0.9, seed: int = 1) -> SplitParams:
    return SplitParams(validation=validation, test=test, cosine=cosine, hash_distance=2, seed=seed)


def manifest_of(hashes: list[int], digests: list[str] | None = None) -> pd.DataFrame:
    """Images of one class with these hashes, and contents that all differ where none are given."""
    digests = digests or [f"{number:064x}" for number in range(len(hashes))]
    return pd.DataFrame({"sha256": digests}).assign(**with_hashes(hashes))


def with_hashes(values: Iterable[int]) -> dict[str, list[str]]:
    """The columns of a manifest, for images that are like no other when they are turned by a quarter."""
    hashes = [f"{value:016x}" for value in values]
    turned = [blake2b(f"{number} {value}".encode(), digest_size=8).hexdigest() for number, value in enumerate(hashes)]
    return {"phash": hashes, "phash_turned": turned}


def grouping(hashes: list[int], digests: list[str] | None = None, embeddings: np.ndarray | None = None) -> list[int]:
    """The group of each image, numbered as they come."""
    embeddings = np.eye(len(hashes)) if embeddings is None else embeddings
    return pd.factorize(group_lookalikes(manifest_of(hashes, digests), embeddings, settings()))[0].tolist()


def unlike(labels: Iterable[str], group: Iterable[int] | None = None) -> pd.DataFrame:
    """Images of these classes, each a group of its own where none are given, and each another content."""
    labels = list(labels)
    digests = [f"{number:064x}" for number in range(len(labels))]
    return pd.DataFrame({"label": labels, "group": range(len(labels)) if group is None else group, "sha256": digests})


def random_set(seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Three classes with copies, images whose hashes nearly agree, and images whose embeddings do."""
    random = np.random.default_rng(seed)
    count = int(random.integers(60, 120))
    hashes = random.integers(0, 2**63, count, dtype=np.uint64)
    embeddings = random.standard_normal((count, 64))
    rows = pd.DataFrame(
        {"path": [f"{number}.png" for number in range(count)], "label": [*"abc"] * (count // 3) + [*"aaa"][: count % 3]}
    )
    digests = [f"{number:064x}" for number in range(count)]
    for one, other in random.integers(0, count, (6, 2)):
        digests[one], hashes[one] = digests[other], hashes[other]
    for one, other in random.integers(0, count, (6, 2)):
        hashes[one] = hashes[other] ^ np.uint64(1 << 7)
    for one, other in random.integers(0, count, (6, 2)):
        embeddings[one] = embeddings[other] + random.normal(0, 0.01, 64)
    return rows.assign(sha256=digests, **with_hashes(hashes)), embeddings


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_looks_alike_is_in_two_subsets(seed: int) -> None:
    manifest, embeddings = random_set(seed)
    groups = group_lookalikes(manifest, embeddings, settings())
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
def test_where_no_image_looks_like_another_every_class_gives_its_share_to_the_image(shares: tuple, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(["a"] * 20 + ["b"] * 33 + ["c"] * 57)
    rows = unlike(labels)
    rows["subset"] = assign_subsets(rows, settings(*shares, seed=seed))
    wanted = {"validation": shares[0], "test": shares[1]}
    for label, own in rows.groupby("label"):
        counts = own["subset"].value_counts()
        for subset, share in wanted.items():
            assert abs(counts.get(subset, 0) - share * len(own)) < 1, (label, subset)


def test_the_same_seed_divides_alike_and_another_differently() -> None:
    rows = unlike(["a", "b"] * 30)
    first, again, other = (assign_subsets(rows, settings(seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("gone", [0, 1, 10])
def test_held_out_images_stay_held_out_when_images_come_and_go(gone: int) -> None:
    """Or a champion could not be compared with what was trained on more: it has seen the images of everybody's test."""
    before = unlike(label for label in "abcdefgh" for _ in range(100))
    more = unlike("abcdefgh" * 5).assign(sha256=[f"{number:064x}" for number in range(10_000, 10_040)])
    after = pd.concat([more, before.iloc[gone:]], ignore_index=True).assign(group=lambda rows: range(len(rows)))
    subsets = [rows.set_index("sha256").assign(subset=assign_subsets(rows, settings())) for rows in (before, after)]
    both = subsets[0].join(subsets[1], suffixes=("", "_now"), how="inner")
    assert len(both) == 800 - gone
    moved = pd.crosstab(both["subset"], both["subset_now"])
    assert moved.loc["test", "test"] >= 0.9 * moved.loc["test"].sum()
    assert moved.loc["train", "test"] <= 0.02 * moved.loc["train"].sum()


def test_images_that_look_alike_are_held_out_as_often_as_others() -> None:
    """Or the held-out subsets are easier or harder than what the model will meet."""
    rows = unlike(["a"] * 300, group=[*range(180), *(180 + number // 4 for number in range(120))])
    alike = rows["group"] >= 180
    held_out = [(assign_subsets(rows, settings(seed=seed)) != "train")[alike].mean() for seed in range(40)]
    assert abs(np.mean(held_out) - 0.4) < 0.05


def test_without_a_test_share_there_are_two_subsets() -> None:
    rows = unlike(["a", "b"] * 10)
    assert set(assign_subsets(rows, settings(0.3, 0))) == {"train", "validation"}


def test_copies_and_near_hashes_are_grouped_and_chains_of_them_too() -> None:
    assert grouping([0, 0xFF00, 0xFF0000], ["a" * 64, "b" * 64, "a" * 64]) == [0, 1, 0]
    assert grouping([0b0, 0b11, 0b111 << 40]) == [0, 0, 1]
    assert grouping([0b0, 0b11, 0b1111, 0b111111, 0b111 << 40]) == [0, 0, 0, 0, 1]


def test_near_embeddings_are_grouped_and_chains_of_them_too_whatever_their_length() -> None:
    angles = np.deg2rad([0, 20, 40, 90, 180])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [5], [0.01], [1], [1]]
    hashes = [0b1111 << bits for bits in (0, 8, 16, 24, 36)]
    assert grouping(hashes, embeddings=embeddings) == [0, 0, 0, 1, 2]


def test_what_was_turned_or_mirrored_is_grouped_with_the_image_it_was_made_of() -> None:
    scenes = [np.array(sample.draw(label, 7)) for label in sample.CLASSES[:4]]
    scenes[0][: len(scenes[0]) // 2] = 0  # a tile on the edge of a mosaic
    images = [*scenes, *(view(scene, number) for scene, number in zip(scenes, (1, 2, 4, 7), strict=True))]
    hashes = pd.DataFrame([difference_hashes(Image.fromarray(image).convert("L")) for image in images])
    groups = group_lookalikes(hashes.assign(sha256=range(8)), np.eye(8), settings())
    assert pd.factorize(groups)[0].tolist() == [0, 1, 2, 3] * 2


def test_a_chain_may_go_through_hash_embedding_and_content() -> None:
    hashes = [0b1111, 0b11111, 0b1111 << 16, 0b1111 << 32, 0b1111 << 48]
    embeddings = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0.01, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    digests = ["a" * 64, "b" * 64, "c" * 64, "c" * 64, "d" * 64]
    assert grouping(hashes, digests, embeddings) == [0, 0, 0, 0, 1]


def test_embeddings_are_not_compared_where_the_threshold_is_one() -> None:
    same = np.ones((3, 4))
    hashes = [0b1111 << (8 * number) for number in range(3)]
    assert len(set(group_lookalikes(manifest_of(hashes), same, settings(cosine=1.0)))) == 3
    assert len(set(group_lookalikes(manifest_of(hashes), same, settings(cosine=0.99)))) == 1


def test_an_embedding_of_zeros_is_like_no_other() -> None:
    assert grouping([0b1111, 0b1111 << 8], embeddings=np.zeros((2, 4))) == [0, 1]


def test_more_images_than_are_compared_at_once_are_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(np.random.default_rng(1).integers(0, 2**10, 50).tolist())
    whole = set(map(tuple, near_hash(manifest, 2).T))
    monkeypatch.setattr("landuse.split.TABLE", 7 * 50)
    assert set(map(tuple, near_hash(manifest, 2).T)) == whole and len(whole) > 50


@pytest.mark.parametrize(("images", "test"), [(2, 0.2), (1, 0)])
def test_a_class_with_too_few_images_is_named_with_the_keys_to_change(images: int, test: float) -> None:
    rows = unlike(["a"] * 10 + ["rare"] * images)
    with pytest.raises(LanduseError, match=f"class rare: its {images} images leave none for") as caught:
        assign_subsets(rows, settings(test=test))
    assert "\n" not in str(caught.value)
    assert all(f"split.{key}" in str(caught.value) for key in ("validation", "test", "cosine", "hash_distance"))


def test_a_class_whose_images_all_look_alike_is_refused_and_no_list_is_written(trained_copy: Path) -> None:
    manifest = pd.read_parquet(paths.MANIFEST)
    manifest.loc[manifest["label"] == "water", "phash"] = "0" * 16
    manifest.to_parquet(paths.MANIFEST)
    tiny.take_for_extracted()
    paths.SPLITS.unlink()
    with pytest.raises(LanduseError, match="class water: its 12 images leave none"):
        split(AS_TRAINED)
    assert not paths.SPLITS.exists()


def test_the_list_has_one_row_per_image_in_the_order_of_the_manifest(trained: Path) -> None:
    rows, manifest = pd.read_csv(paths.SPLITS), pd.read_parquet(paths.MANIFEST)
    assert list(rows.columns) == ["path", "label", "group", "subset"]
    assert rows["path"].tolist() == manifest["path"].tolist() and rows["label"].tolist() == manifest["label"].tolist()
    assert pd.crosstab(rows["label"], rows["subset"]).to_dict("index") == {
        label: {"test": 3, "train": 6, "validation": 3} for label in ("field", "forest", "water")
    }


def test_splitting_again_writes_the_same_bytes_and_says_how_many_images_went_where(trained_copy: Path) -> None:
    before = paths.SPLITS.read_bytes()
    counts = split(AS_TRAINED)
    assert paths.SPLITS.read_bytes() == before and counts.to_dict() == {"train": 18, "validation": 9, "test": 9}


def test_a_division_that_lookalikes_have_bent_out_of_shape_is_refused_with_the_keys_to_change() -> None:
    rows = unlike(["a", "b"] * 50, [*range(20), *[20] * 80])
    with pytest.raises(
        LanduseError, match=r"of the images it should: .*\(up to 80 in one group\); raise split\.cosine"
    ):
        assign_subsets(rows, settings(0.45, 0.45))


def test_classes_too_small_for_the_shares_are_not_said_to_look_alike() -> None:
    with pytest.raises(LanduseError, match=r"would hold 167% .*: the classes are too small .*change split\.validation"):
        assign_subsets(unlike(["a", "b"] * 3), settings())


@pytest.mark.parametrize("cosine", [0.5, 0.9, 0.97, 0.9999])
@pytest.mark.parametrize(("images", "channels"), [(1, 8), (50, 64), (400, 200)])
def test_projections_hide_no_pair_of_alike_embeddings(
    monkeypatch: pytest.MonkeyPatch, images: int, channels: int, cosine: float
) -> None:
    monkeypatch.setattr("landuse.split.ROWS_AT_ONCE", 100)
    monkeypatch.setattr("landuse.split.TABLE", 30_000)
    random = np.random.default_rng(images)
    embeddings = random.standard_normal((images, channels)).astype(np.float32) ** 2
    noise = 10.0 ** random.uniform(-4, 1, (images, 1))
    embeddings = embeddings[random.integers(0, max(images // 3, 1), images)] + noise * embeddings
    embeddings[0] = 0
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    first, second = np.triu_indices(images)
    similarity = np.einsum("ij,ij->i", unit[first], unit[second])
    found = set(map(tuple, near_embedding(embeddings, cosine).T.tolist()))
    sure = similarity > cosine + 1e-6
    assert found >= set(zip(first[sure].tolist(), second[sure].tolist(), strict=True))
    clear = similarity < cosine - 1e-6
    assert not found & set(zip(first[clear].tolist(), second[clear].tolist(), strict=True))
    assert images == 1 or (sure.sum() > images / 2 and clear.sum() > images / 2)
