"""Servers behind a login, for tests of what is told of it: an archive, and whatever another server answers."""

import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

DIRECT = build_opener(ProxyHandler({}))


class Locked(BaseHTTPRequestHandler):
    """Answers who knows the login and, if one is asked for, the token."""

    protocol_version = "HTTP/1.1"

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        scheme, _, sent = (self.headers["Authorization"] or "").partition(" ")
        known = scheme == "Basic" and b64decode(sent).decode() == self.server.login
        if not known or self.server.token not in self.path:
            return self.answer(401, b"")
        if self.server.archive is not None:
            return self.answer(200, self.server.archive)
        kept = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
        request = Request(self.server.behind + self.path, body or None, kept, method=self.command)
        try:
            with DIRECT.open(request, timeout=60) as answer:
                self.answer(answer.status, answer.read(), answer.headers["Content-Type"])
        except HTTPError as error:
            self.answer(error.code, error.read(), error.headers["Content-Type"])

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_one

    def answer(self, status: int, body: bytes, kind: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def locked(user: str, password: str, token: str = "", archive: bytes | None = None, behind: str = "") -> Iterator[str]:
    """The address, login and all, of a server that serves an archive, or what the server behind it answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Locked) as server:
        server.login, server.token, server.archive, server.behind = f"{user}:{password}", token, archive, behind
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{server.server_port}"
        server.shutdown()
