"""The door of the server: what is too large stays outside, and whatever goes wrong leaves as one sentence of JSON."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landuse.serve.answers import SHAPE, UNEXPECTED, Answers, begun

LARGEST_BODY = 32 * 1024 * 1024
LARGEST_HELD = 8 * LARGEST_BODY  # of all requests that are being read or answered
BODY_SECONDS = 60
TOO_LARGE = f"the request has more than {LARGEST_BODY:,} bytes"
LONGEST = 300
VERSION_HEADER = b"x-model-version"
INVOCATIONS = "/invocations"
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


class Door:
    """Lets requests of up to 32 MB in, 256 MB at once, one model for each, and counts them."""

    def __init__(self, app: ASGIApp, answers: Answers) -> None:
        self.app, self.answers, self.held = app, answers, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, model = perf_counter(), self.answers.model
        begun.set(model)
        reply = await self.reply(scope, receive)
        self.answers.metrics.count_request(scope["path"], reply.status, perf_counter() - start)
        headers = [*reply.headers, (VERSION_HEADER, model.version.encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """What the app answers, or why it was not asked."""
        if scope["path"] == INVOCATIONS and scope["method"] != "POST":
            return refusal(405, f"Not {scope['method']} but POST: {SHAPE}")
        if scope["path"] == INVOCATIONS and not header(scope, b"content-type").startswith(b"application/json"):
            return refusal(415, "send JSON, with the header Content-Type: application/json")
        body = bytearray()
        try:
            refused = await self.read(scope, receive, body)
            return refused or await self.answer(scope, receive, bytes(body))
        finally:
            self.held -= len(body)

    async def read(self, scope: Scope, receive: Receive, body: bytearray) -> Reply | None:
        """Take the body of a request in; a refusal for one that is too much or too slow, of which the rest is left."""
        if int(header(scope, b"content-length") or 0) > LARGEST_BODY:
            return refusal(413, TOO_LARGE)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in parts(receive):
                    body += part
                    self.held += len(part)
                    if len(body) > LARGEST_BODY:
                        return refusal(413, TOO_LARGE)
                    if self.held > LARGEST_HELD:
                        return refusal(503, "the server is busy with other large requests; try again")
        except TimeoutError:
            return refusal(408, f"the request did not come to its end within {BODY_SECONDS} s")
        except ConnectionResetError:
            return refusal(400, "the request did not come to its end")
        return None

    async def answer(self, scope: Scope, receive: Receive, body: bytes) -> Reply:
        """What the app makes of a body."""
        reply = Reply()
        try:
            await self.app(scope, replayed(body, receive), reply.take)
        except Exception as error:
            if scope["path"] == INVOCATIONS and isinstance(error, ValueError | RecursionError):
                return refusal(400, f"the JSON cannot be read: {error}")  # MLflow lets some of it through
            traceback.print_exc()
            return refusal(500, UNEXPECTED)
        return reply if reply.status < 400 else tidy(reply)


def header(scope: Scope, name: bytes) -> bytes:
    """A header of the request, empty where there is none."""
    return dict(scope["headers"]).get(name, b"")


async def parts(receive: Receive) -> AsyncIterator[bytes]:
    """The parts of a body as they arrive. Raises ConnectionResetError where the client goes away before the last."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        more = message.get("more_body", False)
        yield message.get("body", b"")


def replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, as an app receives it; then whatever else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


def tidy(reply: Reply) -> Reply:
    """An error of the app as one sentence, without stack traces and without the request repeated."""
    try:
        said = json.loads(reply.body)
        code, message = said.get("error_code"), said.get("message") or said.get("detail")
    except (ValueError, AttributeError):
        code, message = None, reply.body.decode(errors="replace")
    return refusal(reply.status, SHAPE if str(message).startswith(OTHER_SHAPE) else str(message), code)


def refusal(status: int, message: str, code: str | None = None) -> Reply:
    """An error as MLflow's are: a code, and a sentence on one line."""
    line = (message.strip().splitlines() or [HTTPStatus(status).phrase])[0][:LONGEST]
    body = json.dumps({"error_code": code or HTTPStatus(status).name, "message": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return Reply(status, headers, body)
