"""Inference with the exported model: from an image to probabilities, without TensorFlow."""

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MODEL, SPLITS
from landuse.ml.classifier import Classifier, Prediction
from landuse.registry import resolve


@pytest.fixture
def classifier(trained: Path) -> Classifier:
    return Classifier(MODEL)


def test_labels_and_input_size_travel_with_the_model(classifier: Classifier) -> None:
    assert classifier.labels == list(tiny.LABELS) == sorted(tiny.LABELS)
    assert classifier.image_size == 64
    content = (MODEL / "model.tflite").read_bytes()
    assert classifier.megabytes == len(content) / 1e6


def test_the_digest_changes_with_the_network_or_its_card(trained_copy: Path) -> None:
    digest = Classifier(MODEL).digest
    assert digest == sha256((MODEL / "model.tflite").read_bytes() + (MODEL / "model.json").read_bytes()).hexdigest()
    card = json.loads((MODEL / "model.json").read_text())
    (MODEL / "model.json").write_text(json.dumps(card | {"unsure_below": 0.1}))
    assert Classifier(MODEL).digest != digest


def test_it_classifies_images_it_was_not_trained_on(classifier: Classifier) -> None:
    splits = pd.read_csv(SPLITS)
    unseen = splits[splits["subset"] == "test"]
    probabilities = np.stack(list(classifier.probabilities_of(DATA / path for path in unseen["path"])))
    predicted = np.array(classifier.labels)[probabilities.argmax(axis=1)]
    assert probabilities.shape == (9, 3) and probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5) and (probabilities >= 0).all()
    assert (predicted == unseen["label"]).mean() >= 0.8


def test_a_file_and_its_bytes_give_the_same_probabilities(classifier: Classifier) -> None:
    path = DATA / "forest" / "05.png"
    expected = classifier.probabilities(path)
    assert np.array_equal(classifier.probabilities(io.BytesIO(path.read_bytes())), expected)


def test_many_images_in_parallel_give_the_same_results_in_order(classifier: Classifier) -> None:
    paths = sorted(DATA.glob("*/*.png"))
    expected = [classifier.probabilities(path) for path in paths]
    assert np.array_equal(np.stack(list(classifier.probabilities_of(paths))), expected)
    with ThreadPoolExecutor(4) as pool:
        assert np.array_equal(np.stack(list(pool.map(classifier.probabilities, paths))), expected)


def test_a_prediction_holds_label_confidence_top_classes_and_all_probabilities(classifier: Classifier) -> None:
    path = DATA / "forest" / "05.png"
    prediction, expected = classifier.predict(path), classifier.probabilities(path)
    assert list(prediction.probabilities) == classifier.labels
    assert list(prediction.probabilities.values()) == expected.tolist()
    assert prediction.confidence == expected.max() and prediction.label == classifier.labels[expected.argmax()]
    assert [candidate.probability for candidate in prediction.top] == sorted(expected.tolist(), reverse=True)
    assert prediction.top[0].label == prediction.label
    assert set(prediction.model_dump()) == set(Prediction.model_fields)


def test_a_prediction_is_unsure_only_below_the_threshold_of_the_card(classifier: Classifier) -> None:
    path = DATA / "forest" / "05.png"
    confidence = classifier.predict(path).confidence
    classifier.unsure_below = confidence
    assert not classifier.predict(path).unsure
    classifier.unsure_below = np.nextafter(confidence, 1)
    assert classifier.predict(path).unsure


def test_a_model_without_a_confidence_threshold_still_gives_probabilities(trained_copy: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    del card["unsure_below"]
    (MODEL / "model.json").write_text(json.dumps(card), "utf-8")
    assert Classifier(MODEL).unsure_below is None
    assert Classifier(MODEL).probabilities(DATA / "water" / "00.png").shape == (3,)
    with pytest.raises(LanduseError, match="artifacts/model has no unsure_below in its model.json: train and register"):
        resolve.load("artifacts/model")


@pytest.mark.parametrize("label", ["\x1b]0;owned\x07", "fo\nrest", "\u202etser", "\x9b31m", "\ud800", 5, None])
def test_a_card_with_a_label_that_is_not_printable_text_is_refused(trained_copy: Path, label: object) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    (MODEL / "model.json").write_text(json.dumps(card | {"labels": ["field", label, "water"]}), "utf-8")
    message = f"artifacts/model/model.json is damaged, its label {label!r} is not printable: dvc repro makes it again"
    for load in (Classifier, resolve.load):
        with pytest.raises(LanduseError) as caught:
            load(MODEL if load is Classifier else str(MODEL))
        assert str(caught.value) == message and message.isprintable()


def test_labels_that_are_no_list_are_refused(trained_copy: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    for labels in (1, None, {"field": 0}, "fw\x1b"):
        (MODEL / "model.json").write_text(json.dumps(card | {"labels": labels}), "utf-8")
        with pytest.raises(LanduseError, match="model.json is damaged, its label .* is not printable"):
            Classifier(MODEL)


def test_labels_may_be_in_any_script(trained_copy: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    labels = ["pré d'été", "森", "поле 🌾"]
    (MODEL / "model.json").write_text(json.dumps(card | {"labels": labels}), "utf-8")
    _, classifier = resolve.load(str(MODEL))
    assert classifier.labels == labels and classifier.predict(DATA / "water" / "00.png").label in labels


def test_a_file_that_is_no_image_is_refused_and_the_next_image_is_classified(classifier: Classifier) -> None:
    with pytest.raises(LanduseError, match="image cannot be decoded"):
        classifier.probabilities(io.BytesIO(b"rubbish"))
    assert classifier.probabilities(DATA / "water" / "00.png").shape == (3,)


def test_the_card_records_digests_of_data_and_split(classifier: Classifier) -> None:
    assert classifier.card["data_md5"] == tiny.DATA_MD5
    assert classifier.card["split_sha256"] == sha256(SPLITS.read_bytes()).hexdigest()


def test_the_card_records_how_the_model_was_made(classifier: Classifier) -> None:
    card = json.loads((MODEL / "model.json").read_text("utf-8"))
    assert (
        card["backbone"] == "mobilenet_v2" and card["alpha"] == 0.35 and card["weights"].endswith("scenes.weights.h5")
    )
    assert card["unfrozen_from"] == "head" and card["trained_parameters"] == 1280 * 3 + 3
    assert 0 <= card["dead_kernels"] < 1 and "uint8" in card["preprocessing"]


def modules_after(code: str) -> set[str]:
    """Return the packages that a fresh interpreter has imported after running the code."""
    code += "\nimport sys; print('modules', *{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


HEAVY = {"tensorflow", "keras", "mlflow", "great_expectations", "prefect", "dvc", "sklearn", "matplotlib"}


def test_inference_needs_neither_tensorflow_nor_mlflow_nor_pandas(trained: Path) -> None:
    code = "from pathlib import Path; from landuse.ml.classifier import Classifier\n"
    code += f"Classifier(Path({str(MODEL)!r})).probabilities(Path({str(DATA / 'field' / '00.png')!r}))"
    loaded = modules_after(code)
    assert "ai_edge_litert" in loaded and not loaded & (HEAVY | {"pandas"})


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_showing_help_imports_no_heavy_packages(arguments: list[str]) -> None:
    code = f"import sys; sys.argv = ['landuse', *{arguments}]\nfrom landuse.cli import app; app(standalone_mode=False)"
    assert not modules_after(code) & (HEAVY | {"numpy", "pandas", "PIL", "ai_edge_litert", "yaml"})
