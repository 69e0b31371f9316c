"""A whole answer; one that refuses is one sentence of JSON, as MLflow's are."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.types import Message

LONGEST = 300
RETRY_AFTER = (b"retry-after", b"5")  # seconds
CLOSING = (b"connection", b"close")
SHAPE = 'send {"inputs": [image, ...]}, every image as text in base64'
OTHER_SHAPE = ("Invalid input", "Request payload")  # so begins what MLflow says of JSON that it does not expect
Header = tuple[bytes, bytes]


@dataclass
class Reply:
    """A whole answer, as it goes out."""

    status: int = 500
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""

    async def take(self, message: Message) -> None:
        """A part of the answer, as the app sends it."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


def refusal(status: int, message: str, code: str | None = None, closing: bool = False) -> Reply:
    """An error as MLflow's are: a code, and a sentence on one line. `closing` where the request was not read whole."""
    line = (message.strip().splitlines() or [HTTPStatus(status).phrase])[0][:LONGEST]
    body = json.dumps({"error_code": code or HTTPStatus(status).name, "message": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [RETRY_AFTER] if status == HTTPStatus.SERVICE_UNAVAILABLE else []
    return Reply(status, headers + [CLOSING] if closing else headers, body)


def tidy(reply: Reply) -> Reply:
    """An error of the app as one sentence, without stack traces and without the request repeated."""
    try:
        said = json.loads(reply.body)
        code, message = said.get("error_code"), said.get("message") or said.get("detail")
    except (ValueError, AttributeError):
        code, message = None, reply.body.decode(errors="replace")
    return refusal(reply.status, SHAPE if str(message).startswith(OTHER_SHAPE) else str(message), code)
