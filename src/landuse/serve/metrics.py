"""What the server tells Prometheus about itself."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from landuse.ml.classifier import Prediction

PATHS = frozenset({"/", "/look", "/invocations", "/metrics", "/ping", "/health", "/version"})
SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.25, 0.5, 1, 2.5, 10)
CONFIDENCES = tuple(tenths / 10 for tenths in range(1, 11))


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for everything, that nobody reads
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "landuse_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "landuse_request_seconds", "Time a request took", ["path"], buckets=SECONDS, registry=registry
        )
        self.predictions = Counter("landuse_predictions", "Images answered, by class", ["label"], registry=registry)
        self.unsure = Counter("landuse_unsure_predictions", "Images answered as unsure", registry=registry)
        self.confidence = Histogram(
            "landuse_confidence", "Confidence of the answers", buckets=CONFIDENCES, registry=registry
        )
        self.model = Info("landuse_model", "The version that answers", registry=registry)
        self.following = Gauge(
            "landuse_following", "1: the champion answers. 0: it cannot be had, and an older version does",
            registry=registry,
        )  # fmt: skip
        self.following.set(1)
        self.lost = Counter("landuse_log_lost", "Predictions that could not be logged", registry=registry)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """One request; paths that there are not share a name, so that nobody can make up series."""
        path = path if path in PATHS else "other"
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def count(self, said: Prediction) -> None:
        """One image that was answered."""
        self.predictions.labels(said.label).inc()
        self.confidence.observe(said.confidence)
        self.unsure.inc(said.unsure)

    def show_model(self, version: str) -> None:
        """From now on another version answers."""
        self.model.info({"version": version})

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
