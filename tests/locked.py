"""Servers that require a login, for tests that it does not leak: one serves an archive, one proxies another server."""

import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

DIRECT = build_opener(ProxyHandler({}))


class LoginHandler(BaseHTTPRequestHandler):
    """Replies only to requests with the login and, if there is one, the token."""

    protocol_version = "HTTP/1.1"

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        scheme, _, sent = (self.headers["Authorization"] or "").partition(" ")
        authorized = scheme == "Basic" and b64decode(sent).decode() == self.server.login
        if not authorized or self.server.token not in self.path:
            return self.reply(401, b"")
        if self.server.archive is not None:
            return self.reply(200, self.server.archive)
        headers = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
        request = Request(self.server.upstream + self.path, body or None, headers, method=self.command)
        try:
            with DIRECT.open(request, timeout=60) as response:
                self.reply(response.status, response.read(), response.headers["Content-Type"])
        except HTTPError as error:
            self.reply(error.code, error.read(), error.headers["Content-Type"])

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_request

    def reply(self, status: int, body: bytes, content_type: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def login_server(
    user: str, password: str, token: str = "", archive: bytes | None = None, upstream: str = ""
) -> Iterator[str]:
    """Run a server that serves an archive or proxies the upstream server; yields its address with the login."""
    with ThreadingHTTPServer(("127.0.0.1", 0), LoginHandler) as server:
        server.login, server.token, server.archive, server.upstream = f"{user}:{password}", token, archive, upstream
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{quote(user, safe='')}:{quote(password, safe='')}@127.0.0.1:{server.server_port}"
        server.shutdown()
