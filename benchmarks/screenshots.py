"""Take the README's pictures of the last retraining: its run and its page in Prefect's UI, and its run in MLflow's.

    make up && python benchmarks/screenshots.py

Needs `chromium` on the path, and a retraining that came to its end.
"""

import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any
from urllib.request import urlopen

from PIL import Image
from websockets.sync.client import ClientConnection, connect

from landuse.core.auth import known_by, login

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADING_SECONDS = 12
COLORS = 64
BROWSER = ("chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1100")
CLICK = """{
    const names = (e) => [e.innerText?.trim(), e.ariaLabel, e.placeholder]
    const found = [...document.querySelectorAll("*")].findLast(e => names(e).includes(%s))
    found.placeholder && found.focus()
    found.click()
}"""
HIDE_TOOL_BARS = "document.head.insertAdjacentHTML('beforeend', '<style>.modebar { display: none !important }</style>')"


def last_retraining() -> tuple[str, str, str]:
    """The ids of the last retraining and of the page that it left, and the address of its run in MLflow's UI."""
    from prefect.artifacts import Artifact

    page = Artifact.get("retraining")
    if page is None:
        sys.exit("no retraining came to its end yet: drop an archive into inbox/")
    return str(page.flow_run_id), str(page.id), re.search(r"\[MLflow run\]\((\S+)\)", page.data)[1]


@contextmanager
def browser(url: str) -> Iterator[ClientConnection]:
    """A headless browser that shows a page; yields what it is told things through, in the DevTools protocol."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [*BROWSER, f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                port = next(found[1] for line in process.stderr if (found := re.search(r"ws://127.0.0.1:(\d+)/", line)))
                pages = json.load(urlopen(f"http://127.0.0.1:{port}/json"))
                page = next(each for each in pages if each["type"] == "page")
                with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
                    tell(socket, "Network.enable")
                    tell(socket, "Network.setExtraHTTPHeaders", headers={"Authorization": known_by(login())})
                    tell(socket, "Page.navigate", url=url)
                    sleep(LOADING_SECONDS)
                    yield socket
            finally:
                process.terminate()


def tell(socket: ClientConnection, method: str, **parameters: Any) -> dict[str, Any]:
    """Have the browser do something; returns its answer."""
    socket.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while (answer := json.loads(socket.recv(timeout=60))).get("id") != 1:
        pass
    return answer["result"]


def shoot(url: str, picture: Path, clicks: tuple[str, ...], typed: str = "") -> None:
    """Load a page, click on what is so called, type, wait, and keep what is shown."""
    with browser(url) as socket:
        for name in clicks:
            tell(socket, "Runtime.evaluate", expression=CLICK % json.dumps(name))
            sleep(1)
        tell(socket, "Input.insertText", text=typed)
        tell(socket, "Runtime.evaluate", expression=HIDE_TOOL_BARS)
        sleep(LOADING_SECONDS)
        shown = Image.open(BytesIO(b64decode(tell(socket, "Page.captureScreenshot")["data"])))
    shown.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1024} KB  {url}")


def main() -> None:
    """All pictures."""
    sys.path.insert(0, str(ROOT))
    from pipelines.services.processes import environment, prefect_server

    os.environ.update(environment())
    run, page, mlflow_run = last_retraining()
    shoot(f"{prefect_server().address}/runs/flow-run/{run}", DOCS / "prefect.png", ("Subflow Runs",))
    shoot(f"{prefect_server().address}/artifacts/artifact/{page}", DOCS / "retraining.png", ())
    steps = ("Close", "Toggle sidebar", "Search metric charts")
    shoot(f"{mlflow_run}/model-metrics", DOCS / "mlflow.png", steps, typed="loss|accuracy")


if __name__ == "__main__":
    main()
