"""The door of the server: what is too large stays outside, and whatever goes wrong leaves as one sentence of JSON."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from functools import partial
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landuse.core.origins import Headers, OriginCheck
from landuse.serve.predictor import UNEXPECTED, Answers, begun
from landuse.serve.reply import SHAPE, Reply, refusal, tidy

LARGEST_BODY = 32 * 1024 * 1024
LARGEST_HELD = 8 * LARGEST_BODY  # of all requests that are being read or answered
BODY_SECONDS = 20  # for a body to come, and one more for every SLOWEST bytes of it
SLOWEST = 500_000  # bytes per second
TOO_LARGE = f"the request has more than {LARGEST_BODY:,} bytes"
VERSION_HEADER = b"x-model-version"
INVOCATIONS = "/invocations"
early = partial(refusal, closing=True)  # an answer to a request whose body is not read, or not to its end


class Door:
    """Lets requests of up to 32 MB in, 256 MB at once, one model for each, and counts them."""

    def __init__(self, app: ASGIApp, answers: Answers, origins: OriginCheck) -> None:
        self.app, self.answers, self.origins, self.held = app, answers, origins, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, model = perf_counter(), self.answers.model
        begun.set(model)
        try:
            reply = await self.reply(scope, receive)
        except asyncio.CancelledError:  # the server ends, and has waited for this one as long as it may
            reply = early(503, "the server ended before it could answer; try again")
        self.answers.metrics.count_request(scope["path"], reply.status, perf_counter() - start)
        headers = [*reply.headers, (VERSION_HEADER, model.version.encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def reply(self, scope: Scope, receive: Receive) -> Reply:
        """What the app answers, or why it was not asked."""
        headers: Headers = dict(scope["headers"])
        refused = self.refuse(scope, headers)
        if refused:
            return refused
        body = bytearray()
        try:
            refused = await self.read(receive, body)
            return refused or await self.answer(scope, receive, bytes(body))
        finally:
            self.held -= len(body)

    def refuse(self, scope: Scope, headers: Headers) -> Reply | None:
        """Why a request is not let in, as far as its headers say."""
        if objection := self.origins.objection(scope["method"], headers):
            return early(*objection)
        if b"transfer-encoding" in headers and b"content-length" in headers:
            return early(400, "Content-Length and Transfer-Encoding contradict each other: send one of them")
        if int(headers.get(b"content-length", 0)) > LARGEST_BODY:
            return early(413, TOO_LARGE)
        if scope["path"] != INVOCATIONS:
            return None
        if scope["method"] != "POST":
            return early(405, f"Not {scope['method']} but POST: {SHAPE}")
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            return early(415, "send JSON, with the header Content-Type: application/json")
        return None

    async def read(self, receive: Receive, body: bytearray) -> Reply | None:
        """Take the body of a request in; a refusal for one that is too much or too slow, of which the rest is left."""
        try:
            async with asyncio.timeout(BODY_SECONDS) as limit:
                end = limit.when()
                async for part in parts(receive):
                    body += part
                    self.held += len(part)
                    limit.reschedule(end + len(body) / SLOWEST)
                    if len(body) > LARGEST_BODY:
                        return early(413, TOO_LARGE)
                    if self.held > LARGEST_HELD:
                        return early(503, "the server is busy with other large requests; try again")
        except TimeoutError:
            slow = f"{BODY_SECONDS} s and one more for every {SLOWEST:,} bytes"
            return early(408, f"the request did not come to its end within {slow}")
        except ConnectionResetError:
            return early(400, "the request did not come to its end")
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
