"""Complete HTTP replies; an error is one sentence of JSON, in MLflow's format."""

import json
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.types import Message

MAX_MESSAGE_LENGTH = 300
RETRY_AFTER = (b"retry-after", b"5")  # seconds
CONNECTION_CLOSE = (b"connection", b"close")
EXPECTED_INPUT = 'send {"inputs": [image, ...]}, every image as text in base64'
MLFLOW_INPUT_ERRORS = ("Invalid input", "Request payload")  # how MLflow's messages about unexpected JSON begin
Header = tuple[bytes, bytes]


@dataclass
class Reply:
    """A complete reply, ready to send."""

    status: int = 500
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""

    async def collect(self, message: Message) -> None:
        """Add a part of the reply; serves as the app's `send`."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


def error_reply(status: int, message: str, code: str | None = None, close: bool = False) -> Reply:
    """Return an error in MLflow's format: a code, and a one-line message. `close` ends the connection after it."""
    line = (message.strip().splitlines() or [HTTPStatus(status).phrase])[0][:MAX_MESSAGE_LENGTH]
    body = json.dumps({"error_code": code or HTTPStatus(status).name, "message": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [RETRY_AFTER] if status == HTTPStatus.SERVICE_UNAVAILABLE else []
    return Reply(status, headers + [CONNECTION_CLOSE] if close else headers, body)


def sanitize_error(reply: Reply) -> Reply:
    """Reduce an error of the app to one sentence, without stack traces and without echoing the request."""
    try:
        content = json.loads(reply.body)
        code, message = content.get("error_code"), content.get("message") or content.get("detail")
    except (ValueError, AttributeError):
        code, message = None, reply.body.decode(errors="replace")
    known = str(message).startswith(MLFLOW_INPUT_ERRORS)
    return error_reply(reply.status, EXPECTED_INPUT if known else str(message), code)
