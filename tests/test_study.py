"""Studies: which networks are compared, what the table and the page say, and what is refused before anything runs."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import SERVICES
from landuse.core.process import exclusive_lock
from landuse.gate.scoring import ScoredImages
from landuse.params import NetworkParams, Params, StudyParams, load_params
from landuse.study import study
from landuse.study.networks import Network, network_names, resolve_networks
from landuse.study.page import render
from landuse.study.results import NetworkResult, read_scored, table

PRESET = load_params(tiny.ROOT / "presets" / "tutorial.yaml")
BLOCKS = [
    {"block": "block_1", "filters": 32, "dead": 1, "dead_int8": 2, "silent": 9, "silent_int8": 11},
    {"block": "block_2", "filters": 96, "dead": 0, "dead_int8": 0, "silent": 1, "silent_int8": 0},
]


FILTERS = {name: {"filters": 32, "dead": 0, "weakest": 0.01, "median": 0.4} for name in ("block_1", "block_2")}


def with_networks(*networks: NetworkParams) -> Params:
    """Return the preset with other networks to compare."""
    return replace(PRESET, study=StudyParams(networks=networks))


def test_a_network_takes_what_it_does_not_say_from_extract_and_train() -> None:
    first, second = resolve_networks(
        with_networks(NetworkParams(), NetworkParams(backbone="mobilenet", image_size=192, unfreeze_from="block_12"))
    )
    usual = {"backbone": "mobilenet_v2", "alpha": 1.0, "image_size": 224, "weights": "imagenet"}
    assert first.settings == usual | {"unfreeze_from": "head"}
    assert second.settings == usual | {"backbone": "mobilenet", "image_size": 192, "unfreeze_from": "block_12"}


def test_the_params_of_a_network_are_those_of_the_project_but_for_its_settings(project: Path) -> None:
    tiny.write_params(project, {"data": {"source": "https://user:planted@host/a.zip"}})
    settings = {"backbone": "mobilenet", "alpha": 0.5, "image_size": 32, "weights": "none", "unfreeze_from": "all"}
    content = yaml.safe_load(Network("it", settings).params_text())
    before = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    assert content["extract"] == before["extract"] | {
        key: settings[key] for key in before["extract"] if key in settings
    }
    assert "study" not in content and load_params(Path("params.yaml")).study.networks
    assert content["train"] == before["train"] | {"unfreeze_from": "all"}
    assert content["data"]["source"] == "https://host/a.zip" and content["split"] == before["split"]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"backbone": "a"}, {"backbone": "b", "alpha": 0.5}], ["a", "b"]),
        ([{}, {"alpha": 0.5}], ["net 1.0", "net 0.5"]),
        ([{"backbone": "a"}, {"backbone": "a", "image_size": 96}, {"backbone": "b"}], ["a 224", "a 96", "b 224"]),
        ([{}, {"weights": "/home/jo/other.h5"}], ["net first.h5", "net other.h5"]),
        ([{"weights": "/a/same.h5"}, {"weights": "/b/same.h5"}], ["net /a/same.h5", "net /b/same.h5"]),
    ],
)
def test_networks_are_named_by_what_tells_them_apart(changes: list[dict], names: list[str]) -> None:
    usual = {"backbone": "net", "alpha": 1.0, "image_size": 224, "weights": "first.h5", "unfreeze_from": "head"}
    assert network_names([usual | change for change in changes]) == names


def test_the_same_network_written_in_two_ways_is_refused() -> None:
    params = with_networks(NetworkParams(), NetworkParams(backbone="mobilenet"), NetworkParams(alpha=1.0))
    with pytest.raises(LanduseError, match=r"study.networks.2 is the same network as study.networks.0"):
        resolve_networks(params)


def test_a_params_file_from_before_studies_is_asked_for_the_networks(project: Path) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    del content["study"]
    Path("params.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(LanduseError, match=r"study.networks is missing, the networks to compare; presets/ shows"):
        resolve_networks(load_params())


def test_two_studies_at_once_are_refused(project: Path) -> None:
    with exclusive_lock(SERVICES / "study.lock", "busy"), pytest.raises(Unavailable, match="another landuse study is"):
        study(with_networks(NetworkParams(), NetworkParams(backbone="mobilenet")), False, print)


@pytest.mark.parametrize(
    ("weights", "words"),
    [("missing.h5", "weights/missing.h5 does not exist; name a file"), (tiny.WEIGHTS, "holds weights of mobilenet_v2")],
)
def test_weights_of_all_networks_are_looked_at_before_any_is_trained(project: Path, weights: str, words: str) -> None:
    networks = with_networks(NetworkParams(), NetworkParams(backbone="mobilenet", weights=weights))
    with pytest.raises(LanduseError, match=rf"study.networks.1.weights = .*: {words}"):
        study(networks, False, print)
    assert not SERVICES.exists()


def scored(correct: list[bool], groups: list[int]) -> ScoredImages:
    """Return predictions of two classes that are right where it says so."""
    actual = np.zeros(len(correct), int)
    probabilities = np.where(np.array(correct)[:, None], (0.9, 0.1), (0.2, 0.8)).astype(np.float32)
    rows = pd.DataFrame({"path": [f"{number}.png" for number in actual], "group": groups})
    return ScoredImages(rows, ["field", "water"], actual, probabilities)


def result(folder: Path, name: str, correct: list[bool], int8: list[bool]) -> NetworkResult:
    """Return the results of a made-up network whose int8 file has 3 MB."""
    folder.mkdir()
    (folder / "model.json").write_text(
        json.dumps(
            {"parameters": 1000, "trained_parameters": 10, "multiply_adds": 5_000_000, "depthwise_filters": FILTERS}
        )
    )
    (folder / "model.int8.tflite").write_bytes(bytes(3_000_000))
    settings = {"backbone": name, "alpha": 1.0, "image_size": 224, "weights": "/far/a.h5", "unfreeze_from": "head"}
    metrics = {"images": len(correct), "accuracy": float(np.mean(correct)), "macro_f1": 0.5, "calibration_error": 0.1}
    metrics |= {"size_mb": 9.0, "depthwise": BLOCKS, "silent_images": 7}
    images = scored(correct, list(range(len(correct))))
    return NetworkResult(Network(name, settings), f"run-{name}", None, folder, metrics, images, np.array(int8))


@pytest.fixture
def results(tmp_path: Path) -> list[NetworkResult]:
    """Two networks on 100 images: 80 % and 90 %, of which the second loses 5 points in int8."""
    first = result(tmp_path / "1", "first", [True] * 80 + [False] * 20, [True] * 80 + [False] * 20)
    return [first, result(tmp_path / "2", "<b>second", [True] * 90 + [False] * 10, [True] * 85 + [False] * 15)]


@pytest.fixture
def rows(results: list[NetworkResult]) -> pd.DataFrame:
    return table(results, [(8.0, 4.0), (9.5, 3.0)])


def test_the_table_compares_every_network_with_the_first_on_the_same_images(rows: pd.DataFrame) -> None:
    first, second = rows.iloc[0], rows.iloc[1]
    assert first["difference"] == first["wins"] == first["losses"] == 0 and first["p_value"] == 1
    assert second["difference"] == pytest.approx(0.1) and (second["wins"], second["losses"]) == (10, 0)
    assert 0 < second["difference_low"] < 0.1 < second["difference_high"] and second["p_value"] < 0.01
    assert second["int8_loss"] == pytest.approx(0.05) and second["int8_size_mb"] == 3.0
    assert (second["latency_ms"], second["int8_latency_ms"]) == (9.5, 3.0)
    columns = ["depthwise_kernels", "dead_kernels", "dead_kernels_int8", "silent_kernels", "silent_kernels_int8"]
    assert second[columns].tolist() == [128, 1, 2, 10, 11] and second["multiply_adds"] == 5_000_000


def test_near_duplicates_count_once_in_a_comparison(tmp_path: Path) -> None:
    first, second = (result(tmp_path / name, name, [name == "b"] * 4 + [True] * 4, [True] * 8) for name in "ab")
    groups = {"group": [0, 0, 0, 0, 1, 2, 3, 4]}
    same = [replace(each, scored=replace(each.scored, table=pd.DataFrame(groups))) for each in (first, second)]
    assert table(same, [(1, 1)] * 2)["wins"].tolist() == [0, 1]


def test_the_page_says_in_words_which_network_is_better(rows: pd.DataFrame, results: list[NetworkResult]) -> None:
    better = r"&lt;b&gt;second is 10.0 points more accurate than first \(95 % interval \+\d.* McNemar p = 0.002\)"
    assert re.search(better, render(rows, results, drawn=False))
    chance = rows.assign(p_value=0.2, difference_low=-0.01)
    assert "cannot be told apart: +10.0 points" in render(chance, results, drawn=False)
    assert "Interval and test disagree about" in render(rows.assign(p_value=0.2), results, drawn=False)
    worse = rows.assign(difference=-0.1, difference_low=-0.2, difference_high=-0.01)
    assert "is 10.0 points less accurate" in render(worse, results, drawn=False)


def test_the_page_is_small_loads_nothing_and_escapes_names(rows: pd.DataFrame, results: list[NetworkResult]) -> None:
    text = render(rows, results, drawn=False)
    assert len(text) < 2_000_000 and "<b>second" not in text and "src=" not in text
    assert [url for url in re.findall(r"https?://[^\"' ]+", text) if "w3.org" not in url] == []
    assert "color-scheme: light dark" in text and text.count("<svg") == 7
    assert "/far/" not in text and "a.h5" in text, "the folders of this machine are nobody's business"
    assert "– s" in text, "the training time is not known"


def test_the_page_of_drawn_images_says_so(rows: pd.DataFrame, results: list[NetworkResult]) -> None:
    assert ["drawn by a program" in render(rows, results, drawn) for drawn in (True, False)] == [True, False]


def test_predictions_are_read_with_their_groups_and_in_their_order(trained: Path) -> None:
    read = read_scored(trained)
    predictions = pd.read_csv(trained / "artifacts" / "predictions.csv")
    assert read.table["path"].tolist() == predictions["path"].tolist() and read.labels == list(tiny.LABELS)
    assert [read.labels[index] for index in read.predicted] == predictions["predicted"].tolist()
    assert [read.labels[index] for index in read.actual] == predictions["actual"].tolist()
