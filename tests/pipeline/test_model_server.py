"""`mlflow models serve` with the registered model: predictions, or one-sentence errors that never stop it."""

import base64
import json
import subprocess
from collections.abc import Iterator
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from PIL import Image
from ports import free_port
from servers import wait_for
from workspace import Workspace

MODEL = "models:/landuse-sample@challenger"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.fixture(scope="module")
def address(whole_run: Workspace) -> Iterator[str]:
    """The address of a real model server for the challenger, with the data set as its root."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local"]
    env = whole_run.env(MLFLOW_TRACKING_URI=whole_run.store, LANDUSE_ROOT=str(whole_run.folder / "data"))
    with (whole_run.folder.parent / "models-serve.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", port], cwd=whole_run.folder.parent, env=env, stdout=log, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        server.terminate()
        server.wait(30)


def post(address: str, body: object) -> tuple[int, dict]:
    """Send a request; returns status and content of the reply."""
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refused:
        return refused.code, json.load(refused)


def as_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def gradient(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """Return an image of a gradient, encoded in a format."""
    file = BytesIO()
    Image.linear_gradient("L").convert(mode).save(file, kind, **options)
    return file.getvalue()


def test_images_and_paths_get_the_same_prediction_as_landuse_predict(whole_run: Workspace, address: str) -> None:
    path = next((whole_run.folder / "data").glob("*/*.png"))
    printed = whole_run.ok("landuse", "predict", str(path), "--model", MODEL).splitlines()[1].split(",")
    relative = path.relative_to(whole_run.folder / "data").as_posix()
    status, answer = post(address, {"inputs": [as_base64(path.read_bytes()), relative, path.as_uri()]})
    assert status == 200 and len({json.dumps(prediction) for prediction in answer["predictions"]}) == 1
    prediction = answer["predictions"][0]
    assert prediction["label"] == printed[1] and prediction["confidence"] == pytest.approx(float(printed[2]), abs=1e-3)
    assert prediction["unsure"] == (printed[3] == "true")
    assert len(prediction["top"]) == 5 and len(prediction["probabilities"]) == 10


@pytest.mark.parametrize(
    "content",
    [
        gradient("JPEG", "CMYK"),
        gradient("PNG", "I;16"),
        gradient("PNG", "P", transparency=3),
        gradient("WEBP"),
        gradient("TIFF", "L"),
    ],
)
def test_unusual_images_are_predicted(address: str, content: bytes) -> None:
    assert post(address, {"inputs": [as_base64(content)]})[0] == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        (as_base64(SVG), "cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        (as_base64(gradient("JPEG")[:400]), "cannot be decoded: "),
        ("no base64!", "is not in base64"),
        ("../params.yaml", "is no file below the folder that LANDUSE_ROOT names"),
        ("/etc/hostname.png", "is no file below the folder that LANDUSE_ROOT names"),
    ],
)
def test_a_bad_image_is_refused_by_its_index_and_the_next_request_succeeds(
    address: str, text: str, message: str
) -> None:
    good = as_base64(gradient("PNG"))
    status, answer = post(address, {"inputs": [good, text]})
    assert status == 400 and set(answer) == {"error_code", "message"}
    assert answer["message"].startswith("inputs[1]: ") and message in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) < 200
    assert post(address, {"inputs": [good]})[0] == 200


@pytest.mark.parametrize(
    "body", [{}, {"input": ["a"]}, {"inputs": 3}, {"inputs": [1]}, {"inputs": [None]}, [1], "text"]
)
def test_malformed_input_is_a_bad_request_without_a_stack_trace(address: str, body: object) -> None:
    status, answer = post(address, body)
    assert status == 400 and "stack_trace" not in answer and "Traceback" not in json.dumps(answer)
