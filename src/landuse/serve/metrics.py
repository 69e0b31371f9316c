"""Prometheus metrics of the server."""

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

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.25, 0.5, 1, 2.5, 10)
CONFIDENCES = tuple(tenths / 10 for tenths in range(1, 11))


class Metrics:
    """Metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # drops a second series per metric that nobody reads
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
            "landuse_following", "1: the champion answers. 0: it cannot be loaded, and an older version answers",
            registry=registry,
        )  # fmt: skip
        self.following.set(1)
        self.lost = Counter("landuse_log_lost", "Predictions that could not be logged", registry=registry)

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request; the caller bounds the number of paths."""
        self.requests.labels(path, status).inc()
        self.seconds.labels(path).observe(seconds)

    def count_prediction(self, prediction: Prediction) -> None:
        """Count a classified image."""
        self.predictions.labels(prediction.label).inc()
        self.confidence.observe(prediction.confidence)
        self.unsure.inc(prediction.unsure)

    def set_version(self, version: str) -> None:
        """Set the version being served."""
        self.model.info({"version": version})

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)
