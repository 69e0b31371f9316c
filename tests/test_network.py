"""The network: its published size, the cut, what is trained, and refused weights."""

import os
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import TINY, pixels, tiny_network

from landuse.core.errors import LanduseError
from landuse.ml.classifier import LiteModel
from landuse.ml.diagnostics import block_name, multiply_adds, weights_digest
from landuse.ml.images import view
from landuse.ml.litert import to_litert
from landuse.ml.network import (
    block_input,
    build_backbone,
    build_network,
    embedder,
    frozen_prefix,
    pooled_suffix,
    scaled_input,
    unfreeze,
)
from landuse.params import ExtractParams
from landuse.params.backbones import BACKBONES

ROOT = Path(__file__).parents[1]
PUBLISHED = [992, 992, 5568, 9456, 10640, 15680, 15680, 21952, 55936, 55936, 55936, 68352]
PUBLISHED += [120768, 120768, 157888, 324160, 324160, 478400, 414720]


def tail(network: keras.Model, cut: str) -> keras.Model:
    """Return everything after the cut as one network."""
    embed = embedder(network, cut)
    return keras.Model(embed.input, network.get_layer("head")(embed.output))


def parameters_by_block(backbone: keras.Model) -> dict[str, int]:
    """Count the parameters of each block in order, including BatchNorm statistics."""
    counts: dict[str, int] = {}
    for layer in backbone.layers:
        if layer.count_params():
            block = block_name(layer)
            counts[block] = counts.get(block, 0) + layer.count_params()
    return counts


def test_the_network_matches_the_published_one_block_by_block() -> None:
    backbone = build_backbone(replace(TINY, alpha=1.0))
    assert list(parameters_by_block(backbone).values()) == PUBLISHED
    network = build_network(backbone, classes=21)
    unfreeze(network, "head")
    assert network.count_params() == 2_284_885
    assert sum(int(np.prod(weight.shape)) for weight in network.trainable_weights) == 26_901


def documented_parameters(title: str) -> list[int]:
    """Return the parameters of the blocks that a table of the documentation lists, in order, and of the whole."""
    text = (ROOT / "docs" / "explanation" / "mobilenet-measured.md").read_text("utf-8")
    rows = text.partition(f"| {title} | output | parameters |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    return [
        int(count.removesuffix(" each").replace(",", ""))
        for names, _, count in cells
        for _ in range(names.count("`,") + 1)
    ]


@pytest.mark.parametrize(("title", "backbone"), [("MobileNetV2", "mobilenet_v2"), ("MobileNet", "mobilenet")])
def test_the_parameters_in_the_documentation_are_those_of_the_network(title: str, backbone: str) -> None:
    network = build_network(build_backbone(replace(TINY, backbone=backbone, alpha=1.0)), classes=21)
    counts = list(parameters_by_block(network.get_layer(backbone)).values())
    if backbone == "mobilenet":  # a block is a depthwise and a pointwise convolution
        counts = [counts[0], *(sum(pair) for pair in zip(counts[1::2], counts[2::2], strict=True))]
    head = network.get_layer("head").count_params()
    assert documented_parameters(title) == [*counts, head, network.count_params()]


@pytest.mark.parametrize(("backbone", "published"), [("mobilenet_v2", 300e6), ("mobilenet", 569e6)])
def test_multiply_adds_are_those_published_for_a_thousand_classes(backbone: str, published: float) -> None:
    network = build_network(build_backbone(replace(TINY, backbone=backbone, alpha=1.0, image_size=224)), classes=1000)
    counted = multiply_adds(network, views=1)
    assert counted == pytest.approx(published, rel=0.01)
    assert multiply_adds(network, views=4) == pytest.approx(4 * counted, rel=0.02), "the head runs once"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_parameters_of_all_blocks_add_up_to_the_backbone(backbone: str) -> None:
    network = tiny_network(backbone).get_layer(backbone)
    counts = parameters_by_block(network)
    assert sum(counts.values()) == network.count_params() and len(counts) > BACKBONES[backbone].blocks


def test_pixels_are_scaled_inside_the_model_to_the_range_of_mobilenets() -> None:
    backbone = build_backbone(TINY)
    scaled = keras.Model(*scaled_input(backbone))(np.stack([np.full((32, 32, 3), v, np.uint8) for v in (0, 255)]))
    assert np.allclose(np.asarray(scaled)[:, 0, 0, 0], [-1, 1])


@pytest.mark.parametrize(
    ("backbone", "cut"),
    [("mobilenet_v2", cut) for cut in ("head", "block_1", "block_3", "block_8", "block_14", "block_16")]
    + [("mobilenet", cut) for cut in ("head", "block_1", "block_2", "block_7", "block_13")]
    + [("mobilenet_v3_small", "block_10"), ("mobilenet_v3_large", "block_14"), ("efficientnetv2-b0", "block_20")],
)
def test_the_parts_before_and_after_the_cut_make_up_the_whole_network(backbone: str, cut: str) -> None:
    network, images = tiny_network(backbone), pixels(2)
    before = frozen_prefix(network.get_layer(backbone), cut)(images)
    whole = np.asarray(network(images))
    assert np.abs(np.asarray(tail(network, cut)(before)) - whole).max() < 1e-6
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    if cut != "head":
        pooled = frozen_prefix(network.get_layer(backbone), "head")(images)
        suffix = pooled_suffix(network.get_layer(backbone), cut)
        assert np.allclose(suffix(before), pooled, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_network_can_be_cut_at_every_block_that_params_allow(backbone: str) -> None:
    network, blocks = tiny_network(backbone).get_layer(backbone), BACKBONES[backbone].blocks
    inputs = [block_input(network, f"block_{number}") for number in range(1, blocks + 1)]
    assert len({id(tensor) for tensor in inputs}) == blocks
    halves = [keras.Model(network.input, tensor) for tensor in inputs]  # fails where a shortcut crosses the cut
    assert all(keras.Model(tensor, network.output) for tensor in inputs) and len(halves) == blocks


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_table_of_backbones_is_that_of_keras(backbone: str) -> None:
    network, spec = tiny_network(backbone).get_layer(backbone), BACKBONES[backbone]
    depthwise = [layer for layer in network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert len(depthwise) == spec.depthwise
    others = [other.depthwise for name, other in BACKBONES.items() if name != backbone]
    assert spec.depthwise not in others, "or the weights of the two could not be told apart"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pixels_are_scaled_as_keras_scales_them_for_its_imagenet_weights(backbone: str) -> None:
    own = np.asarray(keras.Model(*scaled_input(tiny_network(backbone).get_layer(backbone)))(pixels(2)))
    if BACKBONES[backbone].has_preprocessing:
        constructor = getattr(keras.applications, BACKBONES[backbone].constructor)
        built = constructor(input_shape=(32, 32, 3), include_top=False, weights=None, include_preprocessing=True)
        scalings = (keras.layers.Rescaling, keras.layers.Normalization)
        last = [layer for layer in built.layers if isinstance(layer, scalings)][-1]
        keras_scaled = keras.Model(built.input, last.output)(pixels(2).astype(np.float32))
    else:
        keras_scaled = getattr(keras.applications, backbone).preprocess_input(pixels(2).astype(np.float32))
    assert np.allclose(own, keras_scaled, atol=1e-5)


def test_when_everything_is_trained_the_tail_begins_at_the_pixels() -> None:
    network, images = tiny_network("mobilenet_v2"), pixels(2)
    assert np.array_equal(tail(network, "all")(images), network(images))


def fitted(cut: str) -> tuple[keras.Model, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Train a network at a cut for two steps. Returns it with all weights before and after."""
    network = keras.models.clone_model(tiny_network("mobilenet_v2"))
    network.set_weights(tiny_network("mobilenet_v2").get_weights())
    unfreeze(network, cut)
    inputs = pixels(8) if cut == "all" else frozen_prefix(network.get_layer("mobilenet_v2"), cut)(pixels(8))
    before = {weight.path: np.array(weight) for weight in network.weights}
    trained = tail(network, cut)
    trained.compile(keras.optimizers.AdamW(0.01), "categorical_crossentropy", jit_compile=False)
    trained.fit(np.asarray(inputs), np.eye(3)[np.arange(8) % 3], batch_size=4, epochs=1, verbose=0)
    return network, before, {weight.path: np.array(weight) for weight in network.weights}


def is_norm(path: str) -> bool:
    return "_BN/" in path or "bn_" in path


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {path for path in before if not np.array_equal(before[path], after[path])}


@pytest.mark.parametrize(("cut", "weights"), [("head", 2), ("block_16", 22)])
def test_fine_tuning_trains_everything_after_the_cut_and_nothing_before(cut: str, weights: int) -> None:
    _, before, after = fitted(cut)
    layers = ("head",) if cut == "head" else ("head", "block_16", "Conv_1")
    assert changed(before, after) == {path for path in before if any(name in path for name in layers)}
    assert len(changed(before, after)) == weights


@pytest.mark.slow
def test_unfrozen_batchnorm_is_trained_and_updates_its_statistics() -> None:
    _, before, after = fitted("block_16")
    moved = {path.rpartition("/")[2] for path in changed(before, after) if is_norm(path)}
    assert moved == {"gamma", "beta", "moving_mean", "moving_variance"}


def test_batchnorm_before_the_cut_runs_in_inference_mode_even_while_training() -> None:
    network = keras.models.clone_model(tiny_network("mobilenet_v2"))
    backbone, images = network.get_layer("mobilenet_v2"), pixels(4) / 127.5 - 1
    unfreeze(network, "head")
    assert np.array_equal(backbone(images, training=True), backbone(images, training=False))
    unfreeze(network, "all")
    assert not np.allclose(backbone(images, training=True), backbone(images, training=False))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the weights of the small network."""
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    tiny_network("mobilenet_v2").get_layer("mobilenet_v2").save_weights(path)
    return path


def test_weights_are_loaded_from_an_absolute_path_or_from_the_weights_folder(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = weights_digest(tiny_network("mobilenet_v2").get_layer("mobilenet_v2"))
    assert weights_digest(build_backbone(replace(TINY, weights=str(weights)))) == saved
    (weights.parent / "weights").mkdir()
    os.link(weights, weights.parent / "weights" / "mine.weights.h5")
    monkeypatch.chdir(weights.parent)
    assert weights_digest(build_backbone(replace(TINY, weights="mine.weights.h5"))) == saved


def refusal(params: ExtractParams) -> str:
    """Return the one-line message with which a backbone is refused."""
    with pytest.raises(LanduseError) as caught:
        build_backbone(params)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"extract.weights = {params.weights}: ")
    return message


def test_weights_of_another_width_are_refused(weights: Path) -> None:
    message = refusal(replace(TINY, weights=str(weights), alpha=0.5))
    assert "does not fit mobilenet_v2 with extract.alpha = 0.5; change one of the two" in message


@pytest.mark.parametrize("wanted", BACKBONES)
@pytest.mark.parametrize("given", BACKBONES)
def test_weights_of_another_backbone_are_refused_and_both_are_named(wanted: str, given: str, tmp_path: Path) -> None:
    file = tmp_path / "given.weights.h5"
    tiny_network(given).get_layer(given).save_weights(file)
    params = replace(TINY, backbone=wanted, alpha=0.35, weights=str(file))
    if wanted == given:
        assert weights_digest(build_backbone(params)) == weights_digest(tiny_network(given).get_layer(given))
    else:
        assert f"holds weights of {given}, and extract.backbone = {wanted}; change one of the two" in refusal(params)


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rubbish.weights.h5").write_bytes(b"rubbish")
    assert "does not fit" in refusal(replace(TINY, weights=str(tmp_path / "rubbish.weights.h5")))


def test_missing_weights_are_refused_with_the_places_where_they_may_be() -> None:
    message = refusal(replace(TINY, weights="mine.weights.h5"))
    assert "weights/mine.weights.h5 does not exist; name a file in weights/, an absolute path, or none" in message


def test_imagenet_weights_that_cannot_be_downloaded_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras.src.applications import mobilenet_v2
    from keras.src.backend import config

    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", "http://127.0.0.1:1/")
    assert "cannot be downloaded; go online once" in refusal(replace(TINY, image_size=96, weights="imagenet"))


def test_a_width_that_keras_does_not_publish_is_refused() -> None:
    assert "use a width and size Keras publishes" in refusal(replace(TINY, alpha=0.6, weights="imagenet"))


@pytest.mark.slow
def test_a_network_with_several_views_averages_their_embeddings() -> None:
    backbone = tiny_network("mobilenet_v2").get_layer("mobilenet_v2")
    one, eight = (build_network(backbone, 3, views) for views in (1, 8))
    eight.set_weights(one.get_weights())
    images = np.random.default_rng(3).integers(0, 256, (2, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    pooled = keras.Model(one.input, one.get_layer("head").input)
    embeddings = [pooled.predict(np.stack([view(image, number) for image in images]), verbose=0) for number in range(8)]
    assert np.abs(embeddings[0] - embeddings[3]).max() > 1e-3, "the views have different embeddings"
    kernel, bias = one.get_layer("head").get_weights()
    expected = np.asarray(keras.ops.softmax(np.mean(embeddings, axis=0) @ kernel + bias))
    assert np.allclose(eight.predict(images, verbose=0), expected, atol=1e-5)
    assert np.allclose(LiteModel(to_litert(eight))(images[1]), expected[1], atol=1e-4)
