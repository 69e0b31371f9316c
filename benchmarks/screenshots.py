"""Take the documentation's screenshots of the last retraining: its run and page in Prefect's UI, its run in MLflow's.

    make up && python benchmarks/screenshots.py

Needs `chromium` on the path and a completed retraining.
"""

import json
import os
import re
import sys
from io import BytesIO
from pathlib import Path
from shutil import which

from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

from landuse.core.auth import login
from landuse.params import load_params

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
SIZE = {"width": 1400, "height": 957}
LOADING_SECONDS = 12
COLORS = 64
CLICK = """{
    const names = (e) => [e.innerText?.trim(), e.ariaLabel, e.placeholder]
    const element = [...document.querySelectorAll("*")].findLast(e => names(e).includes(%s))
    element.placeholder && element.focus()
    element.click()
}"""
HIDE_TOOL_BARS = ".modebar { display: none !important }"


def last_retraining() -> tuple[str, str, str]:
    """Return the ids of the last retraining and of its page, and the URL of its run in MLflow's UI."""
    from prefect.artifacts import Artifact

    page = Artifact.get("retraining")
    if page is None:
        sys.exit("no retraining has completed yet: drop an archive into inbox/")
    return str(page.flow_run_id), str(page.id), re.search(r"\[MLflow run\]\((\S+)\)", page.data)[1]


def sign_in(page: Page, address: str) -> None:
    """Log in to Prefect's UI, which opens in its default look."""
    page.goto(address)
    page.locator("input[type=password]").fill(login())
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard*")


def take_screenshot(
    context: BrowserContext, url: str, picture: Path, clicks: tuple[str, ...] = (), typed: str = ""
) -> None:
    """Load a page, click on the named elements, type, wait, and save a screenshot."""
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(1000 * LOADING_SECONDS)
    for name in clicks:
        page.evaluate(CLICK % json.dumps(name))
        page.wait_for_timeout(1000)
    page.keyboard.insert_text(typed)
    page.add_style_tag(content=HIDE_TOOL_BARS)
    page.wait_for_timeout(1000 * LOADING_SECONDS)
    screenshot = Image.open(BytesIO(page.screenshot()))
    screenshot.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1024} KB  {url}")
    page.close()


def main() -> None:
    """Take all screenshots."""
    from pipelines.services.processes import environment, prefect_server

    os.environ.update(environment())
    run, page, mlflow_run = last_retraining()
    ui = os.environ["PREFECT_UI_URL"]
    user, _, password = login().partition(":")
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
        prefect = browser.new_context(viewport=SIZE, color_scheme="dark")
        sign_in(prefect.new_page(), prefect_server().address)
        take_screenshot(prefect, f"{ui}/runs/flow-run/{run}?tab=SubflowRuns", PICTURES / "prefect.png")
        take_screenshot(prefect, f"{ui}/artifacts/artifact/{page}", PICTURES / "retraining.png")
        mlflow = browser.new_context(viewport=SIZE, http_credentials={"username": user, "password": password})
        steps = ("Close", "Toggle sidebar", "Search metric charts")
        take_screenshot(mlflow, f"{mlflow_run}/model-metrics", PICTURES / "mlflow.png", steps, typed="loss|accuracy")
        model = f"{mlflow_run.partition('#')[0]}#/models/{load_params().register.model}"
        take_screenshot(mlflow, model, PICTURES / "mlflow-versions.png")
        take_screenshot(mlflow, f"{model}/versions/1", PICTURES / "mlflow-version.png")
        browser.close()


if __name__ == "__main__":
    main()
