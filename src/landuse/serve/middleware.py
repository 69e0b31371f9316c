"""Middleware around the app: limits on requests, one model per request, and one-sentence JSON errors."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Iterable
from functools import partial
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landuse.core.origins import Headers, OriginCheck
from landuse.serve.predictor import INTERNAL_ERROR_MESSAGE, Predictor, current_model
from landuse.serve.reply import EXPECTED_INPUT, Reply, error_reply, sanitize_error

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_BUFFERED_BYTES = 8 * MAX_BODY_BYTES  # across all requests being read or answered
BODY_SECONDS = 20  # for a body to arrive, plus one second for every MIN_BYTES_PER_SECOND bytes of it
MIN_BYTES_PER_SECOND = 500_000
TOO_LARGE = f"the request has more than {MAX_BODY_BYTES:,} bytes"
VERSION_HEADER = b"x-model-version"
INVOCATIONS = "/invocations"
UNKNOWN_PATH = "other"  # the metrics' label
refuse = partial(error_reply, close=True)  # reply to a request whose body was not read completely


class RequestMiddleware:
    """Buffers requests of up to 32 MB each and 256 MB in total, binds each to one model, and counts them.

    `paths` are those the app serves: the others share one label in the metrics, to bound cardinality.
    """

    def __init__(self, app: ASGIApp, predictor: Predictor, origins: OriginCheck, paths: Iterable[str]) -> None:
        self.app, self.predictor, self.origins, self.paths = app, predictor, origins, frozenset(paths)
        self.buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, model = perf_counter(), self.predictor.model
        current_model.set(model)
        try:
            reply = await self.respond(scope, receive)
        except asyncio.CancelledError:  # the grace period of the shutdown is over
            reply = refuse(503, "the server ended before it could answer; try again")
        path = scope["path"] if scope["path"] in self.paths else UNKNOWN_PATH
        self.predictor.metrics.count_request(path, reply.status, perf_counter() - start)
        headers = [*reply.headers, (VERSION_HEADER, model.version.encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def respond(self, scope: Scope, receive: Receive) -> Reply:
        """Return the app's reply, or a refusal."""
        headers: Headers = dict(scope["headers"])
        refusal = self.check_headers(scope, headers)
        if refusal:
            return refusal
        body = bytearray()
        try:
            refusal = await self.read_body(receive, body)
            return refusal or await self.call_app(scope, receive, bytes(body))
        finally:
            self.buffered_bytes -= len(body)

    def check_headers(self, scope: Scope, headers: Headers) -> Reply | None:
        """Return a refusal if the headers alone suffice to refuse the request."""
        if objection := self.origins.objection(scope["method"], headers):
            return refuse(*objection)
        if b"transfer-encoding" in headers and b"content-length" in headers:
            return refuse(400, "Content-Length and Transfer-Encoding contradict each other: send one of them")
        if int(headers.get(b"content-length", 0)) > MAX_BODY_BYTES:
            return refuse(413, TOO_LARGE)
        if scope["path"] != INVOCATIONS:
            return None
        if scope["method"] != "POST":
            return refuse(405, f"Not {scope['method']} but POST: {EXPECTED_INPUT}")
        if not headers.get(b"content-type", b"").startswith(b"application/json"):
            return refuse(415, "send JSON, with the header Content-Type: application/json")
        return None

    async def read_body(self, receive: Receive, body: bytearray) -> Reply | None:
        """Read the body into `body`; stop and return a refusal if it is too large or too slow."""
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                async for chunk in body_chunks(receive):
                    body += chunk
                    self.buffered_bytes += len(chunk)
                    timeout.reschedule(deadline + len(body) / MIN_BYTES_PER_SECOND)
                    if len(body) > MAX_BODY_BYTES:
                        return refuse(413, TOO_LARGE)
                    if self.buffered_bytes > MAX_BUFFERED_BYTES:
                        return refuse(503, "the server is busy with other large requests; try again")
        except TimeoutError:
            limit = f"{BODY_SECONDS} s and one more for every {MIN_BYTES_PER_SECOND:,} bytes"
            return refuse(408, f"the request did not come to its end within {limit}")
        except ConnectionResetError:
            return refuse(400, "the request did not come to its end")
        return None

    async def call_app(self, scope: Scope, receive: Receive, body: bytes) -> Reply:
        """Return the app's reply to a complete body; errors become one sentence of JSON."""
        reply = Reply()
        try:
            await self.app(scope, replay_body(body, receive), reply.collect)
        except Exception as error:
            if scope["path"] == INVOCATIONS and isinstance(error, ValueError | RecursionError):
                return error_reply(400, f"the JSON cannot be read: {error}")  # MLflow does not catch all of these
            traceback.print_exc()
            return error_reply(500, INTERNAL_ERROR_MESSAGE)
        return reply if reply.status < 400 else sanitize_error(reply)


async def body_chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the chunks of a body as they arrive. Raises ConnectionResetError if the client disconnects early."""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError
        more = message.get("more_body", False)
        yield message.get("body", b"")


def replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields a body already read, then whatever else arrives."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message
