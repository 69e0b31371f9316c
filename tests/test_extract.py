"""What the frozen part of the network saw: one row per image, the same as Keras sees."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from landuse import extract as room
from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MANIFEST
from landuse.ml import features, network
from landuse.ml.images import READ_AHEAD, read_image, view
from landuse.ml.network import build_backbone, prefix
from landuse.params import ExtractParams, load_params


def backbone_used() -> keras.Model:
    """The backbone whose weights lie beside the features."""
    used = ExtractParams(**features.facts()["params"] | {"weights": str(features.BACKBONE.resolve())})
    return build_backbone(used)


def images() -> np.ndarray:
    """All images of the manifest, [n, size, size, 3]."""
    size = load_params().extract.image_size
    return np.stack([read_image(DATA / path, size) for path in pd.read_parquet(MANIFEST)["path"]])


def seen(network: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(network.predict(pixels, verbose=0))


def test_embeddings_and_every_view_are_what_keras_sees(trained: Path) -> None:
    pixels, before = images(), prefix(backbone_used(), "head")
    activations = features.activations()
    assert activations.shape == (36, 8, 1280) and activations.dtype == np.float32
    assert np.abs(features.embeddings() - seen(before, pixels)).max() < 1e-3
    for number in range(8):
        turned = np.stack([view(image, number) for image in pixels])
        assert np.abs(activations[:, number] - seen(before, turned)).max() < 1e-3
    assert np.abs(activations[:, 0] - activations[:, 3]).max() > 1e-3


def test_activations_at_a_block_and_the_embeddings_beyond_it_are_what_keras_sees(
    fine_tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fine_tuned)
    pixels, backbone = images(), backbone_used()
    activations, before = features.activations(), prefix(backbone, "block_16")
    assert activations.shape == (36, 2, *before.output_shape[1:]) and activations.dtype == np.float16
    for number in range(2):
        expected = seen(before, np.stack([view(image, number) for image in pixels]))
        assert np.allclose(activations[:, number], expected, rtol=1e-3, atol=1e-3)  # float16 keeps three digits
    assert np.abs(features.embeddings() - seen(prefix(backbone, "head"), pixels)).max() < 1e-3


def test_the_backbone_of_weights_from_a_file_is_that_of_the_file(finished: Path, fine_tuned: Path, monkeypatch) -> None:
    monkeypatch.chdir(finished)
    first, embeddings = features.facts(), features.embeddings()
    monkeypatch.chdir(fine_tuned)
    assert features.facts()["weights_sha256"] == first["weights_sha256"]
    assert features.facts()["cut"] == "block_16" and first["cut"] == "head"
    assert np.allclose(features.embeddings(), embeddings, atol=1e-3)


@pytest.mark.slow
def test_where_all_is_trained_from_images_only_the_embeddings_are_worth_a_look(trained_copy: Path) -> None:
    embeddings = np.array(features.embeddings())
    room.extract(load_params().extract, "all")
    assert features.activations().shape == (36, 1, 1280)
    assert np.array_equal(features.embeddings(), embeddings)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["head", "block_16"])
def test_what_is_done_on_a_gpu_sees_the_same(trained_copy: Path, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    params = replace(load_params().extract, views=2)
    room.extract(params, cut)
    embeddings, activations = np.array(features.embeddings()), np.array(features.activations())
    monkeypatch.setattr(network, "device", lambda: "GPU")
    room.extract(params, cut)
    assert features.activations().shape == activations.shape and features.activations().dtype == activations.dtype
    assert np.allclose(features.embeddings(), embeddings, atol=1e-3)
    assert np.allclose(features.activations(), activations, rtol=2e-3, atol=2e-3)


def test_a_disk_that_is_too_small_is_named_before_anything_is_computed(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(LanduseError) as caught:
        room.extract(load_params().extract, "head")
    assert "0.0 GB are needed" in str(caught.value) and "36 images × 8 views × 5,120 bytes" in str(caught.value)
    assert "extract.views" in str(caught.value) and not features.FACTS.exists()
    room.refuse_small_disk(36, 8, (1280,), free=3_000_000)


def test_an_extraction_that_is_stopped_half_way_leaves_nothing_that_would_be_used(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "write_looks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        room.extract(load_params().extract, "head")
    with pytest.raises(LanduseError, match="features.json is not here"):
        features.facts()


def test_rows_are_on_disk_before_the_last_image_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "EMBEDDINGS", tmp_path / "embeddings.npy")
    monkeypatch.setattr(room, "ACTIVATIONS", tmp_path / "activations.npy")
    rows, kilobytes, counter = 300, 64, SimpleNamespace(read=0, behind=0)

    def paths() -> Iterator[int]:
        for number in range(rows):
            counter.read += 1
            written = (tmp_path / "activations.npy").stat().st_size // (1024 * kilobytes)
            counter.behind = max(counter.behind, counter.read - written)
            yield number

    def look(number: int) -> tuple[np.ndarray, np.ndarray]:
        return np.float32([number]), np.full((1, 1024 * kilobytes // 4), number, np.float32)

    room.write_looks(room.map_ahead(look, paths()), rows)
    assert np.load(tmp_path / "embeddings.npy").ravel().tolist() == list(range(rows))
    assert np.load(tmp_path / "activations.npy", mmap_mode="r")[:, 0, -1].tolist() == list(range(rows))
    assert counter.behind <= READ_AHEAD + 3
