"""What the server makes of good and bad requests: an answer, or a 4xx with one sentence; and it goes on."""

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from select import select
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from running import Reply, ask, connected, drawn, in_this_process, score, sent

from landuse.core.origins import OriginCheck
from landuse.core.paths import DATA, MODEL
from landuse.ml.classifier import Classifier
from landuse.serve import middleware
from landuse.serve.metrics import Metrics
from landuse.serve.middleware import LARGEST_BODY, Door
from landuse.serve.predictor import Answers

IMAGE = DATA / "forest" / "05.png"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def bomb(side: int) -> bytes:
    """A small PNG that says it has side × side pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def turned(number: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return drawn("JPEG", exif=exif)


GOOD = {
    "CMYK": drawn("JPEG", "CMYK"),
    "16 bits": drawn("PNG", "I;16"),
    "palette with alpha": drawn("PNG", "P", transparency=3),
    "turned": turned(6),
    "one pixel": drawn("PNG", size=(1, 1)),
    "animated": drawn("WEBP", save_all=True, append_images=[Image.new("RGB", (256, 256))]),
    "TIFF": drawn("TIFF", "L"),
}
BAD = {
    "nothing": b"",
    "text": b"hello",
    "SVG": SVG,
    "truncated": drawn("JPEG")[:500],
    "gzip": gzip.compress(drawn("PNG")),
    "bomb": bomb(40_000),
}


@pytest.mark.parametrize("name", GOOD)
def test_unusual_images_are_answered_as_everywhere(trained: Path, place: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "image").write_bytes(GOOD[name])
    said = Classifier(MODEL).predict(tmp_path / "image").model_dump()
    assert score(place, sent(GOOD[name])).content == {"predictions": [said]}
    assert ask(place, "/look", GOOD[name]).content["prediction"] == said


def check_refused(reply: Reply, words: str) -> None:
    """A 4xx with one sentence and nothing else."""
    assert 400 <= reply.status < 500 and reply.version.startswith("sha256:")
    assert set(reply.content) == {"error_code", "message"} and words in reply.content["message"]
    assert "\n" not in reply.content["message"] and len(reply.content["message"]) <= 300
    assert "Traceback" not in reply.body.decode()


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_and_the_next_request_is_answered(trained: Path, place: str, name: str) -> None:
    good = sent(IMAGE)
    check_refused(score(place, good, sent(BAD[name])), "inputs[1]: image cannot be decoded: ")
    check_refused(ask(place, "/look", BAD[name]), "image cannot be decoded: ")
    assert score(place, good).status == 200


@pytest.mark.parametrize(
    ("body", "words"),
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
def test_a_request_of_another_shape_is_a_bad_request(place: str, body: bytes, words: str) -> None:
    check_refused(ask(place, "/invocations", body), words)


@pytest.mark.parametrize("kind", ["text/plain", "text/csv", "application/x-www-form-urlencoded"])
def test_what_is_not_said_to_be_json_is_not_looked_at(place: str, kind: str) -> None:
    reply = ask(place, "/invocations", b"{}", kind)
    assert reply.status == 415
    check_refused(reply, "Content-Type: application/json")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/nothing", None, 404), ("/look", None, 405), ("/", b"", 405), ("/invocations", None, 405)],
)
def test_what_there_is_not_is_said_as_everything_else(place: str, path: str, body: bytes | None, status: int) -> None:
    reply = ask(place, path, body)
    assert reply.status == status
    check_refused(reply, "Not")


def test_several_images_and_paths_below_the_root_are_answered_in_order(trained: Path, place: str) -> None:
    paths = [DATA / label / "07.png" for label in ("water", "field", "forest")]
    expected = [Classifier(MODEL).predict(path).model_dump() for path in paths]
    assert score(place, *map(sent, paths)).content == {"predictions": expected}
    assert score(place, *(str(path.relative_to(DATA)) for path in paths)).content == {"predictions": expected}
    assert score(place).content == {"predictions": []}


def test_a_bad_file_below_the_root_is_named_as_the_request_did(answers: Answers, tmp_path: Path) -> None:
    for name in ("empty.png", "cut.png", "cut.tif"):
        (tmp_path / name).write_bytes(b"" if name == "empty.png" else drawn("TIFF" if name[-1] == "f" else "PNG")[:90])
    (tmp_path / "huge.png").write_bytes(bomb(40_000))
    with in_this_process(Answers(answers.model, Metrics(), None, str(tmp_path))) as place:
        for name in ("empty.png", "cut.png", "cut.tif", "huge.png", "./huge.png", f"file://{tmp_path}/cut.png"):
            reply = score(place, name)
            check_refused(reply, f"inputs[0]: {name[:80]!r}: image cannot be decoded: ")
            assert str(tmp_path) not in reply.content["message"].replace(name[:80], "")


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_mlflows_own_paths_are_there_and_every_answer_says_the_version(place: str, path: str) -> None:
    reply = ask(place, path)
    assert reply.status == 200 and reply.version.startswith("sha256:")


@contextmanager
def begun(place: str, *header: str) -> Iterator[HTTPConnection]:
    """A POST of which only the headers are sent."""
    with connected(place) as connection:
        connection.putrequest("POST", "/look")
        connection.putheader(*header)
        connection.endheaders()
        yield connection


def test_a_body_that_is_announced_as_too_large_is_refused_before_any_of_it_is_sent(place: str) -> None:
    with begun(place, "Content-Length", str(LARGEST_BODY + 1)) as connection, connection.getresponse() as reply:
        assert reply.status == 413 and json.load(reply)["message"] == "the request has more than 33,554,432 bytes"


def test_a_body_in_chunks_is_refused_once_it_is_too_large(place: str) -> None:
    with begun(place, "Transfer-Encoding", "chunked") as connection:
        for _ in range(32):
            connection.send(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        connection.send(b"1\r\n\0\r\n")
        with connection.getresponse() as reply:
            assert reply.status == 413 and "33,554,432" in json.load(reply)["message"]
    assert ask(place, "/ping").status == 200


def test_many_large_requests_at_once_are_not_all_held_and_the_next_ones_are_answered(place: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "LARGEST_HELD", 3_000_000)
    with begun(place, "Content-Length", "2000000") as half, begun(place, "Content-Length", "2000000") as other:
        half.send(bytes(1_900_000))
        other.send(bytes(1_900_000))
        with first_reply(half, other) as reply:
            assert reply.status == 503 and json.load(reply)["error_code"] == "SERVICE_UNAVAILABLE"
        assert score(place, sent(IMAGE_BYTES)).status == 200


def first_reply(*connections: HTTPConnection) -> HTTPResponse:
    """What the one says that is answered."""
    answered, *_ = select([connection.sock for connection in connections], [], [], 10)[0]
    return next(connection for connection in connections if connection.sock is answered).getresponse()


def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(place: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    with begun(place, "Content-Length", "1000") as connection, connection.getresponse() as reply:
        assert reply.status == 408 and "within 0.2 s" in json.load(reply)["message"]


def test_a_client_that_goes_away_in_the_middle_does_no_harm(place: str, capfd: pytest.CaptureFixture) -> None:
    with begun(place, "Content-Length", "1000") as connection:
        connection.send(b"abc")
    assert ask(place, "/ping").status == 200 and "Traceback" not in capfd.readouterr().err


def test_the_half_of_a_body_that_a_client_sent_before_it_went_away_is_not_answered() -> None:
    heard = [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return heard.pop(0)

    async def app(*_: Any) -> None:
        raise AssertionError("the app was asked")

    reply = asyncio.run(
        Door(app, None, OriginCheck("http://127.0.0.1:8080/")).reply(
            {"path": "/look", "method": "POST", "headers": []}, receive
        )
    )
    assert reply.status == 400 and b"did not come to its end" in reply.body


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_bytes_are_sent_as_an_image_it_is_answered_or_refused(place: str, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([*GOOD.values(), *BAD.values(), IMAGE_BYTES])))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8)):
        if position < len(content):
            content[position] = value
    cut = data.draw(st.integers(0, len(content)))
    for part in (bytes(content), bytes(content[:cut])):
        reply = ask(place, "/look", part)
        assert reply.status == 200 or check_refused(reply, "image cannot be decoded: ") is None


IMAGE_BYTES = drawn("PNG", size=(40, 30))


@pytest.mark.parametrize("fault", [RuntimeError("secret"), MemoryError(), ValueError("secret")])
def test_a_fault_of_its_own_is_said_to_be_one_and_the_log_says_which(
    place: str, answers: Answers, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, fault: Exception
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise fault

    monkeypatch.setattr(answers.model.classifier, "look", fail)
    for reply in (score(place, sent(IMAGE_BYTES)), ask(place, "/look", IMAGE_BYTES)):
        assert reply.status == 500 and reply.content["message"] == "the server failed on this request; its log says how"
    assert capfd.readouterr().err.count(type(fault).__name__) >= 2
    monkeypatch.undo()
    assert score(place, sent(IMAGE_BYTES)).status == 200
