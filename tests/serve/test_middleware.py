"""Requests get a prediction or a one-sentence error, and none of them stops the server."""

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from importlib.metadata import version
from pathlib import Path
from select import select
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from running import Reply, as_base64, fetch, gradient, open_connection, score, serve_in_thread

from landuse.core.origins import OriginCheck
from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier
from landuse.serve import middleware
from landuse.serve.metrics import Metrics
from landuse.serve.middleware import MAX_BODY_BYTES, RequestMiddleware
from landuse.serve.predictor import Predictor

IMAGE = DATA / "forest" / "05.png"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def bomb(side: int) -> bytes:
    """Return a small PNG whose header claims side × side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return gradient("JPEG", exif=exif)


GOOD = {
    "CMYK": gradient("JPEG", "CMYK"),
    "16 bits": gradient("PNG", "I;16"),
    "palette with alpha": gradient("PNG", "P", transparency=3),
    "rotated": rotated(6),
    "one pixel": gradient("PNG", size=(1, 1)),
    "animated": gradient("WEBP", save_all=True, append_images=[Image.new("RGB", (256, 256))]),
    "TIFF": gradient("TIFF", "L"),
}
BAD = {
    "empty": b"",
    "text": b"hello",
    "SVG": SVG,
    "truncated": gradient("JPEG")[:500],
    "gzip": gzip.compress(gradient("PNG")),
    "bomb": bomb(40_000),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_images_get_the_same_prediction_as_elsewhere(
    trained: Path, url: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "image").write_bytes(GOOD[name])
    expected = Classifier(MODEL).predict(tmp_path / "image").model_dump()
    assert score(url, as_base64(GOOD[name])).content == {"predictions": [expected]}
    assert fetch(url, "/predict", GOOD[name]).content["prediction"] == expected


def check_refused(reply: Reply, message: str) -> None:
    """Check that the reply is a 4xx with one sentence and nothing else."""
    assert 400 <= reply.status < 500 and reply.version.startswith("sha256:")
    assert set(reply.content) == {"error_code", "message"} and message in reply.content["message"]
    assert "\n" not in reply.content["message"] and len(reply.content["message"]) <= 300
    assert "Traceback" not in reply.body.decode()


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_image_is_refused_and_the_next_request_succeeds(trained: Path, url: str, name: str) -> None:
    good = as_base64(IMAGE)
    check_refused(score(url, good, as_base64(BAD[name])), "inputs[1]: image cannot be decoded: ")
    check_refused(fetch(url, "/predict", BAD[name]), "image cannot be decoded: ")
    assert score(url, good).status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", 'send {"inputs": [image, ...]}'),
        (b"{", 'send {"inputs": [image, ...]}'),
        (b"null", 'send {"inputs": [image, ...]}'),
        (b"\xff\xfe", 'send {"inputs": [image, ...]}'),
        (b"[" * 100_000, "the JSON cannot be read"),
        (b'{"inputs": [' + b"1" * 5000 + b"]}", "the JSON cannot be read"),
        (b"[]", 'send {"inputs": [image, ...]}'),
        (b"{}", 'send {"inputs": [image, ...]}'),
        (b'{"instances": ["aGVsbG8="]}', 'send {"inputs": [image, ...]}'),
        (b'{"input": ["aGVsbG8="]}', 'send {"inputs": [image, ...]}'),
        (b'{"inputs": "aGVsbG8="}', 'send {"inputs": [image, ...]}'),
        (b'{"inputs": [null]}', 'send {"inputs": [image, ...]}'),
        (b'{"inputs": [' + b'"aGVsbG8=", ' * 1000 + b'""]}', "inputs has 1,001 images: send at most 1,000 at once"),
        (b'{"messages": []}', 'send {"inputs": [image, ...]}'),
        (b'{"inputs": ["no base64!"]}', "inputs[0]: image is not in base64"),
        (b'{"inputs": ["../params.yaml"]}', "is no file below the folder that LANDUSE_ROOT names"),
        (b'{"inputs": ["/etc/hostname"]}', "inputs[0]: image is not in base64"),
    ],
)
def test_malformed_input_is_a_bad_request(url: str, body: bytes, message: str) -> None:
    check_refused(fetch(url, "/invocations", body), message)


@pytest.mark.parametrize("content_type", ["text/plain", "text/csv", "application/x-www-form-urlencoded"])
def test_other_content_types_than_json_are_refused(url: str, content_type: str) -> None:
    reply = fetch(url, "/invocations", b"{}", content_type)
    assert reply.status == 415
    check_refused(reply, "Content-Type: application/json")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/nothing", None, 404), ("/predict", None, 405), ("/", b"", 405), ("/invocations", None, 405)],
)
def test_routing_errors_have_the_same_format_as_all_others(
    url: str, path: str, body: bytes | None, status: int
) -> None:
    reply = fetch(url, path, body)
    assert reply.status == status
    check_refused(reply, "Not")


def test_images_and_paths_below_the_root_are_predicted_in_order(trained: Path, url: str) -> None:
    paths = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    expected = [Classifier(MODEL).predict(path).model_dump() for path in paths]
    assert score(url, *map(as_base64, paths)).content == {"predictions": expected}
    assert score(url, *(str(path.relative_to(DATA)) for path in paths)).content == {"predictions": expected}
    assert score(url).content == {"predictions": []}


def test_an_error_names_a_file_as_the_request_did(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("empty.png", "cut.png", "cut.tif"):
        content = gradient("TIFF" if name == "cut.tif" else "PNG")
        (tmp_path / name).write_bytes(b"" if name == "empty.png" else content[:90])
    (tmp_path / "huge.png").write_bytes(bomb(40_000))
    with serve_in_thread(Predictor(predictor.model, Metrics(), None, str(tmp_path))) as url:
        for name in ("empty.png", "cut.png", "cut.tif", "huge.png", "./huge.png", f"file://{tmp_path}/cut.png"):
            reply = score(url, name)
            check_refused(reply, f"inputs[0]: {name[:80]!r}: image cannot be decoded: ")
            assert str(tmp_path) not in reply.content["message"].replace(name[:80], "")


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_mlflows_paths_are_served_and_every_reply_has_the_version(url: str, path: str) -> None:
    reply = fetch(url, path)
    assert reply.status == 200 and reply.version.startswith("sha256:")


def test_the_version_names_the_model_its_classes_and_the_packages(url: str) -> None:
    reply = fetch(url, "/version")
    model = {"model": reply.version, "follows": None, "classes": ["field", "forest", "water"]}
    assert reply.content == model | {"landuse": version("landuse"), "mlflow": version("mlflow-skinny")}


@contextmanager
def start_post(url: str, *header: str) -> Iterator[HTTPConnection]:
    """Start a POST by sending its headers only."""
    with open_connection(url) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader(*header)
        connection.endheaders()
        yield connection


def test_a_content_length_over_the_limit_is_refused_before_the_body_is_sent(url: str) -> None:
    with start_post(url, "Content-Length", str(MAX_BODY_BYTES + 1)) as connection, connection.getresponse() as reply:
        assert reply.status == 413 and json.load(reply)["message"] == "the request has more than 33,554,432 bytes"


def test_a_chunked_body_is_refused_once_it_exceeds_the_limit(url: str) -> None:
    with start_post(url, "Transfer-Encoding", "chunked") as connection:
        for _ in range(32):
            connection.send(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        connection.send(b"1\r\n\0\r\n")
        with connection.getresponse() as reply:
            assert reply.status == 413 and "33,554,432" in json.load(reply)["message"]
    assert fetch(url, "/ping").status == 200


def test_buffered_requests_are_bounded_in_total_and_later_ones_succeed(url: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "MAX_BUFFERED_BYTES", 3_000_000)
    with start_post(url, "Content-Length", "2000000") as first, start_post(url, "Content-Length", "2000000") as second:
        first.send(bytes(1_900_000))
        second.send(bytes(1_900_000))
        with first_reply(first, second) as reply:
            assert reply.status == 503 and json.load(reply)["error_code"] == "SERVICE_UNAVAILABLE"
        assert score(url, as_base64(IMAGE_BYTES)).status == 200


def first_reply(*connections: HTTPConnection) -> HTTPResponse:
    """Return the response of whichever connection gets one first."""
    readable, *_ = select([connection.sock for connection in connections], [], [], 10)[0]
    return next(connection for connection in connections if connection.sock is readable).getresponse()


def test_an_incomplete_body_times_out(url: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    with start_post(url, "Content-Length", "1000") as connection, connection.getresponse() as reply:
        assert reply.status == 408 and "within 0.2 s" in json.load(reply)["message"]


def test_a_client_that_disconnects_midway_does_no_harm(url: str, capfd: pytest.CaptureFixture) -> None:
    with start_post(url, "Content-Length", "1000") as connection:
        connection.send(b"abc")
    assert fetch(url, "/ping").status == 200 and "Traceback" not in capfd.readouterr().err


def test_a_partial_body_of_a_disconnected_client_is_not_passed_to_the_app() -> None:
    messages = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def app(*_: Any) -> None:
        raise AssertionError("the app was called")

    reply = asyncio.run(
        RequestMiddleware(app, None, OriginCheck("http://127.0.0.1:8080/"), []).respond(
            {"path": "/predict", "method": "POST", "headers": []}, receive
        )
    )
    assert reply.status == 400 and b"did not come to its end" in reply.body


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_bytes_sent_as_an_image_are_predicted_or_refused(url: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([*GOOD.values(), *BAD.values(), IMAGE_BYTES])))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8)):
        if position < len(content):
            content[position] = value
    cut = data.draw(st.integers(0, len(content)))
    for part in (bytes(content), bytes(content[:cut])):
        reply = fetch(url, "/predict", part)
        assert reply.status == 200 or check_refused(reply, "image cannot be decoded: ") is None


IMAGE_BYTES = gradient("PNG", size=(40, 30))


@pytest.mark.parametrize("error", [RuntimeError("secret"), MemoryError(), ValueError("secret")])
def test_an_internal_error_is_a_500_and_is_logged(
    url: str, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise error

    monkeypatch.setattr(predictor.model.classifier, "predict_with_embedding", fail)
    for reply in (score(url, as_base64(IMAGE_BYTES)), fetch(url, "/predict", IMAGE_BYTES)):
        assert reply.status == 500 and reply.content["message"] == "the server failed on this request; its log says how"
    assert capfd.readouterr().err.count(type(error).__name__) >= 2
    monkeypatch.undo()
    assert score(url, as_base64(IMAGE_BYTES)).status == 200
