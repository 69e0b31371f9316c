"""The app: MLflow's own scoring app, the page beside it, and what Prometheus reads."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from mlflow.pyfunc import scoring_server
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.origins import OriginCheck
from landuse.serve.middleware import INVOCATIONS, Door
from landuse.serve.predictor import Answers, ScoringModel

SCORING = (INVOCATIONS, "/ping", "/health", "/version")
THREADS = 64  # of requests at work or waiting: more than the large images that may wait
PAGE = Path(__file__).with_name("page.html")
POLICY = "; ".join(
    ("default-src 'none'", "frame-ancestors 'none'", "img-src blob: data:", "connect-src 'self'")
    + ("script-src 'unsafe-inline'", "style-src 'unsafe-inline'")
)


class Helper(Protocol):
    """What works in the background as long as the server does."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Pages:
    """What there is beside MLflow's scoring app."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers

    async def show(self, _: Request) -> Response:
        """The page."""
        return FileResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    async def look(self, request: Request) -> Response:
        """What the page shows of an image, whose file is the body."""
        content = await request.body()
        try:
            return JSONResponse(await asyncio.to_thread(self.answers.answer_page, content))
        except Unavailable as error:
            return JSONResponse({"error_code": "TEMPORARILY_UNAVAILABLE", "message": str(error)}, 503)
        except LanduseError as error:
            return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}, 400)

    async def metrics(self, _: Request) -> Response:
        """What Prometheus reads."""
        return Response(self.answers.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def build_app(answers: Answers, helpers: Sequence[Helper], address: str, host: str = "") -> Door:
    """The whole server but for its socket; the address is said when it is ready. `host` is how it was named, if so."""
    pages, scoring = Pages(answers), scoring_server.init(ScoringModel(answers))
    scoring.user_middleware.clear()  # a time limit that ends no work under way, and costs every request half a ms
    routes = [Route("/", pages.show), Route("/look", pages.look, methods=["POST"]), Route("/metrics", pages.metrics)]
    routes += [Route(path, scoring) for path in SCORING]

    @asynccontextmanager
    async def at_work(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        for helper in helpers:
            helper.start()
        print(f"{answers.model.version} answers at {address}", flush=True)
        yield
        answers.admission.close()
        for helper in helpers:
            helper.close()

    return Door(Starlette(routes=routes, lifespan=at_work), answers, OriginCheck(address, host))
