"""Tests of verify: refusals, and the restored project, which leaves nothing behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import move, rmtree
from threading import Thread
from time import monotonic, sleep

import psutil
import pytest
import tiny
import yaml
from gallery import NAME
from mlflow import MlflowClient
from records import set_facts

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA_DVC, PARAMS
from landuse.project.lineage import read_data_dvc
from landuse.project.worktree import configure_worktree
from landuse.verify import verify
from landuse.verify.rebuild import rerun, restored_project

LOST_COMMIT = "0" * 40
STEP = """
import os, sys, time
from pathlib import Path
beside = Path("..").resolve()
Path("out.txt").write_text("done")
with (beside / "log").open("a") as log:
    print(__file__, os.environ.get("MLFLOW_TRACKING_URI"), file=log)
if (beside / "wait").exists():
    (beside / "pid.part").write_text(str(os.getpid()))
    (beside / "pid.part").rename(beside / "pid")
    time.sleep(60)
sys.exit((beside / "fail").exists())
"""


def refusal(number: str = "1") -> str:
    """Return the one-line error of verifying a version."""
    with pytest.raises(LanduseError) as refused:
        verify(NAME, number)
    assert refused.value.exit_code == 1 and "\n" not in str(refused.value)
    return str(refused.value)


def test_a_version_trained_outside_git_cannot_be_verified(registry_copy: Path) -> None:
    set_facts(NAME, "1", git_commit="none")
    assert "gallery version 1 cannot be verified: its code was in no commit (git.commit = none)" in refusal()


@pytest.mark.parametrize("dirty", ["true", "unknown"])
def test_a_version_of_uncommitted_code_cannot_be_verified(registry_copy: Path, dirty: str) -> None:
    set_facts(NAME, "1", git_commit=LOST_COMMIT, git_dirty=dirty)
    assert f"changes of the code that were never committed (git.dirty = {dirty}, on top of 00000" in refusal()


def test_a_missing_commit_is_reported(registry_copy: Path) -> None:
    set_facts(NAME, "1", git_commit=LOST_COMMIT, git_dirty="false")
    assert (
        f"gallery version 1 cannot be verified: its commit {LOST_COMMIT} is not in this repository: git fetch"
        in refusal()
    )


@pytest.mark.parametrize("name", ["HEAD", "main", "--all", ":/fix", f"{LOST_COMMIT}^"])
def test_a_tag_that_is_no_commit_is_not_passed_to_git(registry_copy: Path, name: str) -> None:
    set_facts(NAME, "1", git_commit=name, git_dirty="false")
    assert f"its tag git.commit = {name} names no commit" in refusal()


def test_missing_records_are_listed(registry_copy: Path) -> None:
    client = MlflowClient()
    run, source = client.create_run("0").info.run_id, client.get_model_version(NAME, "1").source
    client.create_model_version(
        NAME, source, run, tags={"git.commit": LOST_COMMIT, "git.dirty": "false", "weights": "none"}
    )
    missing = (
        "the tag data.md5, the tag data.source, params.yaml, versions.json, splits.csv, metrics.json, predictions.csv"
    )
    assert f"{missing} of its run {run} is missing; a version trained anew has it" in refusal("5")


def test_an_unknown_version_is_reported(registry_copy: Path) -> None:
    assert "gallery has no version 9 in the registry" in refusal("9")


# Restored project


@pytest.fixture
def tags(project: Path) -> dict[str, str]:
    """Tags of a version of a project that was changed since."""
    return commit_and_change()


@pytest.fixture
def nested_tags(project: Path) -> dict[str, str]:
    """The same for a project in a subfolder of its repository."""
    move(".git", project.parent)
    return commit_and_change()


@pytest.fixture
def signals_enabled() -> Iterator[None]:
    """Handle SIGINT and SIGHUP, which are ignored if a shell started the tests in the background or by nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
        signal.signal(number, handler)


def commit_and_change() -> dict[str, str]:
    """Commit a project, then change its code, remove its data and add uncommitted params; return the tags."""
    Path("data/field").mkdir(parents=True)
    tiny.scene("field", 0).save("data/field/00.png")
    Path("src/step.py").write_text(STEP)
    Path("weights/own.h5").touch()
    stage = {"cmd": "python -m step", "deps": ["data"], "outs": ["out.txt"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))
    subprocess.run(["dvc", "add", "--quiet", "data"], check=True)
    git("add", ".")
    git("commit", "--quiet", "--message", "Begin")
    commit, md5 = git("rev-parse", "HEAD").strip(), read_data_dvc()["outs"][0]["md5"]
    Path("then.yaml").write_text("then: 1\n")
    Path("src/step.py").write_text("raise SystemExit(9)\n")
    rmtree("data")
    DATA_DVC.unlink()
    return {"git.commit": commit, "data.md5": md5, "data.source": "tiny.zip", "weights": "own.h5"}


def git(*words: str) -> str:
    """Run git and return its output."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout


def assert_nothing_left(folder: Path) -> None:
    assert not folder.exists() and len(git("worktree", "list").splitlines()) == 1


def cached_files() -> set[Path]:
    """List the files in DVC's cache."""
    return set(Path(".dvc/cache").rglob("*"))


def test_code_params_data_and_weights_are_restored_and_then_removed(tags: dict, tmp_path: Path) -> None:
    with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert (folder / "src/step.py").read_text() == STEP
        assert (folder / PARAMS).read_text() == "then: 1\n"
        assert [path.name for path in folder.glob("data/*/*")] == ["00.png"]
        assert (folder / "weights/own.h5").resolve() == Path("weights/own.h5").resolve()
    assert_nothing_left(tmp_path / "now")
    assert not DATA_DVC.exists() and not Path("data").exists()


def test_params_are_restored_with_the_key_names_of_the_commit(project: Path, tmp_path: Path) -> None:
    params = yaml.safe_load(PARAMS.read_text())
    params["promote"]["accuracy"] = params["promote"].pop("min_accuracy")
    recorded = PARAMS.rename("recorded.yaml")
    PARAMS.write_text(yaml.safe_dump(params))
    with restored_project(commit_and_change(), recorded, tmp_path / "now") as folder:
        assert yaml.safe_load((folder / PARAMS).read_text()) == params


def test_a_project_in_a_subfolder_of_its_repository_is_restored(nested_tags: dict, tmp_path: Path) -> None:
    with restored_project(nested_tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert folder.parent == tmp_path / "now"
        assert (folder / "src/step.py").read_text() == STEP and len(list(folder.glob("data/*/*"))) == 1
    assert_nothing_left(tmp_path / "now")


def test_a_project_moved_within_its_repository_is_reported(tags: dict, project: Path, tmp_path: Path) -> None:
    move(".git", project.parent)
    with (
        pytest.raises(LanduseError, match=f"its commit {tags['git.commit']} has no .*ject/dvc.yaml: the project was"),
        restored_project(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_left(tmp_path / "now")


@pytest.mark.slow
def test_data_missing_from_the_cache_comes_from_a_relative_remote(tags: dict, tmp_path: Path) -> None:
    with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        subprocess.run(["dvc", "push", "--quiet", "data.dvc"], cwd=folder, check=True)
    assert Path(".dvc/storage").is_dir()
    rmtree(".dvc/cache")
    with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert len(list(folder.glob("data/*/*"))) == 1


def test_data_in_neither_cache_nor_remote_is_reported_by_its_md5(tags: dict, tmp_path: Path) -> None:
    rmtree(".dvc/cache")
    with (
        pytest.raises(LanduseError, match=f"its data {tags['data.md5']} .from tiny.zip. is neither in DVC's cache nor"),
        restored_project(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_left(tmp_path / "now")


def test_missing_weights_are_reported(tags: dict, tmp_path: Path) -> None:
    Path("weights/own.h5").unlink()
    with (
        pytest.raises(LanduseError, match="its weights weights/own.h5 are not there"),
        restored_project(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_left(tmp_path / "now")


def test_git_hooks_do_not_run(tags: dict, tmp_path: Path) -> None:
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert (folder / "data").is_dir()


@pytest.mark.slow
def test_stages_rerun_with_the_old_code_a_separate_store_and_no_caching(
    tags: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(Path("src").resolve()))
    for _ in range(2):
        with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
            before = cached_files()
            assert rerun(folder, tmp_path / "store.db", split=None)
            assert (folder / "out.txt").read_text() == "done" and cached_files() == before
    once = f"{tmp_path}/now/src/step.py sqlite:///{tmp_path}/store.db\n"
    assert (tmp_path / "log").read_text() == once * 2


def test_a_failing_stage_is_reported(tags: dict, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert not rerun(folder, tmp_path / "store.db", split=None)


def test_a_git_submodule_is_refused(tags: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = str(tmp_path / "parent")
    git("init", "--quiet", parent)
    git("-C", parent, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(Path.cwd()), "landuse")
    monkeypatch.chdir(f"{parent}/landuse")
    with pytest.raises(LanduseError, match="the project is a submodule of git, and DVC takes no second working tree"):
        configure_worktree(tmp_path)


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(
    ("signum", "exception"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_an_interruption_leaves_no_folder_and_no_process(
    tags: dict, tmp_path: Path, signum: signal.Signals, exception: type[BaseException], signals_enabled: None
) -> None:
    (tmp_path / "wait").touch()

    def stop() -> None:
        while not (tmp_path / "pid").exists():
            sleep(0.05)
        os.kill(os.getpid(), signum)

    Thread(target=stop, daemon=True).start()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(exception) as ended, restored_project(tags, Path("then.yaml"), tmp_path / "now") as folder:
        rerun(folder, tmp_path / "store.db", split=None)
    assert signum == signal.SIGINT or ended.value.code == 128 + signum
    assert_nothing_left(tmp_path / "now")
    stage, limit = int((tmp_path / "pid").read_text()), monotonic() + 10
    while is_running(stage) and monotonic() < limit:
        sleep(0.05)
    assert not is_running(stage)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
