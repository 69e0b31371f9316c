"""What the tests share: an empty project to work in, and one in which every stage ran."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns, which
from unittest import mock

import pytest
import tiny
from xdist.scheduler import LoadScopeScheduling

from landuse.core.environment import AT_START, own_environment

HERE = Path(__file__).parent
ROOT = HERE.parent
APART = ("test_killed.py",)  # it takes as long as all other flows
OF_THE_USER = (
    *("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE"),  # a pipe is no terminal
    *AT_START,  # else the tests would begin anew
)
for variable in OF_THE_USER:
    os.environ.pop(variable, None)
os.environ |= {"GIT_CONFIG_GLOBAL": str(HERE / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1", "PYTHONUTF8": "1"}
own_environment()


class Together(LoadScopeScheduling):
    """Tests of one file, or of one folder beside this one, share servers and projects: they run in one process.

    Files of `APART` have servers of their own, and run beside the rest of their folder.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = ROOT / nodeid.partition("::")[0]
        return file.name if file.parent == HERE or file.name in APART else file.parent.name


def pytest_xdist_make_scheduler(config: pytest.Config, log: Callable) -> Together:
    """Which test runs in which process, where there are several: `pytest -n 2`."""
    return Together(config, log)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test changes in the environment of this process does not reach the next one."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium; where it is not on the path, the test is skipped."""
    if (chromium := which("chromium")) is None:
        pytest.skip("chromium is not on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        opened = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone before anything ran, and the folder in use: git and DVC set up, the sample preset, no data.

    Its name has a space and a letter that is not ASCII, as a user's may have.
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
    monkeypatch.setattr("landuse.cli.run_own_code", lambda: None)  # a command within this process stays within it
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny project after validate, extract, split, train and evaluate."""
    import keras

    from landuse.evaluate import evaluate
    from landuse.extract import extract
    from landuse.params import load_params
    from landuse.split import split
    from landuse.train import train
    from landuse.validate import validate

    folder = tmp_path_factory.mktemp("finished")
    tiny.make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, folder, patch)
        params = load_params()
        validate(params.validate)
        extract(params.extract, params.train.unfreeze_from)
        split(params.split)
        keras.utils.clear_session()  # layers are numbered from 1, as in a process of its own
        train(params.train)
        evaluate(params.evaluate)
    return folder


def enter(folder: Path, finished: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in a folder, with the MLflow store of the finished project: a store of its own takes seconds to make."""
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished}/mlflow.db")
    patch.setenv("MLFLOW_EXPERIMENT_ID", "0")  # MLflow sets it for its children; undone with the patch


@pytest.fixture
def trained(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project as the folder in use: to look at, not to change."""
    enter(finished, finished, monkeypatch)
    return finished


@pytest.fixture
def trained_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project as the folder in use, to change at will."""
    folder = copytree(finished, tmp_path / "copy", ignore=ignore_patterns("mlflow.db", "mlruns"))
    enter(folder, finished, monkeypatch)
    return folder


@pytest.fixture(scope="session")
def gallery_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose registry holds four models and no champion: see `gallery`."""
    import gallery

    folder = tmp_path_factory.mktemp("gallery")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, folder, patch)
        gallery.make_project(folder)
        gallery.fill()
    return folder


@pytest.fixture
def registry_copy(gallery_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project and of its store as the folder in use: versions 1 to 4, good, confused, blind, timid."""
    folder = copytree(gallery_store, tmp_path / "gallery", ignore=ignore_patterns("mlruns"))
    (folder / "mlruns").symlink_to(gallery_store / "mlruns")
    enter(folder, folder, monkeypatch)
    return folder


@pytest.fixture(scope="module")
def judged(gallery_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Such a copy as the folder in use, in which version 1 replaced version 3 as champion, with its report."""
    import gallery

    from landuse.registry import load_and_predict, smoke_test

    folder = tmp_path_factory.mktemp("judged") / "project"
    copytree(gallery_store, folder, ignore=ignore_patterns("mlruns"))
    (folder / "mlruns").symlink_to(gallery_store / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, folder, patch)
        patch.setattr(smoke_test, "ask", load_and_predict.answers)
        gallery.crown(3)
        gallery.judge("1")
        yield folder


@pytest.fixture
def at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's models are loaded and asked in this very process, which saves the seconds of a fresh one."""
    from landuse.registry import load_and_predict, smoke_test

    monkeypatch.setattr(smoke_test, "ask", load_and_predict.answers)


@pytest.fixture(scope="session")
def registered(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project whose model is the champion of `served`."""
    from landuse.params import load_params
    from landuse.register import register
    from landuse.registry import CHAMPION, set_alias

    folder = tmp_path_factory.mktemp("registered") / "project"
    copytree(finished, folder, ignore=ignore_patterns("mlflow.db", "mlruns"))
    tiny.write_params(folder, tiny.changed({}) | {"register": {"model": "served"}})
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, finished, patch)
        version = register(load_params().register)
        set_alias(version.name, CHAMPION, version.version)
    return folder


@pytest.fixture
def served(registered: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with a champion as the folder in use: to look at, not to change."""
    enter(registered, finished, monkeypatch)
    return registered


@pytest.fixture(scope="session")
def fine_tuned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project whose last blocks were trained on cached activations."""
    from landuse.extract import extract
    from landuse.params import load_params
    from landuse.train import train

    folder = tmp_path_factory.mktemp("fine_tuned") / "project"
    copytree(finished, folder, ignore=ignore_patterns("mlflow.db", "mlruns"))
    changes = {"extract": {"views": 2}, "train": {"unfreeze_from": "block_16", "epochs": 2}}
    tiny.write_params(folder, tiny.changed(changes))
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, finished, patch)
        params = load_params()
        extract(params.extract, params.train.unfreeze_from)
        train(params.train)
    return folder
