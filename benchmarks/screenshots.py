"""Take the documentation's screenshots of the last retraining: its run and page in Prefect's UI, its run in MLflow's.

    make up && python benchmarks/screenshots.py

Needs `chromium` on the path and a completed retraining.
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

from landuse.core.auth import authorization_header, login

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
LOADING_SECONDS = 12
COLORS = 64
BROWSER = ("chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1100")
CLICK = """{
    const names = (e) => [e.innerText?.trim(), e.ariaLabel, e.placeholder]
    const element = [...document.querySelectorAll("*")].findLast(e => names(e).includes(%s))
    element.placeholder && element.focus()
    element.click()
}"""
HIDE_TOOL_BARS = "document.head.insertAdjacentHTML('beforeend', '<style>.modebar { display: none !important }</style>')"


def last_retraining() -> tuple[str, str, str]:
    """Return the ids of the last retraining and of its page, and the URL of its run in MLflow's UI."""
    from prefect.artifacts import Artifact

    page = Artifact.get("retraining")
    if page is None:
        sys.exit("no retraining has completed yet: drop an archive into inbox/")
    return str(page.flow_run_id), str(page.id), re.search(r"\[MLflow run\]\((\S+)\)", page.data)[1]


@contextmanager
def browser(url: str) -> Iterator[ClientConnection]:
    """Open a page in a headless browser; yields a connection that speaks the DevTools protocol."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [*BROWSER, f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                port = next(match[1] for line in process.stderr if (match := re.search(r"ws://127.0.0.1:(\d+)/", line)))
                targets = json.load(urlopen(f"http://127.0.0.1:{port}/json"))
                page = next(target for target in targets if target["type"] == "page")
                with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
                    send_command(socket, "Network.enable")
                    send_command(
                        socket, "Network.setExtraHTTPHeaders", headers={"Authorization": authorization_header(login())}
                    )
                    send_command(socket, "Page.navigate", url=url)
                    sleep(LOADING_SECONDS)
                    yield socket
            finally:
                process.terminate()


def send_command(socket: ClientConnection, method: str, **parameters: Any) -> dict[str, Any]:
    """Send a DevTools command; returns its result."""
    socket.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while (reply := json.loads(socket.recv(timeout=60))).get("id") != 1:
        pass
    return reply["result"]


def take_screenshot(url: str, picture: Path, clicks: tuple[str, ...], typed: str = "") -> None:
    """Load a page, click on the named elements, type, wait, and save a screenshot."""
    with browser(url) as socket:
        for name in clicks:
            send_command(socket, "Runtime.evaluate", expression=CLICK % json.dumps(name))
            sleep(1)
        send_command(socket, "Input.insertText", text=typed)
        send_command(socket, "Runtime.evaluate", expression=HIDE_TOOL_BARS)
        sleep(LOADING_SECONDS)
        screenshot = Image.open(BytesIO(b64decode(send_command(socket, "Page.captureScreenshot")["data"])))
    screenshot.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(picture, optimize=True)
    print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1024} KB  {url}")


def main() -> None:
    """Take all screenshots."""
    from pipelines.services.processes import environment, prefect_server

    os.environ.update(environment())
    run, page, mlflow_run = last_retraining()
    take_screenshot(f"{prefect_server().address}/runs/flow-run/{run}", PICTURES / "prefect.png", ("Subflow Runs",))
    take_screenshot(f"{prefect_server().address}/artifacts/artifact/{page}", PICTURES / "retraining.png", ())
    steps = ("Close", "Toggle sidebar", "Search metric charts")
    take_screenshot(f"{mlflow_run}/model-metrics", PICTURES / "mlflow.png", steps, typed="loss|accuracy")


if __name__ == "__main__":
    main()
