"""Requests that ask whether a server answers."""

from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

TIMEOUT_SECONDS = 5


def http_status(request: Request, proxies: ProxyHandler) -> int | None:
    """Return the status code of a request; None without an answer in HTTP."""
    try:
        with build_opener(proxies).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code
    except (OSError, HTTPException, UnicodeError):  # the last for a host that no name service can be asked for
        return None
