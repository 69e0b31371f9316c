"""The registered model: base64 or a permitted path in, the same record as everywhere out, one sentence for the rest."""

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
from landuse.ml.pyfunc import RefusedImage, SceneClassifier, opened_image
from landuse.predict import predict

IMAGE = Path("field/03.png")


def sent(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def model(trained: Path) -> SceneClassifier:
    """The model as MLflow sets it up, without a root."""
    loaded = SceneClassifier()
    loaded.load_context(SimpleNamespace(artifacts={"model": str(MODEL)}))
    return loaded


@pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow")
def test_registered_model_predict_litert_and_keras_say_the_same_of_the_same_images(
    served: Path, tmp_path: Path
) -> None:
    images = sorted(DATA.glob("*/*.png"))[::4]
    registered = mlflow.pyfunc.load_model("models:/served@champion").predict([sent(path) for path in images])
    predict([*map(str, images)], "models:/served@champion", tmp_path / "out.jsonl")
    written = {row["path"]: row for row in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    pixels = np.stack([read_image(path, 64) for path in images])
    lite = LiteModel((MODEL / "model.tflite").read_bytes())
    answers = [
        [list(said.probabilities.values()) for said in registered],
        [list(written[str(path)]["probabilities"].values()) for path in images],
        [lite(image) for image in pixels],
        keras.models.load_model(MODEL / "model.keras").predict(pixels, verbose=0),
    ]
    assert np.ptp(np.array(answers), axis=0).max() < 1e-3
    assert [said.model_dump() for said in registered] == [
        {key: written[str(path)][key] for key in registered[0].model_dump()} for path in images
    ]


def test_it_answers_as_the_classifier_does_in_the_order_of_the_images(model: SceneClassifier) -> None:
    images = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    assert model.predict([sent(path) for path in images]) == [Classifier(MODEL).predict(path) for path in images]
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
def test_one_bad_image_of_many_is_refused_with_its_place_and_one_sentence(
    model: SceneClassifier, text: str, words: str
) -> None:
    good = sent(DATA / IMAGE)
    with pytest.raises(RefusedImage) as caught:
        model.predict([good, good, text, good])
    message = json.loads(caught.value.serialize_as_json())
    assert message["error_code"] == "INVALID_PARAMETER_VALUE" and caught.value.get_http_status_code() == 400
    assert message["message"].startswith(f"inputs[2]: {words}") and "\n" not in message["message"]


def test_what_mlflow_puts_before_the_sentence_does_not_reach_the_client() -> None:
    refused = RefusedImage("inputs[0]: no image")
    refused.message = "Failed to predict data '[…]'. \nError: inputs[0]: no image"
    assert json.loads(refused.serialize_as_json())["message"] == "inputs[0]: no image"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with an image, an image beside it, and links: one that stays inside, two that lead out."""
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
def test_below_the_root_a_file_may_be_named(root: Path, text: str) -> None:
    text = text.format(root=root, uri=root.as_posix().replace(" ", "%20"))
    with opened_image(text, str(root)) as image:
        assert image.read() == (root / "in.png").read_bytes()


@pytest.mark.parametrize(
    "text",
    ["../out.png", "outer.png", "up/out.png", "{root}/../out.png", "file://{root}/../out.png", "file://host/in.png",
     "http://127.0.0.1/in.png", "https://x/in.png", "gone.png", ".", "..", "ring.png", "a\0.png", "x" * 5000 + ".png",
     "file://[", "file:%2e%2e/out.png", "//etc/passwd.png", "~/in.png"],
)  # fmt: skip
def test_what_is_no_file_below_the_root_is_refused_whether_it_is_there_or_not(root: Path, text: str) -> None:
    refused = pytest.raises(LanduseError, match="is no file below the folder that LANDUSE_ROOT names")
    with refused as caught, opened_image(text.format(root=root), str(root)):
        pass
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_what_is_wrong_with_a_named_file_is_said_without_where_the_root_is(root: Path) -> None:
    with pytest.raises(LanduseError) as caught, opened_image("./in.png", str(root)) as image:
        read_image(image, 8)
    assert str(caught.value) == "'./in.png': image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"


def test_the_root_is_read_from_the_environment_when_the_model_is_loaded(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDUSE_ROOT", str(trained / "data"))
    model = SceneClassifier()
    model.load_context(SimpleNamespace(artifacts={"model": str(MODEL)}))
    assert model.predict([str(IMAGE)]) == model.predict([sent(DATA / IMAGE)])
