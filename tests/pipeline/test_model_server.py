"""`mlflow models serve` answers with the registered model; what it cannot answer is one sentence, and it goes on."""

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
    """A real model server for the challenger, with the data set as its root; yields its address."""
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


def ask(address: str, body: object) -> tuple[int, dict]:
    """Status and content of an answer."""
    request = Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as refused:
        return refused.code, json.load(refused)


def sent(content: bytes) -> str:
    return base64.b64encode(content).decode()


def drawn(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A picture in some format."""
    file = BytesIO()
    Image.linear_gradient("L").convert(mode).save(file, kind, **options)
    return file.getvalue()


def test_images_and_paths_are_answered_as_landuse_predict_does(whole_run: Workspace, address: str) -> None:
    path = next((whole_run.folder / "data").glob("*/*.png"))
    printed = whole_run.ok("landuse", "predict", str(path), "--model", MODEL).splitlines()[1].split(",")
    named = path.relative_to(whole_run.folder / "data").as_posix()
    status, answer = ask(address, {"inputs": [sent(path.read_bytes()), named, path.as_uri()]})
    assert status == 200 and len({json.dumps(said) for said in answer["predictions"]}) == 1
    said = answer["predictions"][0]
    assert said["label"] == printed[1] and said["confidence"] == pytest.approx(float(printed[2]), abs=1e-3)
    assert said["unsure"] == (printed[3] == "true") and len(said["top"]) == 5 and len(said["probabilities"]) == 10


@pytest.mark.parametrize(
    "content",
    [drawn("JPEG", "CMYK"), drawn("PNG", "I;16"), drawn("PNG", "P", transparency=3), drawn("WEBP"), drawn("TIFF", "L")],
)
def test_unusual_images_are_answered(address: str, content: bytes) -> None:
    assert ask(address, {"inputs": [sent(content)]})[0] == 200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        (sent(SVG), "cannot be decoded: not a TIFF, JPEG, PNG or WebP image"),
        (sent(drawn("JPEG")[:400]), "cannot be decoded: "),
        ("no base64!", "is not in base64"),
        ("../params.yaml", "is no file below the folder that LANDUSE_ROOT names"),
        ("/etc/hostname.png", "is no file below the folder that LANDUSE_ROOT names"),
    ],
)
def test_one_bad_image_is_refused_by_its_place_in_one_sentence_and_the_next_request_is_answered(
    address: str, text: str, words: str
) -> None:
    good = sent(drawn("PNG"))
    status, answer = ask(address, {"inputs": [good, text]})
    assert status == 400 and set(answer) == {"error_code", "message"}
    assert answer["message"].startswith("inputs[1]: ") and words in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) < 200
    assert ask(address, {"inputs": [good]})[0] == 200


@pytest.mark.parametrize(
    "body", [{}, {"input": ["a"]}, {"inputs": 3}, {"inputs": [1]}, {"inputs": [None]}, [1], "text"]
)
def test_a_request_of_another_shape_is_a_bad_request_without_a_stack_trace(address: str, body: object) -> None:
    status, answer = ask(address, body)
    assert status == 400 and "stack_trace" not in answer and "Traceback" not in json.dumps(answer)
