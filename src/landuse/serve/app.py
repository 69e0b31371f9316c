"""The ASGI app: MLflow's scoring app, the page, and metrics for Prometheus."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import metadata
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
from landuse.serve.middleware import INVOCATIONS, RequestMiddleware
from landuse.serve.predictor import Predictor, ScoringModel, current_model

SCORING_PATHS = (INVOCATIONS, "/ping", "/health")
PACKAGES = {"landuse": "landuse", "mlflow": "mlflow-skinny"}  # by the name in the answer
THREADS = 64  # for requests in progress or waiting: more than the large images that may wait
PAGE = Path(__file__).with_name("page.html")
CONTENT_SECURITY_POLICY = "; ".join(
    ("default-src 'none'", "frame-ancestors 'none'", "img-src blob: data:", "connect-src 'self'")
    + ("script-src 'unsafe-inline'", "style-src 'unsafe-inline'")
)


class Worker(Protocol):
    """A background worker that runs as long as the server does."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Endpoints:
    """The endpoints beside those of MLflow's scoring app."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    async def page(self, _: Request) -> Response:
        """Return the page."""
        return FileResponse(PAGE, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def predict(self, request: Request) -> Response:
        """Return what the page shows for an image; the body is the image file."""
        content = await request.body()
        try:
            return JSONResponse(await asyncio.to_thread(self.predictor.predict_for_page, content))
        except Unavailable as error:
            return JSONResponse({"error_code": "TEMPORARILY_UNAVAILABLE", "message": str(error)}, 503)
        except LanduseError as error:
            return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": str(error)}, 400)

    async def version(self, _: Request) -> Response:
        """Return which version answers, the alias it follows, its classes, and the versions of landuse and MLflow."""
        model = current_model.get()
        about = {"model": model.version, "follows": self.predictor.follows, "classes": model.classifier.labels}
        return JSONResponse(about | {package: metadata.version(name) for package, name in PACKAGES.items()})

    async def metrics(self, _: Request) -> Response:
        """Return the metrics in Prometheus's text format."""
        return Response(self.predictor.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def build_app(predictor: Predictor, workers: Sequence[Worker], url: str, host: str = "") -> RequestMiddleware:
    """Build the whole app. The URL is printed once the server is ready; `host` is the name given with `--host`."""
    endpoints = Endpoints(predictor)
    scoring = scoring_server.init(ScoringModel(predictor))  # type: ignore[arg-type]  # stands in for a PyFuncModel
    scoring.user_middleware.clear()  # a timeout that stops no running work and costs every request half a ms
    routes = [
        Route("/", endpoints.page),
        Route("/predict", endpoints.predict, methods=["POST"]),
        Route("/version", endpoints.version),
        Route("/metrics", endpoints.metrics),
        *(Route(path, scoring) for path in SCORING_PATHS),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        for worker in workers:
            worker.start()
        print(f"{predictor.model.version} answers at {url}", flush=True)
        yield
        predictor.admission.close()
        for worker in workers:
            worker.close()

    app = Starlette(routes=routes, lifespan=lifespan)
    return RequestMiddleware(app, predictor, OriginCheck(url, host), [route.path for route in routes])
