"""The policy for environment variables and user-wide settings: a table, and a function that enforces it."""

import os
import re
import sys
from codecs import lookup
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from getpass import getuser
from itertools import islice
from pathlib import Path

from landuse.core.errors import LanduseError
from landuse.core.paths import DVC_TMP, SERVICES
from landuse.core.proxies import normalize_network_settings

FIXED, OBEYED, REFUSED = "fixed", "obeyed", "refused"
PYTHON_STARTUP = ("PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONIOENCODING", "PYTHONINSPECT")
UTF8 = "PYTHONUTF8"
OWNER_ONLY = 0o077  # as a umask
PYTHON_FLAGS = re.compile(r"-(?=.)([^-cmWX]*)(?:([cmWX])(.*))?")  # flags, then an option and its value, as in -BXutf8


@dataclass(frozen=True)
class Row:
    """The rule for variables, by name or pattern, or files of a library.

    The first row that matches a variable applies. Fixed variables are removed from the environment or set to `values`.
    """

    library: str
    names: tuple[str, ...]
    rule: str
    effect: str
    values: tuple[tuple[str, str], ...] = ()


VARIABLES = (
    Row(
        "landuse", ("LANDUSE_*",), OBEYED,
        "ports of the servers (`LANDUSE_PREFECT_PORT`, `LANDUSE_MLFLOW_PORT`), the Prefect server of a team "
        "(`LANDUSE_PREFECT_API_URL`) and its login (`LANDUSE_PREFECT_API_AUTH_STRING`), the password of a team's "
        "MLflow server (`LANDUSE_MLFLOW_PASSWORD`), the root of `serve` (`LANDUSE_ROOT`), whether to reuse "
        "nothing of earlier runs (`LANDUSE_FROM_SCRATCH=1`), the scheduler of workers (`LANDUSE_DASK`), real images "
        "and weights of tests and benchmarks (`LANDUSE_SOURCE`, `LANDUSE_WEIGHTS`), the latter also for "
        "`landuse init`; `.env.example` names those of containers",
    ),
    Row(
        "Python", (*PYTHON_STARTUP, UTF8), FIXED,
        "Python's defaults, and UTF-8: otherwise the command restarts itself", ((UTF8, "1"),),
    ),
    Row("make", ("PYTHON", "ARGS"), FIXED, "read from the command line alone: `make run PYTHON=python3.11`"),
    Row("Python", ("PYTHON*",), OBEYED, "by Python itself; modules in `PYTHONPATH` come before a library's"),
    Row(
        "pip",
        (
            "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_DRY_RUN", "PIP_CONSTRAINT",
            "PIP_REQUIREMENT", "PIP_REQUIRE_HASHES", "PIP_EDITABLE",
        ),
        FIXED,
        "by the Makefile, also against `pip.conf`: what is pinned goes into `.venv`",
    ),
    Row("pip", ("PIP_*",), OBEYED, "where packages come from"),
    Row(
        "Prefect", ("PREFECT_*",), FIXED,
        "server, database, login and home are those of the project, in `.services/`, or the server is a team's",
    ),
    Row(
        "MLflow", ("MLFLOW_REGISTRY_URI",), REFUSED,
        "where it is another store than `MLFLOW_TRACKING_URI`; without that, fixed: versions are where runs are",
    ),
    Row(
        "MLflow",
        (
            "MLFLOW_TRACKING_*", "MLFLOW_HTTP_*", "MLFLOW_S3_*", "MLFLOW_BOTO_*", "MLFLOW_GCS_*", "MLFLOW_MYSQL_*",
            "MLFLOW_SQLALCHEMYSTORE_*", "MLFLOW_KERBEROS_*", "MLFLOW_PYARROW_*", "MLFLOW_ARTIFACT_UPLOAD_*",
            "MLFLOW_*MULTIPART*", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_WORKSPACE", "MLFLOW_DATABRICKS_*",
            "DATABRICKS_*",
        ),
        OBEYED, "which store, and how it is reached: login, certificates, retries",
    ),
    Row(
        "MLflow", ("MLFLOW_*", "_MLFLOW_*", "KUBE_MLFLOW_*", "DO_NOT_TRACK"), FIXED,
        "experiment, run, model, server and what is logged are the project's; telemetry is off",
        (("DO_NOT_TRACK", "true"), ("MLFLOW_DISABLE_TELEMETRY", "true")),
    ),
    Row(
        "Keras", ("KERAS_*",), FIXED, "TensorFlow, with a home of its own, `~/.cache/landuse/keras`",
        (("KERAS_BACKEND", "tensorflow"),),
    ),
    Row("TensorFlow", ("NVIDIA_TF32_OVERRIDE", "ONEDNN_*", "DNNL_*"), FIXED, "otherwise results would differ"),
    Row(
        "TensorFlow",
        ("TF_CPP_*", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_*", "TF_NUM_*", "CUDA_*", "NVIDIA_*"),
        OBEYED, "which devices and cores, how much is logged",
    ),
    Row(
        "TensorFlow", ("TF_*", "TF2_*", "XLA_*", "AUTOGRAPH_*", "PROTOCOL_BUFFERS_*"), FIXED,
        "the libraries' defaults, or results would differ",
    ),
    Row("Matplotlib", ("MPLCONFIGDIR",), OBEYED, "where it caches fonts"),
    Row("Matplotlib", ("MPLBACKEND", "MATPLOTLIBRC", "MPL_*"), FIXED, "drawn to files", (("MPLBACKEND", "agg"),)),
    Row(
        "Great Expectations", ("GX_*", "GE_*"), FIXED, "its context is `gx/`; telemetry is off",
        (("GX_ANALYTICS_ENABLED", "false"),),
    ),
    Row("Dask", ("DASK_*",), OBEYED, "how workers are reached: certificates, time limits"),
    Row("DVC", ("DVC_*_CONFIG_DIR", "DVC_SITE_CACHE_DIR"), OBEYED, "where its configuration and locks are"),
    Row("DVC", ("DVC_STAGE",), OBEYED, "set by DVC: this is a stage that it runs"),
    Row(
        "DVC", ("DVC_*", "DVCLIVE_*", "STUDIO_*"), FIXED, "telemetry is off",
        (("DVC_NO_ANALYTICS", "true"),),
    ),
    Row(
        "git",
        (
            "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR",
            "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE",
            "GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_NAMESPACE", "GIT_QUARANTINE_PATH", "GIT_*_PATHSPECS",
        ),
        FIXED, "the repository is that of the project",
    ),
    Row("git", ("GIT_*",), OBEYED, "by git: who commits, its configuration, ssh"),
    Row(
        "proxies", ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"), OBEYED,
        "by whatever leaves this machine; where one is not http:// or https://, that is refused in one line. "
        "`ALL_PROXY` stands for the two others",
    ),
    Row("proxies", ("NO_PROXY",), OBEYED, "as is this machine; what is no host is passed over"),
    Row(
        "certificates", ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"),
        OBEYED, "if they name existing files or folders",
    ),
    Row("logins", ("NETRC",), OBEYED, "on the way to other machines; this one is sent no login from it"),
    Row("stores", ("AWS_*", "BOTO_*", "GOOGLE_*", "AZURE_*", "FSSPEC_*"), OBEYED, "logins of remotes and stores"),
    Row(
        "PostgreSQL", ("PGTZ",), FIXED, "machines that search together read its clock alike", (("PGTZ", "UTC"),),
    ),
    Row("PostgreSQL", ("PG*",), OBEYED, "password, certificates and the rest of a login, for `tune.storage`"),
    Row(
        "servers",
        (
            "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "UVICORN_*", "GUNICORN_*", "WEBSOCKETS_*", "PROMETHEUS_*",
            "OTEL_*", "FLASK_*", "CELERY_*", "AIOHTTP_*", "APPRISE_*",
        ),
        FIXED, "as `serve`, `make up` and `make ui` start them",
    ),
    Row(
        "numbers, tables, images",
        (
            "NPY_*", "NUMPY_*", "PANDAS_*", "SCIPY_*", "SKLEARN_*", "PILLOW_*", "OPTUNA_*", "SQLALCHEMY_*", "ALEMBIC_*",
            "PYDANTIC_*", "HDF5_*",
        ),
        FIXED, "the libraries' defaults",
    ),
    Row(
        "threads", ("OMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "ARROW_*", "LOKY_*", "JOBLIB_*"), OBEYED,
        "how many cores, and which memory",
    ),
    Row("certificates", ("SSLKEYLOGFILE",), FIXED, "the keys of connections are written nowhere"),
    Row("bars", ("TQDM_*",), FIXED, "as DVC shows them"),
    Row(
        "system", ("SHELL",), FIXED, "DVC runs stages by it; that of a service account runs nothing",
        (("SHELL", "/bin/sh"),),
    ),
    Row("terminal", ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR"), OBEYED, "how help and bars look"),
    Row("system", ("HOME", "TMPDIR", "XDG_*", "LANG", "LC_*", "TZ", "USER"), OBEYED, "folders, if they exist"),
)  # fmt: skip
FILES = (
    Row("Keras", ("~/.keras/keras.json",), FIXED, "not read"),
    Row("Keras", ("~/.keras/models",), OBEYED, "by `landuse init`, which takes weights from there, and says so"),
    Row("Matplotlib", ("matplotlibrc", "*.mplstyle"), FIXED, "figures have a style of their own"),
    Row("Prefect", ("~/.prefect", "profiles.toml"), FIXED, "not read"),
    Row(
        "Prefect", (".env", "prefect.toml", "pyproject.toml"), FIXED,
        "server, database, login and home; what else they say of Prefect is obeyed, as they lie in the project",
    ),
    Row("Great Expectations", ("~/.great_expectations",), FIXED, "telemetry is off"),
    Row("Dask", ("~/.config/dask", "/etc/dask"), OBEYED, "as `DASK_*`"),
    Row("DVC", ("~/.config/dvc/config",), OBEYED, "where `.dvc/config` and `.dvc/config.local` say nothing"),
    Row("git", ("~/.gitconfig",), OBEYED, "by git"),
    Row("MLflow", ("~/.mlflow/credentials", "~/.databrickscfg"), OBEYED, "login of a store on another machine"),
    Row("PostgreSQL", ("~/.pgpass", "~/.pg_service.conf"), OBEYED, "as `PGPASSWORD`, for `tune.storage`"),
    Row("logins", ("~/.netrc",), OBEYED, "as `NETRC`"),
    Row("pip", ("pip.conf",), OBEYED, "where packages come from"),
)  # fmt: skip


def sanitize_environment() -> None:
    """Apply the table to the environment, at the start of a program before other libraries are imported.

    A user without a name, as in a container, gets the user ID as name. Restarts the program if Python itself was
    started with settings that the table fixes. Raises LanduseError for a refused variable.
    """
    refuse_separate_registry()
    fixed = [name for name in os.environ if (row := find_row(name)) and row.rule != OBEYED]
    restart = not set(PYTHON_STARTUP).isdisjoint(fixed) or not (is_utf8() or os.environ.get(UTF8) == "1")
    restart = restart or sys.flags.optimize > 0  # `python -OO`: libraries need their docstrings
    for name in fixed:
        del os.environ[name]
    os.environ.update(value for row in VARIABLES for value in row.values)
    os.environ["KERAS_HOME"] = str(keras_home())
    normalize_network_settings()
    try:
        getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    if restart:  # what Python has read at startup cannot be undone within the process
        os.execv(sys.executable, [sys.executable, *without_optimization(sys.orig_argv[1:])])


def without_optimization(arguments: list[str]) -> list[str]:
    """Remove -O from the command line of Python, also among several flags in one, such as -BOO or -OOm."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("--"):  # the only one that Python goes on after takes a value
            kept += [argument, *islice(rest, 1)]
            continue
        if not (found := PYTHON_FLAGS.fullmatch(argument)):  # a script
            return [*kept, argument, *rest]
        flags, option, value = found.groups("")
        kept += [text] if (text := f"-{flags.replace('O', '')}{option}{value}") != "-" else []
        kept += [] if value else islice(rest, len(option))
        if option and option in "cm":
            break
    return [*kept, *rest]


def restrict_permissions() -> None:
    """Keep other users from reading the files the program creates, and from writing where DVC unpickles.

    DVC creates its state folder open to everybody whatever the umask, so that its parent folder must keep others out.
    """
    os.umask(os.umask(OWNER_ONLY) | OWNER_ONLY)
    with suppress(OSError):  # not a DVC project, or owned by another user
        DVC_TMP.mkdir(exist_ok=True)
        DVC_TMP.chmod(DVC_TMP.stat().st_mode & ~OWNER_ONLY)


def find_row(name: str) -> Row | None:
    """Return the row that applies to a variable, whose case is ignored; None if there is none."""
    rows = (row for row in VARIABLES for pattern in row.names if fnmatchcase(name.upper(), pattern))
    return next(rows, None)


def refuse_separate_registry() -> None:
    """Raise LanduseError if MLflow's registry would be in another store than its runs."""
    runs, registry = (os.environ.get(f"MLFLOW_{name}_URI") for name in ("TRACKING", "REGISTRY"))
    if runs and registry and runs.rstrip("/") != registry.rstrip("/"):
        raise LanduseError("MLFLOW_REGISTRY_URI: versions are kept where MLFLOW_TRACKING_URI says; unset it")


def keras_home() -> Path:
    """Return a home for Keras and its downloads that has no `keras.json` of the user."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "landuse", "keras").expanduser()
    except RuntimeError:  # a user without a home folder
        return (SERVICES / "keras").absolute()


def is_utf8() -> bool:
    """Return True if Python encodes file names and text in UTF-8."""
    return lookup(sys.getfilesystemencoding()).name == "utf-8"
