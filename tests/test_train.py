"""Training: what is trained, that it is reproducible to the byte, and that bad trainings are reported."""

import json
import zipfile
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import rmtree

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tiny
from networks import pretend_gpu

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, FEATURES, HISTORY, MANIFEST, MODEL, RUN, SPLITS
from landuse.ml import features
from landuse.ml.classifier import INT8_FILE, MODEL_FILE, PROBABILITIES, Classifier, LiteModel
from landuse.ml.examples import EXAMPLES_FILE
from landuse.ml.images import read_image, view
from landuse.ml.litert import trace
from landuse.ml.network import build_backbone, keras_probabilities
from landuse.params import ExtractParams, TrainParams, load_params
from landuse.split import split
from landuse.tracking.names import facts_of
from landuse.train import train
from landuse.train.batches import BatchLoader, make_loader
from landuse.train.calibration import confidence_threshold
from landuse.train.export import KERAS_FILE, check_conversion
from landuse.train.loop import TrainingLoop, learning_rates
from landuse.tune.study import refuse_uncached

COLUMNS = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"]
FILES = [MODEL / "model.tflite", MODEL / KERAS_FILE, MODEL / INT8_FILE, MODEL / "model.json", HISTORY]
TRAIN = TrainParams(**tiny.CHANGES["train"])
EXTRACT = ExtractParams(**tiny.CHANGES["extract"])


def digests() -> list[str]:
    return [sha256(path.read_bytes()).hexdigest() for path in FILES]


def validation_loss() -> float:
    """Return the cross-entropy of the exported model on the validation images, with the calibration undone."""
    classifier, splits = Classifier(MODEL), pd.read_csv(SPLITS)
    rows = splits[splits["subset"] == "validation"]
    actual = [classifier.labels.index(label) for label in rows["label"]]
    probabilities = np.stack(list(classifier.probabilities_of(DATA / path for path in rows["path"])))
    uncalibrated = probabilities ** classifier.card["temperature"]
    uncalibrated /= uncalibrated.sum(axis=1, keepdims=True)
    return float(-np.log(uncalibrated[np.arange(len(rows)), actual]).mean())


def test_the_history_has_one_row_per_epoch(trained: Path) -> None:
    history = pd.read_csv(HISTORY)
    assert list(history.columns) == COLUMNS and history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(history).all(axis=None) and history["validation_accuracy"].iloc[-1] >= 0.8
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_the_weights_of_the_best_epoch_are_exported(trained: Path) -> None:
    assert validation_loss() == pytest.approx(pd.read_csv(HISTORY)["validation_loss"].min(), abs=1e-4)


def test_the_weights_of_the_best_epoch_are_kept_if_later_ones_are_worse(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landuse import train as train_module
    from landuse.train import loop

    def overshooting(params: TrainParams, steps_per_epoch: int) -> np.ndarray:
        """Return learning rates that overshoot from the fourth epoch on."""
        return np.repeat([0.001, 0.001, 0.001, 3.0, 3.0, 3.0], steps_per_epoch).astype(np.float32)

    monkeypatch.setattr(loop, "learning_rates", overshooting)
    monkeypatch.setattr(train_module, "calibrate", lambda *_: {})
    monkeypatch.setattr(train_module, "export", lambda network, *_: exported.append(network) or "0" * 64)
    exported: list[keras.Model] = []
    train(replace(TRAIN, label_smoothing=0.2, patience=2))  # with smoothed labels, certainty is costly
    losses = pd.read_csv(HISTORY)["validation_loss"]
    assert losses.idxmin() == 2 and len(losses) == 3 + 2 and losses[3:].min() > losses[2] + 1
    chunk = next(iter(make_loader(pd.read_csv(SPLITS), "validation", TRAIN, EXTRACT)))
    probabilities = exported[0].get_layer("head")(chunk.inputs).numpy()
    smoothed = 0.8 * chunk.labels + 0.2 / len(tiny.LABELS)
    assert -(smoothed * np.log(probabilities)).sum(axis=1).mean() == pytest.approx(losses[2], rel=1e-4)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files_and_another_seed_others(trained_copy: Path) -> None:
    before, examples = digests(), (MODEL / EXAMPLES_FILE).read_bytes()
    train(TRAIN)
    assert digests() == before and (MODEL / EXAMPLES_FILE).read_bytes() == examples
    train(replace(TRAIN, seed=2))
    assert not set(digests()) & set(before)
    latest = mlflow.search_runs(experiment_names=["landuse"], max_results=1, output_format="list")[0]
    assert latest.info.status == "FINISHED" and facts_of(latest.data.tags)["model.sha256"] == Classifier(MODEL).digest


def test_the_run_records_data_params_weights_and_model(trained: Path) -> None:
    record = json.loads(RUN.read_text("utf-8"))
    runs = mlflow.search_runs(experiment_names=["landuse"], output_format="list")
    run = next(run for run in runs if facts_of(run.data.tags).get("model.sha256") == Classifier(MODEL).digest)
    tags = facts_of(run.data.tags)
    assert tags["data.md5"] == tiny.DATA_MD5 and tags["data.kind"] == "real"
    assert tags["weights"].endswith("scenes.weights.h5") and len(tags["weights.sha256"]) == 64
    assert record["tags"].items() <= tags.items() and tags["device"] in ("CPU", "GPU")
    assert run.data.params["train.learning_rate"] == "0.02" and run.data.params["split.seed"] == "1"
    assert run.inputs.dataset_inputs[0].dataset.digest == tiny.DATA_MD5
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/validation_loss")
    assert [entry.value for entry in sorted(losses, key=lambda entry: entry.step)] == pytest.approx(
        pd.read_csv(HISTORY)["validation_loss"].tolist()
    )


def test_fine_tuning_changes_the_network_from_the_given_block_on(
    fine_tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fine_tuned)
    extracted = load_params().extract
    before = build_backbone(extracted)
    after = keras.models.load_model(MODEL / KERAS_FILE).get_layer("mobilenet_v2")
    changed = {
        old.path
        for old, new in zip(before.weights, after.weights, strict=True)
        if not np.array_equal(np.asarray(old), np.asarray(new))
    }
    assert changed == {w.path for w in before.weights if w.path.startswith(("block_16_", "Conv_1"))}
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    trained = [w for w in before.weights if w.path in changed and "moving_" not in w.path]
    assert card["trained_parameters"] == sum(int(np.prod(w.shape)) for w in trained) + 1280 * 3 + 3


def test_the_keras_and_litert_files_agree(trained: Path) -> None:
    images = sorted(DATA.glob("*/*.png"))[:4]
    expected = np.stack(list(Classifier(MODEL).probabilities_of(images)))
    probabilities = keras_probabilities(MODEL, np.stack([read_image(path, EXTRACT.image_size) for path in images]))
    assert probabilities == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_litert_file_that_disagrees_with_the_network_is_refused(trained_copy: Path) -> None:
    images = [read_image(path, EXTRACT.image_size) for path in sorted(DATA.glob("*/*.png"))[:4]]
    network, flatbuffer = keras.models.load_model(MODEL / KERAS_FILE), (MODEL / MODEL_FILE).read_bytes()
    network = keras.Model(network.input, {PROBABILITIES: network.output})
    check_conversion(trace(network), flatbuffer, images)
    for bias in ([-30.0, 30, 0], [float("nan"), 0, 0]):
        network.get_layer("head").bias.assign(bias)
        with pytest.raises(LanduseError, match=r"model\.tflite and the trained network differ by \S+ in a") as caught:
            check_conversion(trace(network), flatbuffer, images)
    assert "\n" not in str(caught.value)


def test_a_diverging_training_names_the_key_to_change_and_its_run_fails(trained_copy: Path) -> None:
    before = digests()[:4]
    with pytest.raises(LanduseError, match="train.learning_rate = 1000000.0: .* lower it") as caught:
        train(replace(TRAIN, learning_rate=1e6, weight_decay=1.0, warmup=0.0))
    assert "\n" not in str(caught.value) and digests()[:4] == before
    latest = mlflow.search_runs(experiment_names=["landuse"], max_results=1, output_format="list")[0]
    assert latest.info.status == "FAILED" and "model.sha256" not in facts_of(latest.data.tags)


@pytest.mark.slow
def test_the_whole_network_can_be_trained_from_the_images(trained_copy: Path) -> None:
    rmtree(FEATURES / "activations")
    features.METADATA.write_text(json.dumps(features.metadata() | {"cut": "all"}))
    before = digests()
    train(replace(TRAIN, unfreeze_from="all", epochs=1, learning_rate=0.001))
    history = pd.read_csv(HISTORY)
    assert len(history) == 1 and np.isfinite(history).all(axis=None)
    assert validation_loss() == pytest.approx(history["validation_loss"][0], abs=2e-3)
    assert not set(digests()[:3]) & set(before)


def test_features_from_another_cut_or_unfinished_are_not_used(trained_copy: Path) -> None:
    cut = "train.unfreeze_from = block_14: the cached features were cut at head; dvc repro"
    with pytest.raises(LanduseError, match=cut):
        train(replace(TRAIN, unfreeze_from="block_14"))
    features.METADATA.unlink()
    with pytest.raises(LanduseError, match="features.json is not here: dvc repro makes it"):
        train(TRAIN)


def test_features_and_splits_of_other_images_are_not_used(trained_copy: Path) -> None:
    params, manifest = load_params(), pd.read_parquet(MANIFEST)
    manifest.assign(sha256=manifest["sha256"].iloc[::-1].to_numpy()).to_parquet(MANIFEST)  # same paths, other content
    for use in (
        lambda: split(params.split),
        lambda: train(TRAIN),
        lambda: refuse_uncached(TRAIN, params.tune, params.extract),
    ):
        with pytest.raises(LanduseError, match="artifacts/features is of other images than .*manifest.parquet lists"):
            use()
    manifest.assign(path="another/" + manifest["path"]).to_parquet(MANIFEST)
    tiny.mark_features_current()
    with pytest.raises(LanduseError, match="artifacts/splits.csv is of other images than .*manifest.parquet lists"):
        train(TRAIN)


@pytest.mark.slow
def test_the_gpu_code_path_trains_and_exports_a_float32_model(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    train(TRAIN)
    history = pd.read_csv(HISTORY)
    assert history["validation_accuracy"].iloc[-1] >= 0.8
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert {layer.compute_dtype for layer in keras.models.load_model(MODEL / KERAS_FILE).layers} == {"float32"}
    assert json.loads(RUN.read_text("utf-8"))["tags"]["device"] == "GPU"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_a_model_that_averages_mirrored_views_ignores_mirroring(trained_copy: Path) -> None:
    train(replace(TRAIN, tta_views=2))
    classifier, pixels = Classifier(MODEL), read_image(DATA / "field" / "00.png", EXTRACT.image_size)
    assert classifier.card["averaged_views"] == 2
    assert np.allclose(classifier.model(pixels), classifier.model(np.ascontiguousarray(view(pixels, 1))), atol=1e-5)


def small_loader(batch_size: int) -> BatchLoader:
    """Build a loader of twelve rows of five numbers and three classes of different sizes, in order."""
    values = np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 0, 0, 1, 2, 0, 0, 0]]
    return BatchLoader(lambda chosen, views: values[chosen], np.arange(12), labels, batch_size, None)


def small_loop() -> tuple[TrainingLoop, keras.Model]:
    """Build a loop that trains a head on five numbers, and its network."""
    inputs = keras.Input((5,))
    network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
    return TrainingLoop(keras.Model(inputs, inputs), network.layers[-1], small_loader(4)), network


def train_epochs(loop: TrainingLoop, params: TrainParams) -> list[float]:
    """Train and return the loss of every epoch."""
    loader = small_loader(params.batch_size)
    loop.reset(params, loader.batches)
    return [loop.train_epoch(loader, lambda *_: None).loss for _ in range(params.epochs)]


def test_a_step_changes_the_weights_as_keras_does() -> None:
    params = replace(TRAIN, batch_size=4, epochs=3, warmup=0.4, label_smoothing=0.1, weight_decay=0.02)
    (loop, ours), chunk = small_loop(), next(iter(small_loader(12)))
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    losses = train_epochs(loop, params)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 6, warmup_target=params.learning_rate, warmup_steps=3)
    adam = keras.optimizers.AdamW(schedule, weight_decay=0.02)
    theirs.compile(adam, keras.losses.CategoricalCrossentropy(label_smoothing=0.1), jit_compile=False)
    weights = {0: 4 / 7, 1: 4 / 3, 2: 4 / 2}  # of classes with seven, three and two of the twelve images
    fit = partial(theirs.fit, chunk.inputs, chunk.labels, batch_size=4, epochs=3, shuffle=False, verbose=0)
    history = fit(class_weight=weights).history
    assert losses == pytest.approx(history["loss"], rel=1e-5)
    for our, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert our == pytest.approx(their, abs=1e-5)


def test_a_reset_loop_trains_like_a_new_one() -> None:
    params = replace(TRAIN, batch_size=4, epochs=2, dropout=0.4, weight_decay=0.1, seed=3)
    (used, used_network), (new, new_network) = small_loop(), small_loop()
    start = used_network.get_weights()
    train_epochs(used, replace(params, batch_size=3, dropout=0, learning_rate=0.5, label_smoothing=0.2))
    used_network.set_weights(start)
    new_network.set_weights(start)
    assert train_epochs(used, params) == train_epochs(new, params)
    new_network.set_weights(start)
    assert train_epochs(used, params) != train_epochs(new, replace(params, seed=4)), "other features are dropped"


def test_the_learning_rate_rises_to_its_peak_and_decays_to_zero() -> None:
    rates = learning_rates(replace(TRAIN, epochs=10, learning_rate=0.02, warmup=0.2), steps_per_epoch=10)
    assert rates[0] == 0 and rates[10] == pytest.approx(0.01) and rates[20] == pytest.approx(0.02)
    assert rates[60] == pytest.approx(0.01) and 0 < rates[-1] < 1e-4 and len(rates) == 100
    assert np.all(np.diff(rates[:21]) > 0) and np.all(np.diff(rates[20:]) < 0)


def test_without_warm_up_the_learning_rate_starts_at_its_peak() -> None:
    rates = learning_rates(replace(TRAIN, epochs=2, learning_rate=0.02, warmup=0), steps_per_epoch=5)
    assert rates[0] == pytest.approx(0.02) and 0 < rates[-1] < 0.002


def test_the_keras_file_has_no_timestamps(trained: Path) -> None:
    with zipfile.ZipFile(MODEL / KERAS_FILE) as saved:
        assert {entry.date_time for entry in saved.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(saved.read("metadata.json"))["date_saved"] == ""


def test_the_int8_model_is_smaller_and_has_its_own_accuracy_and_threshold(trained: Path) -> None:
    classifier, int8 = Classifier(MODEL), LiteModel((MODEL / INT8_FILE).read_bytes())
    rows = pd.read_csv(SPLITS).query("subset == 'validation'")
    pixels = [read_image(DATA / path, classifier.image_size) for path in rows["path"]]
    plain, quantized = (np.stack([model(image) for image in pixels]) for model in (classifier.model, int8))
    assert quantized.dtype == np.float32 and np.abs(plain - quantized).max() < 0.2
    assert (MODEL / INT8_FILE).stat().st_size < 0.5e6 * classifier.megabytes
    labels, actual = np.array(classifier.labels), rows["label"].to_numpy()
    correct = [labels[probabilities.argmax(axis=1)] == actual for probabilities in (plain, quantized)]
    accuracies = {"accuracy": correct[0].mean(), "int8_accuracy": correct[1].mean()}
    assert classifier.card["validation"] == {"images": 9} | accuracies
    confidence = quantized.max(axis=1)
    threshold = confidence_threshold(confidence, correct[1], 0.99)
    assert Classifier(MODEL, int8=True).unsure_below == threshold.confidence
    assert classifier.card["int8_sure_accuracy_at_least"] == threshold.accuracy_at_least
