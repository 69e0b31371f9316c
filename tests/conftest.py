"""Shared fixtures: an empty project, and projects in which the stages have run."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns, which
from unittest import mock

import pytest
import tiny
from shared import build_once, build_or_copy
from workspace import WEIGHTS, Workspace, copy_project, small_project
from xdist.scheduler import LoadFileScheduling

from landuse.core.environment import PYTHON_STARTUP, sanitize_environment

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ON_FRESH = ("test_fresh.py", "test_guarded.py", "test_prefect_pages.py")  # on the same servers
USER_VARIABLES = (
    *("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"),  # they would treat a pipe as a terminal
    *PYTHON_STARTUP,  # these would restart the tests
)
PATIENCE = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
for variable in USER_VARIABLES:
    os.environ.pop(variable, None)
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # dvc, mlflow and landuse of this Python
os.environ |= {"GIT_CONFIG_GLOBAL": str(TESTS / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1", "PYTHONUTF8": "1"}
sanitize_environment()
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup pytest` ignores, and every command started here with it


class FileScheduling(LoadFileScheduling):
    """Runs the tests of a file in one process, since they share servers and projects, and so do those of ON_FRESH."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "fresh" if Path(file).name in ON_FRESH else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Callable) -> FileScheduling:
    """Return the scheduler for `pytest -n`."""
    return FileScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option to pytest's own."""
    parser.addoption("--begin-until", type=float, metavar="TIME", help="skip tests after it (seconds since 1970)")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, by name, what there is no time for, before its fixtures are set up."""
    if time.time() > (item.config.getoption("--begin-until") or math.inf):
        pytest.skip(f"no time was left for {item.path.relative_to(ROOT)}")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Name a failure at once, since a run that is ended before its summary would not."""
    if not report.failed:
        return None
    return "failed" if report.when == "call" else "error", f"\nFAILED {report.nodeid}\n", "FAILED"


@pytest.fixture(autouse=True)
def restore_environment() -> Iterator[None]:
    """Restore the environment variables of this process after each test.

    How long a shared fixture waited for MLflow, once its server had answered, is none of a test's business.
    """
    with mock.patch.dict(os.environ):
        for name in PATIENCE:
            os.environ.pop(name, None)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium; skips the test if it is not on the path."""
    if (chromium := which("chromium")) is None:
        pytest.skip("chromium is not on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        instance = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone as the working directory: git and DVC set up, the sample preset, no data.

    Its name has a space and a non-ASCII letter, as a user's may have.
    """
    folder = tmp_path / "pr\N{LATIN SMALL LETTER O WITH DIAERESIS} ject"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"):
        copy(ROOT / name, folder / name)
    copy(ROOT / "presets" / "sample.yaml", folder / "params.yaml")
    for name in ("gx", "weights", "src/landuse"):
        copytree(ROOT / name, folder / name, ignore=ignore_patterns("uncommitted", "*.h5", "__pycache__"))
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site-cache"))
    monkeypatch.setattr("landuse.cli.reexec_from_working_tree", lambda: None)  # keep commands in this process
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A committed clone with little to train, in which nothing ran; its copies have the same commit. Read-only."""
    folder = build_once(tmp_path_factory, "untouched", small_project)
    return Workspace(folder / "project", folder / "project" / "weights" / WEIGHTS)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, untouched: Workspace) -> Workspace:
    """Such a clone in which `landuse ingest` and `dvc repro` have completed. Read-only."""

    def run_pipeline(folder: Path) -> None:
        work = copy_project(untouched, folder / "project")
        work.ok("landuse", "ingest")
        work.ok("dvc", "repro")
        work.commit()

    folder = build_once(tmp_path_factory, "pipeline", run_pipeline) / "project"
    built = Workspace(folder, folder / "weights" / WEIGHTS)
    return copy_project(built, tmp_path_factory.mktemp("pipeline") / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny project after validate, extract, split, train and evaluate."""
    return build_or_copy(tmp_path_factory, "finished", run_tiny_project)


def run_tiny_project(folder: Path) -> None:
    """Run the stages up to evaluate in a tiny project."""
    import keras

    from landuse.evaluate import evaluate
    from landuse.extract import extract
    from landuse.params import load_params
    from landuse.split import split
    from landuse.train import train
    from landuse.validate import validate

    tiny.make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, folder, patch)
        params = load_params()
        validate(params.validate)
        extract(params.extract, params.train.unfreeze_from)
        split(params.split)
        keras.utils.clear_session()  # number layers from 1, as in a new process
        train(params.train)
        evaluate(params.evaluate)


def use_folder(folder: Path, finished: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in a folder, with the MLflow store of the finished project: creating another store takes seconds."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished}/mlflow.db")
    patch.setenv("MLFLOW_EXPERIMENT_ID", "0")  # MLflow sets it for child processes; the patch undoes that


@pytest.fixture
def trained(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project as the working directory. Read-only."""
    use_folder(finished, finished, monkeypatch)
    return finished


@pytest.fixture
def trained_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of the finished project as the working directory."""
    folder = copytree(finished, tmp_path / "copy", ignore=ignore_patterns("mlflow.db", "mlruns"))
    use_folder(folder, finished, monkeypatch)
    return folder


@pytest.fixture(scope="session")
def gallery_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose registry holds four models and no champion; see `gallery`."""
    return build_or_copy(tmp_path_factory, "gallery", register_gallery)


def register_gallery(folder: Path) -> None:
    """Train and register the models of the gallery."""
    import gallery

    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, folder, patch)
        gallery.make_project(folder)
        gallery.register_all()


@pytest.fixture
def registry_copy(gallery_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A writable copy of that project and its store as the working directory; versions 1 to 4: see `gallery`."""
    folder = copytree(gallery_store, tmp_path / "gallery", ignore=ignore_patterns("mlruns"))
    (folder / "mlruns").symlink_to(gallery_store / "mlruns")
    use_folder(folder, folder, monkeypatch)
    return folder


@pytest.fixture(scope="module")
def promoted(gallery_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Such a copy as the working directory, in which version 1 replaced version 3 as champion, with its report."""
    import gallery

    from landuse.registry import load_and_predict, smoke_test

    folder = tmp_path_factory.mktemp("promoted") / "project"
    copytree(gallery_store, folder, ignore=ignore_patterns("mlruns"))
    (folder / "mlruns").symlink_to(gallery_store / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, folder, patch)
        patch.setattr(smoke_test, "predict_in_subprocess", load_and_predict.predict_example)
        gallery.make_champion(3)
        gallery.promote_version("1")
        yield folder


@pytest.fixture
def smoke_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoke-test registered models in this process, which saves the seconds of starting another."""
    from landuse.registry import load_and_predict, smoke_test

    monkeypatch.setattr(smoke_test, "predict_in_subprocess", load_and_predict.predict_example)


@pytest.fixture(scope="session")
def registered(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project whose model is the champion of `served`."""
    from landuse.params import load_params
    from landuse.register import register
    from landuse.registry import CHAMPION, set_alias

    folder = tmp_path_factory.mktemp("registered") / "project"
    copytree(finished, folder, ignore=ignore_patterns("mlflow.db", "mlruns"))
    tiny.write_params(folder, tiny.params_with({}) | {"register": {"model": "served"}})
    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, finished, patch)
        version = register(load_params().register)
        set_alias(version.name, CHAMPION, version.version)
    return folder


@pytest.fixture
def served(registered: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a champion as the working directory. Read-only."""
    use_folder(registered, finished, monkeypatch)
    return registered


@pytest.fixture(scope="session")
def fine_tuned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project whose last blocks were fine-tuned on cached activations."""
    from landuse.extract import extract
    from landuse.params import load_params
    from landuse.train import train

    folder = tmp_path_factory.mktemp("fine_tuned") / "project"
    copytree(finished, folder, ignore=ignore_patterns("mlflow.db", "mlruns"))
    changes = {"extract": {"views": 2}, "train": {"unfreeze_from": "block_16", "epochs": 2}}
    tiny.write_params(folder, tiny.params_with(changes))
    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, finished, patch)
        params = load_params()
        extract(params.extract, params.train.unfreeze_from)
        train(params.train)
    return folder
