"""Where the files between stages lie, relative to the project's folder."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DATA = Path("data")
DATA_DVC = Path("data.dvc")
DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
WEIGHTS = Path("weights")
QUARANTINE = Path("quarantine")
GX = Path("gx")
INBOX = Path("inbox")
INCOMING = Path(".incoming")
SWAP = INCOMING / "swap.json"  # the journal of an ingest that replaces data/
DVC_TMP = Path(".dvc/tmp")
HOLDERS = DVC_TMP / "rwlock"  # DVC's list of which process reads and writes what
SERVICES = Path(".services")
LOGIN = SERVICES / "login"  # of the servers that the project starts
SQLITE = "sqlite:///"
DEFAULT_STORE = f"{SQLITE}mlflow.db"

ARTIFACTS = Path("artifacts")
MANIFEST = ARTIFACTS / "manifest.parquet"
VALIDATION = ARTIFACTS / "validation.json"
VALIDATION_PAGE = ARTIFACTS / "validation.html"
DATA_DOCS = ARTIFACTS / "data_docs"
DOCS_OF = DATA_DOCS / "manifest.sha256"  # which manifest they are of: no stage versions them
VALIDATED = (MANIFEST, VALIDATION, VALIDATION_PAGE, DATA_DOCS)  # what `validate` writes
FEATURES = ARTIFACTS / "features"
SPLITS = ARTIFACTS / "splits.csv"
MODEL = ARTIFACTS / "model"
RUN = ARTIFACTS / "run.json"
HISTORY = ARTIFACTS / "history.csv"
METRICS = ARTIFACTS / "metrics.json"
PREDICTIONS = ARTIFACTS / "predictions.csv"
PER_CLASS = ARTIFACTS / "per_class.csv"
PICTURES = ARTIFACTS / "pictures"
REGISTRATION = ARTIFACTS / "registration.json"
BLESSING = ARTIFACTS / "blessing.json"
TUNE = ARTIFACTS / "tune"
REPORT = ARTIFACTS / "report.html"


def tracking_uri() -> str:
    """The MLflow store that `MLFLOW_TRACKING_URI` names, else the file beside the project.

    Slashes at the end of a server's address are left out: pages of its UI are linked to as `ADDRESS/#/…`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_STORE
    return uri.rstrip("/") if uri.lower().startswith(("http://", "https://")) else uri
