"""The cached features: one row per image, equal to the output of Keras."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from networks import pretend_gpu

from landuse import extract as extract_module
from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MANIFEST
from landuse.ml import features
from landuse.ml.images import read_image, view
from landuse.ml.network import build_backbone, frozen_prefix
from landuse.params import ExtractParams, load_params


def saved_backbone() -> keras.Model:
    """Build the backbone with the weights saved with the features."""
    params = ExtractParams(**features.metadata()["params"] | {"weights": str(features.BACKBONE.resolve())})
    return build_backbone(params)


def images() -> np.ndarray:
    """Read all images of the manifest, [n, size, size, 3]."""
    size = load_params().extract.image_size
    return np.stack([read_image(DATA / path, size) for path in pd.read_parquet(MANIFEST)["path"]])


def outputs(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(network.predict(pixels, verbose=0))


def test_embeddings_and_activations_of_every_view_equal_the_output_of_keras(trained: Path) -> None:
    pixels, before = images(), frozen_prefix(saved_backbone(), "head")
    activations = features.activations()[:]
    assert activations.shape == (36, 8, 1280) and activations.dtype == np.float32
    assert np.abs(features.embeddings()[:] - outputs(before, pixels)).max() < 1e-3
    for number in range(8):
        turned = np.stack([view(image, number) for image in pixels])
        assert np.abs(activations[:, number] - outputs(before, turned)).max() < 1e-3
    assert np.abs(activations[:, 0] - activations[:, 3]).max() > 1e-3


def test_activations_at_a_block_and_its_embeddings_equal_the_output_of_keras(
    fine_tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fine_tuned)
    pixels, backbone = images(), saved_backbone()
    activations, before = features.activations()[:], frozen_prefix(backbone, "block_16")
    assert activations.shape == (36, 2, *before.output_shape[1:]) and activations.dtype == np.float16
    for number in range(2):
        expected = outputs(before, np.stack([view(image, number) for image in pixels]))
        assert np.allclose(activations[:, number], expected, rtol=1e-3, atol=1e-3)  # float16 has three digits
    assert np.abs(features.embeddings()[:] - outputs(frozen_prefix(backbone, "head"), pixels)).max() < 1e-3


def test_a_weights_file_gives_the_same_backbone_and_embeddings(
    finished: Path, fine_tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    first, embeddings = features.metadata(), features.embeddings()[:]
    monkeypatch.chdir(fine_tuned)
    assert features.metadata()["weights_sha256"] == first["weights_sha256"]
    assert features.metadata()["cut"] == "block_16" and first["cut"] == "head"
    assert np.allclose(features.embeddings()[:], embeddings, atol=1e-3)


@pytest.mark.slow
def test_end_to_end_training_caches_only_pooled_activations(trained_copy: Path) -> None:
    embeddings = features.embeddings()[:]
    extract_module.extract(load_params().extract, "all")
    assert features.activations()[:].shape == (36, 1, 1280)
    assert np.array_equal(features.embeddings()[:], embeddings)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["head", "block_16"])
def test_the_gpu_code_path_gives_the_same_features(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    params = replace(load_params().extract, views=2)
    extract_module.extract(params, cut)
    embeddings, activations = features.embeddings()[:], features.activations()[:]
    pretend_gpu(monkeypatch)
    extract_module.extract(params, cut)
    assert features.activations()[:].shape == activations.shape and features.activations()[:].dtype == activations.dtype
    assert np.allclose(features.embeddings()[:], embeddings, atol=1e-3)
    assert np.allclose(features.activations()[:], activations, rtol=2e-3, atol=2e-3)


def test_a_disk_that_is_too_small_is_reported_before_extraction(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(LanduseError) as caught:
        extract_module.extract(load_params().extract, "head")
    assert "0.0 GB are needed" in str(caught.value) and "36 new images × 8 views × 5,120 bytes" in str(caught.value)
    assert "extract.views" in str(caught.value) and not features.METADATA.exists()
    extract_module.refuse_small_disk(36, 8, (1280,), free=3_000_000)


def test_features_of_an_interrupted_extraction_are_not_used(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "write_shards", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract_module.extract(load_params().extract, "head")
    with pytest.raises(LanduseError, match="features.json is not here"):
        features.metadata()
