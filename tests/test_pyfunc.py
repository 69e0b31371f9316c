"""The registered model: base64 or a permitted path in, a prediction or a one-sentence error out."""

import base64
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pytest

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier, LiteModel
from landuse.ml.images import read_image
from landuse.ml.pyfunc import RefusedInput, SceneClassifier, open_input
from landuse.predict import predict

IMAGE = Path("field/03.png")


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def model(trained: Path) -> SceneClassifier:
    """The model as MLflow loads it, without a root."""
    loaded = SceneClassifier()
    loaded.load_context(SimpleNamespace(artifacts={"model": str(MODEL)}))
    return loaded


@pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow")
def test_registered_model_predict_litert_and_keras_agree_on_the_same_images(served: Path, tmp_path: Path) -> None:
    images = sorted(DATA.glob("*/*.png"))[::4]
    registered = mlflow.pyfunc.load_model("models:/served@champion").predict([encoded(path) for path in images])
    predict([*map(str, images)], "models:/served@champion", tmp_path / "out.jsonl")
    written = {row["path"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    pixels = np.stack([read_image(path, 64) for path in images])
    lite = LiteModel((MODEL / "model.tflite").read_bytes())
    probabilities = [
        [list(prediction.probabilities.values()) for prediction in registered],
        [list(written[str(path)]["probabilities"].values()) for path in images],
        [lite(image) for image in pixels],
        keras.models.load_model(MODEL / "model.keras").predict(pixels, verbose=0),
    ]
    assert np.ptp(np.array(probabilities), axis=0).max() < 1e-3
    assert [prediction.model_dump() for prediction in registered] == [
        {key: written[str(path)][key] for key in registered[0].model_dump()} for path in images
    ]


def test_it_predicts_the_same_as_the_classifier_in_the_order_of_the_images(model: SceneClassifier) -> None:
    images = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    assert model.predict([encoded(path) for path in images]) == [Classifier(MODEL).predict(path) for path in images]
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        ("aGVsbG8=", "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        ("aGVsbG8", "image is not in base64: Incorrect padding"),
        ("a b!", "image is not in base64: "),
        ("é" * 4, "image is not in base64: "),
        (
            "data:image/png;base64,aGVsbG8=",
            "'data:image/png;base64,aGVsbG8=' is no base64, and files may be named only",
        ),
        ("/etc/passwd.png", "'/etc/passwd.png' is no base64, and files may be named only where LANDUSE_ROOT is set"),
    ],
)
def test_one_bad_image_of_many_is_refused_with_its_index_and_one_sentence(
    model: SceneClassifier, text: str, words: str
) -> None:
    good = encoded(DATA / IMAGE)
    with pytest.raises(RefusedInput) as caught:
        model.predict([good, good, text, good])
    message = json.loads(caught.value.serialize_as_json())
    assert message["error_code"] == "INVALID_PARAMETER_VALUE" and caught.value.get_http_status_code() == 400
    assert message["message"].startswith(f"inputs[2]: {words}") and "\n" not in message["message"]


def test_the_prefix_that_mlflow_adds_to_a_message_does_not_reach_the_client() -> None:
    error = RefusedInput("inputs[0]: no image")
    error.message = "Failed to predict data '[…]'. \nError: inputs[0]: no image"
    assert json.loads(error.serialize_as_json())["message"] == "inputs[0]: no image"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image, an image beside it, and links: one that stays inside, two that lead out, one loop."""
    folder = tmp_path / "root images"
    folder.mkdir()
    for path in (folder / "in.png", tmp_path / "out.png"):
        path.write_bytes(b"image")
    (folder / "inner.png").symlink_to("in.png")
    (folder / "outer.png").symlink_to(tmp_path / "out.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "ring.png").symlink_to("ring.png")
    return folder


@pytest.mark.parametrize("text", ["in.png", "./in.png", "inner.png", "{root}/in.png", "file://{uri}/in.png"])
def test_a_file_below_the_root_may_be_named(root: Path, text: str) -> None:
    text = text.format(root=root, uri=root.as_posix().replace(" ", "%20"))
    with open_input(text, str(root)) as image:
        assert image.read() == (root / "in.png").read_bytes()


@pytest.mark.parametrize(
    "text",
    ["../out.png", "outer.png", "up/out.png", "{root}/../out.png", "file://{root}/../out.png", "file://host/in.png",
     "http://127.0.0.1/in.png", "https://x/in.png", "gone.png", ".", "..", "ring.png", "a\0.png", "x" * 5000 + ".png",
     "file://[", "file:%2e%2e/out.png", "//etc/passwd.png", "~/in.png"],
)  # fmt: skip
def test_a_path_outside_the_root_is_refused_whether_it_exists_or_not(root: Path, text: str) -> None:
    refused = pytest.raises(LanduseError, match="is no file below the folder that LANDUSE_ROOT names")
    with refused as caught, open_input(text.format(root=root), str(root)):
        pass
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_errors_of_a_named_file_do_not_disclose_the_root(root: Path) -> None:
    with pytest.raises(LanduseError) as caught, open_input("./in.png", str(root)) as image:
        read_image(image, 8)
    assert str(caught.value) == "'./in.png': image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"


def test_the_root_is_read_from_the_environment_when_the_model_is_loaded(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDUSE_ROOT", str(trained / "data"))
    model = SceneClassifier()
    model.load_context(SimpleNamespace(artifacts={"model": str(MODEL)}))
    assert model.predict([str(IMAGE)]) == model.predict([encoded(DATA / IMAGE)])
