"""What Prometheus reads is what happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from prometheus_client.parser import text_string_to_metric_families
from running import ask, in_this_process, score, sent

from landuse.core.paths import DATA
from landuse.serve.metrics import Metrics
from landuse.serve.predictor import Answers


@pytest.fixture
def fresh(answers: Answers) -> Iterator[str]:
    """The address of a server that was asked nothing yet."""
    with in_this_process(Answers(answers.model, Metrics(), None, None)) as place:
        yield place


def read(place: str) -> dict[tuple, float]:
    """Every sample by its name and the values of its labels."""
    families = text_string_to_metric_families(ask(place, "/metrics").body.decode())
    return {(sample.name, *sample.labels.values()): sample.value for each in families for sample in each.samples}


def test_requests_predictions_and_the_version_are_counted(trained: Path, fresh: str, answers: Answers) -> None:
    for label in tiny.LABELS:
        said = [score(fresh, *[sent(DATA / label / "07.png")] * 3).content["predictions"] for _ in range(2)]
    ask(fresh, "/look", b"rubbish")
    ask(fresh, "/made/up/1")
    ask(fresh, "/made/up/2")
    found = read(fresh)
    assert found["landuse_requests_total", "/invocations", "200"] == 6
    assert found["landuse_requests_total", "/look", "400"] == 1 and found["landuse_requests_total", "other", "404"] == 2
    assert found["landuse_request_seconds_count", "/invocations"] == 6
    assert 0 < found["landuse_request_seconds_sum", "/invocations"] < 30
    counted = {key[1]: value for key, value in found.items() if key[0] == "landuse_predictions_total"}
    assert sum(counted.values()) == found["landuse_confidence_count",] == 18 and counted[said[0][0]["label"]] >= 6
    assert found["landuse_model_info", answers.model.version] == 1 and found["landuse_following",] == 1
    assert found["process_resident_memory_bytes",] > 1e7


def test_an_image_that_is_refused_is_no_prediction(fresh: str) -> None:
    score(fresh, "rubbish")
    found = read(fresh)
    assert found["landuse_requests_total", "/invocations", "400"] == 1
    assert found["landuse_confidence_count",] == found["landuse_unsure_predictions_total",] == 0


def test_nothing_but_known_paths_makes_a_series(fresh: str) -> None:
    for number in range(5):
        ask(fresh, f"/{number}")
    assert {key[1] for key in read(fresh) if key[0] == "landuse_requests_total"} == {"other"}
