"""The features as arrays by image, of which shards hold the rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landuse.core.errors import LanduseError
from landuse.core.paths import FEATURES, MANIFEST
from landuse.ml import features
from landuse.ml.shards import read_shards


def test_a_slice_and_a_list_of_images_give_the_rows_of_their_contents(trained: Path) -> None:
    embeddings, (shard,) = features.embeddings(), read_shards(FEATURES)
    rows = [shard.contents.index(content) for content in pd.read_parquet(MANIFEST)["sha256"]]
    stored = np.load(shard.files["embeddings"])[rows]
    assert len(embeddings) == 36 and embeddings.shape == stored.shape and embeddings.dtype == np.float32
    assert np.array_equal(embeddings[:], stored) and np.array_equal(embeddings[5:9], stored[5:9])
    assert np.array_equal(embeddings[np.array([7, 0, 7])], stored[[7, 0, 7]])


def test_one_view_of_each_image_is_read_from_the_activations(trained: Path) -> None:
    activations, images, views = features.activations(), np.array([3, 0, 3]), np.array([7, 0, 1])
    assert np.array_equal(activations.of_views(images, views), activations[:][images, views])


def test_images_with_the_same_content_share_a_row(trained_copy: Path) -> None:
    manifest, before = pd.read_parquet(MANIFEST), features.embeddings()[:]
    pd.concat([manifest, manifest.iloc[[4]]]).to_parquet(MANIFEST)
    assert np.array_equal(features.embeddings()[:], before[[*range(36), 4]])


def test_an_image_without_features_is_an_error_that_says_how_to_make_them(trained_copy: Path) -> None:
    manifest = pd.read_parquet(MANIFEST)
    manifest.loc[2, "sha256"] = "0" * 64
    manifest.to_parquet(MANIFEST)
    with pytest.raises(LanduseError, match="artifacts/features lacks images that .* lists: dvc repro makes it again"):
        features.embeddings()


@pytest.mark.parametrize("kept", [0, 100, -3])
@pytest.mark.parametrize("folder", ["index", "embeddings", "activations"])
def test_a_truncated_file_is_an_error_that_names_it(trained_copy: Path, folder: str, kept: int) -> None:
    (path,) = (FEATURES / folder).iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LanduseError, match=f"{path} is damaged: dvc repro makes it again"):
        (features.activations if folder == "activations" else features.embeddings)()


def test_the_metadata_record_how_the_features_were_made(trained: Path) -> None:
    metadata = features.metadata()
    assert metadata["params"]["alpha"] == 0.35 and metadata["cut"] == "head" and len(metadata["weights_sha256"]) == 64
    assert metadata["origin"]["device"] == "CPU" and metadata["origin"]["keras"]
