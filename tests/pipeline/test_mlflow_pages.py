"""The pages of MLflow's UI, in a real browser: what matters is seen first, without scrolling."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gallery import NAME
from mlflow import MlflowClient
from ports import free_port
from servers import wait_for

from landuse import registry, tracking

WIDTH, HEIGHT = 1280, 800
LOADING_MS = 60_000


@pytest.fixture(scope="module")
def mlflow_ui(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on a registry with four versions, of which the gate has judged the first."""
    port = free_port()
    address, folder = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("server")
    store = ["--backend-store-uri", f"sqlite:///{promoted}/mlflow.db", "--artifacts-destination", f"{promoted}/mlruns"]
    command = [f"{Path(sys.executable).parent}/mlflow", "server", *store, "--port", port, "--workers", "1"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as server:
        try:
            wait_for(f"{address}/health", server)
            yield address
        finally:
            server.terminate()


@pytest.fixture
def page(browser) -> Iterator:
    """A new page of the browser."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(LOADING_MS)
    yield page
    page.close()


def save(page, name: str) -> None:
    """Keep a picture of the page where `LANDUSE_SCREENSHOTS` says, to be looked at."""
    if folder := os.environ.get("LANDUSE_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"))


def test_the_list_of_a_model_shows_three_versions_without_scrolling(mlflow_ui: str, page) -> None:
    page.goto(f"{mlflow_ui}/#/models/{NAME}")
    versions = page.get_by_role("link", name="Version")
    versions.nth(3).wait_for()
    page.wait_for_timeout(1000)  # until the table has its final height
    save(page, "mlflow-models")
    seen = [version for version in versions.all() if (box := version.bounding_box()) and box["y"] + 24 <= HEIGHT]
    assert len(seen) >= 3


def test_the_page_of_a_version_shows_verdict_accuracy_commit_and_data_first(mlflow_ui: str, page) -> None:
    page.goto(f"{mlflow_ui}/#/models/{NAME}/versions/1")
    page.get_by_text("landuse.record").wait_for()
    save(page, "mlflow-version")
    shown = page.locator("body").inner_text()
    with tracking.store():
        version = registry.get_version(NAME, "1")
    assert "It passed the gate" in shown and "100.0% of 60 held-out images are right" in shown
    tags = [text for line in shown.splitlines() for text in line.split("\t") if text in version.tags]
    assert tags == ["accuracy", "commit", "data", "gate", "landuse.record"]
    for link in ("Version", "Run", "Validation", "Report"):
        assert page.get_by_role("link", name=link, exact=True).first.is_visible()


def test_the_page_of_a_run_shows_what_it_is_about_and_its_scores_first(mlflow_ui: str, page) -> None:
    with tracking.store():
        run = MlflowClient().get_run(registry.get_version(NAME, "1").run_id)
    address = f"{mlflow_ui}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    page.set_viewport_size({"width": WIDTH, "height": 2 * HEIGHT})
    page.goto(address)
    page.get_by_text("test/accuracy").first.wait_for()
    save(page, "mlflow-run")
    assert "It passed the gate" in page.locator("body").inner_text()
    page.goto(f"{address}/model-metrics")
    page.get_by_text("macro_f1").first.wait_for()
    page.get_by_text("validation_loss").first.wait_for()
    save(page, "mlflow-metrics")
    folders = re.findall(r"\b(test|tflite|train)\s+\(\d+\)", page.locator("body").inner_text())
    assert folders == ["test", "train"], "those of the held-out images come first"
    people = {tag for tag in run.data.tags if not tag.startswith(("mlflow.", "landuse."))}
    assert people == {"commit", "data"}
