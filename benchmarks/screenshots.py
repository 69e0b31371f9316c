"""Take the README's pictures of the last retraining: its page in Prefect's UI, and that of its run in MLflow's.

    make up && python benchmarks/screenshots.py

Needs `chromium` on the path, and a retraining that came to its end.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADING_MS = 20_000


def last_retraining() -> str:
    """The id of the last retraining that trained something."""
    from prefect.artifacts import Artifact

    page = Artifact.get("retraining")
    if page is None:
        sys.exit("no retraining came to its end yet: drop an archive into inbox/")
    return str(page.flow_run_id)


def mlflow_run() -> str:
    """The page of the run that made the registered model."""
    from pipelines.seen import pages

    return pages()[0].partition("(")[2].rstrip(")")


def shoot(url: str, picture: Path) -> None:
    """Load a page in a headless browser, wait, and keep what it shows."""
    with TemporaryDirectory() as profile:
        command = ["chromium", "--headless=new", "--no-sandbox", "--hide-scrollbars", "--window-size=1400,1100"]
        waits = [f"--user-data-dir={profile}", f"--virtual-time-budget={LOADING_MS}", f"--screenshot={picture}"]
        subprocess.run([*command, *waits, url], check=True, capture_output=True, timeout=180)
    print(f"{picture.relative_to(ROOT)}  {url}")


def main() -> None:
    """Both pictures."""
    sys.path.insert(0, str(ROOT))
    from pipelines.services import environment, prefect_server

    os.environ.update(environment())
    shoot(f"{prefect_server().address}/runs/flow-run/{last_retraining()}", DOCS / "prefect.png")
    shoot(mlflow_run(), DOCS / "mlflow.png")


if __name__ == "__main__":
    main()
