"""The metrics count what happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from prometheus_client.parser import text_string_to_metric_families
from running import as_base64, fetch, score, serve_in_thread

from landuse.core.paths import DATA
from landuse.ml.classifier import Prediction
from landuse.serve.metrics import Metrics
from landuse.serve.predictor import Predictor


@pytest.fixture
def fresh(predictor: Predictor) -> Iterator[str]:
    """The URL of a server without any requests so far."""
    with serve_in_thread(Predictor(predictor.model, Metrics(), None, None)) as url:
        yield url


def read(url: str) -> dict[tuple, float]:
    """Return the value of each sample, by its name and label values."""
    families = text_string_to_metric_families(fetch(url, "/metrics").body.decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_requests_predictions_and_the_version_are_counted(trained: Path, fresh: str, predictor: Predictor) -> None:
    for label in tiny.LABELS:
        predictions = [score(fresh, *[as_base64(DATA / label / "07.png")] * 3).content["predictions"] for _ in range(2)]
    fetch(fresh, "/predict", b"garbage")
    fetch(fresh, "/made/up/1")
    fetch(fresh, "/made/up/2")
    samples = read(fresh)
    assert samples["landuse_requests_total", "/invocations", "200"] == 6
    assert (
        samples["landuse_requests_total", "/predict", "400"] == 1
        and samples["landuse_requests_total", "other", "404"] == 2
    )
    assert samples["landuse_request_seconds_count", "/invocations"] == 6
    assert 0 < samples["landuse_request_seconds_sum", "/invocations"] < 30
    counted = {key[1]: value for key, value in samples.items() if key[0] == "landuse_predictions_total"}
    assert (
        sum(counted.values()) == samples["landuse_confidence_count",] == 18 and counted[predictions[0][0]["label"]] >= 6
    )
    assert samples["landuse_model_info", predictor.model.version] == 1 and samples["landuse_following",] == 1
    assert samples["process_resident_memory_bytes",] > 1e7


def test_a_refused_image_is_not_counted_as_a_prediction(fresh: str) -> None:
    score(fresh, "garbage")
    samples = read(fresh)
    assert samples["landuse_requests_total", "/invocations", "400"] == 1
    assert samples["landuse_confidence_count",] == samples["landuse_unsure_predictions_total",] == 0


def test_only_an_unsure_prediction_is_counted_as_unsure() -> None:
    metrics = Metrics()
    for unsure in (False, True, False):
        metrics.count_prediction(Prediction(label="a", confidence=0.5, unsure=unsure, top=[], probabilities={}))
    assert metrics.registry.get_sample_value("landuse_unsure_predictions_total") == 1


def test_every_route_has_its_own_series_even_if_the_request_is_refused(fresh: str) -> None:
    paths = {"/", "/predict", "/invocations", "/metrics", "/ping", "/health", "/version"}
    for path in paths:
        fetch(fresh, path)
    assert {key[1] for key in read(fresh) if key[0] == "landuse_requests_total"} == paths


def test_unknown_paths_share_one_series(fresh: str) -> None:
    for number in range(5):
        fetch(fresh, f"/{number}")
    assert {key[1] for key in read(fresh) if key[0] == "landuse_requests_total"} == {"other"}
