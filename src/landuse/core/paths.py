"""Paths of the project, relative to its root folder."""

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
SWAP = INCOMING / "swap.json"  # journal of an ingest that is replacing data/
DVC_TMP = Path(".dvc/tmp")
DVC_RWLOCK = DVC_TMP / "rwlock"  # DVC's list of processes with the paths they read and write
DVC_LOCAL = Path(".dvc/config.local")  # DVC's settings on this machine
PLOTS_PAGE = Path(".dvc/plots.html")  # what `dvc plots` makes its page from
SERVICES = Path(".services")
LOGIN = SERVICES / "login"  # for the servers that the project starts
SQLITE = "sqlite:///"
DEFAULT_STORE = f"{SQLITE}mlflow.db"

ARTIFACTS = Path("artifacts")
MANIFEST = ARTIFACTS / "manifest.parquet"
VALIDATION = ARTIFACTS / "validation.json"
VALIDATION_PAGE = ARTIFACTS / "validation.html"
DATA_DOCS = ARTIFACTS / "data_docs"
DATA_DOCS_SOURCE = DATA_DOCS / "manifest.sha256"  # of the manifest they describe, since DVC does not version them
VALIDATE_OUTPUTS = (MANIFEST, VALIDATION, VALIDATION_PAGE, DATA_DOCS)  # everything `validate` writes
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
DIFF_PAGE = ARTIFACTS / "diff.html"
STUDY_PAGE = ARTIFACTS / "study.html"
STUDY_TABLE = ARTIFACTS / "study.csv"
STUDY_COPY = SERVICES / "study"


def tracking_uri() -> str:
    """Return the MLflow store named by `MLFLOW_TRACKING_URI`, or the default database file in the project.

    Trailing slashes of a server's address are stripped: pages of its UI are linked to as `ADDRESS/#/…`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or DEFAULT_STORE
    return uri.rstrip("/") if uri.lower().startswith(("http://", "https://")) else uri


def absolute_tracking_uri() -> str:
    """Return the MLflow store as `tracking_uri` does, but independent of the working directory."""
    return absolute_uri(tracking_uri())


def absolute_uri(uri: str) -> str:
    """Make the path in a SQLite URI absolute; other URIs are returned as they are."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri
