"""What is trained, that it can be trained again to the byte, and that a bad training says so."""

import json
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
import tiny

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, HISTORY, MANIFEST, MODEL, RUN, SPLITS
from landuse.ml import features, network
from landuse.ml.classifier import INT8_FILE, MODEL_FILE, PROBABILITIES, Classifier, LiteModel
from landuse.ml.examples import EXAMPLES_FILE
from landuse.ml.images import read_image, view
from landuse.ml.litert import traced
from landuse.ml.network import build_backbone, saved_probabilities
from landuse.params import ExtractParams, TrainParams, load_params
from landuse.split import split
from landuse.train import train
from landuse.train.batches import Passes, passes
from landuse.train.calibration import trusted_confidence
from landuse.train.export import KERAS_FILE, check_conversion
from landuse.train.loop import Learner, learning_rates
from landuse.tune.study import refuse_uncached

COLUMNS = ["epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"]
FILES = [MODEL / "model.tflite", MODEL / KERAS_FILE, MODEL / INT8_FILE, MODEL / "model.json", HISTORY]
TRAIN = TrainParams(**tiny.CHANGES["train"])
EXTRACT = ExtractParams(**tiny.CHANGES["extract"])


def digests() -> list[str]:
    return [sha256(path.read_bytes()).hexdigest() for path in FILES]


def validation_loss() -> float:
    """Cross-entropy of the exported model on the images of the validation subset, as before it was calibrated."""
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


def test_the_exported_model_is_that_of_the_best_epoch(trained: Path) -> None:
    assert validation_loss() == pytest.approx(pd.read_csv(HISTORY)["validation_loss"].min(), abs=1e-4)


def test_the_weights_of_the_best_epoch_are_kept_where_later_ones_are_worse(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landuse import train as room
    from landuse.train import loop

    def rising(params: TrainParams, steps_per_epoch: int) -> np.ndarray:
        """Learning rates that overshoot from the fourth epoch on."""
        return np.repeat([0.001, 0.001, 0.001, 3.0, 3.0, 3.0], steps_per_epoch).astype(np.float32)

    monkeypatch.setattr(loop, "learning_rates", rising)
    monkeypatch.setattr(room, "calibrate", lambda *_: {})
    monkeypatch.setattr(room, "export", lambda network, *_: kept.append(network) or "0" * 64)
    kept: list[keras.Model] = []
    train(replace(TRAIN, label_smoothing=0.2, patience=2))  # smoothed labels make certainty costly, right or wrong
    losses = pd.read_csv(HISTORY)["validation_loss"]
    assert losses.idxmin() == 2 and len(losses) == 3 + 2 and losses[3:].min() > losses[2] + 1
    chunk = next(iter(passes(pd.read_csv(SPLITS), "validation", TRAIN, EXTRACT)))
    probabilities = kept[0].get_layer("head")(chunk.inputs).numpy()
    smoothed = 0.8 * chunk.labels + 0.2 / len(tiny.LABELS)
    assert -(smoothed * np.log(probabilities)).sum(axis=1).mean() == pytest.approx(losses[2], rel=1e-4)


@pytest.mark.slow
def test_the_same_seed_trains_the_same_files_and_another_seed_others(trained_copy: Path) -> None:
    before, examples = digests(), (MODEL / EXAMPLES_FILE).read_bytes()
    train(TRAIN)
    assert digests() == before and (MODEL / EXAMPLES_FILE).read_bytes() == examples
    train(replace(TRAIN, seed=2))
    assert not set(digests()) & set(before)
    latest = mlflow.search_runs(experiment_names=["landuse"], max_results=1, output_format="list")[0]
    assert latest.info.status == "FINISHED" and latest.data.tags["model.sha256"] == Classifier(MODEL).digest


def test_the_run_says_which_data_params_and_weights_made_which_model(trained: Path) -> None:
    record = json.loads(RUN.read_text("utf-8"))
    runs = mlflow.search_runs(experiment_names=["landuse"], output_format="list")
    run = next(run for run in runs if run.data.tags.get("model.sha256") == Classifier(MODEL).digest)
    tags = run.data.tags
    assert tags["data.md5"] == tiny.DATA_MD5 and tags["data.kind"] == "real"
    assert tags["weights"].endswith("scenes.weights.h5") and len(tags["weights.sha256"]) == 64
    assert record["tags"].items() <= tags.items() and tags["device"] in ("CPU", "GPU")
    assert run.data.params["train.learning_rate"] == "0.02" and run.data.params["split.seed"] == "1"
    assert run.inputs.dataset_inputs[0].dataset.digest == tiny.DATA_MD5
    losses = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation_loss")
    assert [entry.value for entry in sorted(losses, key=lambda entry: entry.step)] == pytest.approx(
        pd.read_csv(HISTORY)["validation_loss"].tolist()
    )


def test_fine_tuning_from_a_block_changes_the_network_from_there_on(
    fine_tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fine_tuned)
    extracted = load_params().extract
    before = build_backbone(extracted)
    after = keras.models.load_model(MODEL / KERAS_FILE).get_layer("mobilenet_v2")
    moved = {
        old.path
        for old, new in zip(before.weights, after.weights, strict=True)
        if not np.array_equal(np.asarray(old), np.asarray(new))
    }
    assert moved == {w.path for w in before.weights if w.path.startswith(("block_16_", "Conv_1"))}
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    trained = [w for w in before.weights if w.path in moved and "moving_" not in w.path]
    assert card["trained_parameters"] == sum(int(np.prod(w.shape)) for w in trained) + 1280 * 3 + 3


def test_the_keras_file_says_what_the_litert_file_says(trained: Path) -> None:
    images = sorted(DATA.glob("*/*.png"))[:4]
    expected = np.stack(list(Classifier(MODEL).probabilities_of(images)))
    said = saved_probabilities(MODEL, np.stack([read_image(path, EXTRACT.image_size) for path in images]))
    assert said == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_litert_file_that_does_not_say_what_the_network_says_is_refused(trained_copy: Path) -> None:
    images = [read_image(path, EXTRACT.image_size) for path in sorted(DATA.glob("*/*.png"))[:4]]
    network, flatbuffer = keras.models.load_model(MODEL / KERAS_FILE), (MODEL / MODEL_FILE).read_bytes()
    network = keras.Model(network.input, {PROBABILITIES: network.output})
    check_conversion(traced(network), flatbuffer, images)
    for bias in ([-30.0, 30, 0], [float("nan"), 0, 0]):
        network.get_layer("head").bias.assign(bias)
        with pytest.raises(LanduseError, match=r"model\.tflite and the trained network differ by \S+ in a") as caught:
            check_conversion(traced(network), flatbuffer, images)
    assert "\n" not in str(caught.value)


def test_a_training_that_diverges_says_which_key_to_change_and_its_run_has_failed(trained_copy: Path) -> None:
    before = digests()[:4]
    with pytest.raises(LanduseError, match="train.learning_rate = 1000000.0: .* lower it") as caught:
        train(replace(TRAIN, learning_rate=1e6, weight_decay=1.0, warmup=0.0))
    assert "\n" not in str(caught.value) and digests()[:4] == before
    latest = mlflow.search_runs(experiment_names=["landuse"], max_results=1, output_format="list")[0]
    assert latest.info.status == "FAILED" and "model.sha256" not in latest.data.tags


@pytest.mark.slow
def test_everything_can_be_trained_end_to_end_from_the_images(trained_copy: Path) -> None:
    features.ACTIVATIONS.unlink()
    features.FACTS.write_text(json.dumps(features.facts() | {"cut": "all"}))
    before = digests()
    train(replace(TRAIN, unfreeze_from="all", epochs=1, learning_rate=0.001))
    history = pd.read_csv(HISTORY)
    assert len(history) == 1 and np.isfinite(history).all(axis=None)
    assert validation_loss() == pytest.approx(history["validation_loss"][0], abs=2e-3)
    assert not set(digests()[:3]) & set(before)


def test_features_cut_elsewhere_or_half_written_are_not_trained_on(trained_copy: Path) -> None:
    with pytest.raises(LanduseError, match="train.unfreeze_from = block_14: what is cached was cut at head; dvc repro"):
        train(replace(TRAIN, unfreeze_from="block_14"))
    features.FACTS.unlink()
    with pytest.raises(LanduseError, match="features.json is not here: dvc repro makes it"):
        train(TRAIN)


def test_features_and_a_split_of_other_images_are_not_used(trained_copy: Path) -> None:
    params, manifest = load_params(), pd.read_parquet(MANIFEST)
    manifest.assign(sha256=manifest["sha256"].iloc[::-1].to_numpy()).to_parquet(MANIFEST)  # as many, of other content
    for use in (
        lambda: split(params.split),
        lambda: train(TRAIN),
        lambda: refuse_uncached(TRAIN, params.tune, params.extract),
    ):
        with pytest.raises(LanduseError, match="artifacts/features is of other images than .*manifest.parquet lists"):
            use()
    manifest.assign(path="another/" + manifest["path"]).to_parquet(MANIFEST)
    tiny.take_for_extracted()
    with pytest.raises(LanduseError, match="artifacts/splits.csv is of other images than .*manifest.parquet lists"):
        train(TRAIN)


@pytest.mark.slow
def test_what_is_done_on_a_gpu_trains_and_exports_a_model_too(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "device", lambda: "GPU")
    train(TRAIN)
    history = pd.read_csv(HISTORY)
    assert history["validation_accuracy"].iloc[-1] >= 0.8
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert {layer.compute_dtype for layer in keras.models.load_model(MODEL / KERAS_FILE).layers} == {"float32"}
    assert json.loads(RUN.read_text("utf-8"))["tags"]["device"] == "GPU"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_a_model_that_averages_an_image_and_its_mirror_image_says_the_same_of_both(trained_copy: Path) -> None:
    train(replace(TRAIN, averaged_views=2))
    classifier, pixels = Classifier(MODEL), read_image(DATA / "field" / "00.png", EXTRACT.image_size)
    assert classifier.card["averaged_views"] == 2
    assert np.allclose(classifier.model(pixels), classifier.model(np.ascontiguousarray(view(pixels, 1))), atol=1e-5)


def some_passes(batch_size: int) -> Passes:
    """Twelve rows of five numbers and three classes, in order."""
    values = np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    return Passes(lambda chosen, views: values[chosen], np.arange(12), labels, batch_size, None)


def small_learner() -> tuple[Learner, keras.Model]:
    """A learner of a head upon five numbers, and the network that it trains."""
    seen = keras.Input((5,))
    network = keras.Model(seen, keras.layers.Dense(3, activation="softmax")(seen))
    return Learner(keras.Model(seen, seen), network.layers[-1], some_passes(4)), network


def learn(learner: Learner, params: TrainParams) -> list[float]:
    """Loss by epoch."""
    rows = some_passes(params.batch_size)
    learner.begin(params, rows.batches)
    return [learner.learn(rows, lambda *_: None).loss for _ in range(params.epochs)]


def test_a_step_moves_the_weights_as_keras_itself_would() -> None:
    params = replace(TRAIN, batch_size=4, epochs=3, warmup=0.4, label_smoothing=0.1, weight_decay=0.02)
    (learner, ours), rows = small_learner(), next(iter(some_passes(12)))
    theirs = keras.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    losses = learn(learner, params)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 6, warmup_target=params.learning_rate, warmup_steps=3)
    adam = keras.optimizers.AdamW(schedule, weight_decay=0.02)
    theirs.compile(adam, keras.losses.CategoricalCrossentropy(label_smoothing=0.1), jit_compile=False)
    history = theirs.fit(rows.inputs, rows.labels, batch_size=4, epochs=3, shuffle=False, verbose=0).history
    assert losses == pytest.approx(history["loss"], rel=1e-5)
    for our, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert our == pytest.approx(their, abs=1e-5)


def test_a_learner_that_begins_anew_does_as_a_new_one_whatever_came_before() -> None:
    params = replace(TRAIN, batch_size=4, epochs=2, dropout=0.4, weight_decay=0.1, seed=3)
    (used, network), (new, twin) = small_learner(), small_learner()
    start = network.get_weights()
    learn(used, replace(params, batch_size=3, dropout=0, learning_rate=0.5, label_smoothing=0.2))
    network.set_weights(start)
    twin.set_weights(start)
    assert learn(used, params) == learn(new, params)
    twin.set_weights(start)
    assert learn(used, params) != learn(new, replace(params, seed=4)), "other features are left out"


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = learning_rates(replace(TRAIN, epochs=10, learning_rate=0.02, warmup=0.2), steps_per_epoch=10)
    assert rates[0] == 0 and rates[10] == pytest.approx(0.01) and rates[20] == pytest.approx(0.02)
    assert rates[60] == pytest.approx(0.01) and 0 < rates[-1] < 1e-4 and len(rates) == 100
    assert np.all(np.diff(rates[:21]) > 0) and np.all(np.diff(rates[20:]) < 0)


def test_without_warm_up_the_learning_rate_starts_at_its_peak() -> None:
    rates = learning_rates(replace(TRAIN, epochs=2, learning_rate=0.02, warmup=0), steps_per_epoch=5)
    assert rates[0] == pytest.approx(0.02) and 0 < rates[-1] < 0.002


def test_the_keras_file_holds_no_time_of_day(trained: Path) -> None:
    with zipfile.ZipFile(MODEL / KERAS_FILE) as saved:
        assert {entry.date_time for entry in saved.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(saved.read("metadata.json"))["date_saved"] == ""


def test_the_int8_model_takes_and_gives_the_same_in_a_smaller_file_and_the_card_says_how_far_to_trust_it(
    trained: Path,
) -> None:
    classifier, int8 = Classifier(MODEL), LiteModel((MODEL / INT8_FILE).read_bytes())
    rows = pd.read_csv(SPLITS).query("subset == 'validation'")
    pixels = [read_image(DATA / path, classifier.image_size) for path in rows["path"]]
    plain, small = (np.stack([model(image) for image in pixels]) for model in (classifier.model, int8))
    assert small.dtype == np.float32 and np.abs(plain - small).max() < 0.2
    assert (MODEL / INT8_FILE).stat().st_size < 0.5e6 * classifier.megabytes
    right = [(np.array(classifier.labels)[p.argmax(axis=1)] == rows["label"]).mean() for p in (plain, small)]
    assert classifier.card["validation"] == {"images": 9, "accuracy": right[0], "int8_accuracy": right[1]}
    small_right = np.array(classifier.labels)[small.argmax(axis=1)] == rows["label"].to_numpy()
    assert Classifier(MODEL, int8=True).unsure_below == trusted_confidence(small.max(axis=1), small_right, 0.99)
