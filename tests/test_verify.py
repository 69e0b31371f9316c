"""Verify: what is refused, and what is restored and leaves nothing behind."""

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

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA_DVC, PARAMS
from landuse.project.lineage import read_data_dvc
from landuse.project.worktree import lend
from landuse.verify import verify
from landuse.verify.rebuild import rerun, restored

GONE = "0" * 40
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


def tag(key: str, value: str) -> None:
    MlflowClient().set_model_version_tag(NAME, "1", key, value)


def refusal(number: str = "1") -> str:
    """The one line with which a version is not verified."""
    with pytest.raises(LanduseError) as refused:
        verify(NAME, number)
    assert refused.value.exit_code == 1 and "\n" not in str(refused.value)
    return str(refused.value)


def test_a_version_that_was_trained_outside_of_git_cannot_be_verified(registry_copy: Path) -> None:
    tag("git.commit", "none")
    assert "gallery version 1 cannot be verified: its code was in no commit (git.commit = none)" in refusal()


@pytest.mark.parametrize("dirty", ["true", "unknown"])
def test_a_version_of_code_that_was_never_committed_cannot_be_verified(registry_copy: Path, dirty: str) -> None:
    tag("git.commit", GONE)
    tag("git.dirty", dirty)
    assert f"changes of the code that were never committed (git.dirty = {dirty}, on top of 00000" in refusal()


def test_a_version_whose_commit_is_gone_says_so(registry_copy: Path) -> None:
    tag("git.commit", GONE)
    tag("git.dirty", "false")
    assert f"gallery version 1 cannot be verified: its commit {GONE} is not in this repository: git fetch" in refusal()


@pytest.mark.parametrize("name", ["HEAD", "main", "--all", ":/fix", f"{GONE}^"])
def test_a_tag_that_names_no_commit_is_not_handed_to_git(registry_copy: Path, name: str) -> None:
    tag("git.commit", name)
    tag("git.dirty", "false")
    assert f"its tag git.commit = {name} names no commit" in refusal()


def test_a_version_whose_records_are_lost_says_which(registry_copy: Path) -> None:
    client = MlflowClient()
    run, source = client.create_run("0").info.run_id, client.get_model_version(NAME, "1").source
    client.create_model_version(NAME, source, run, tags={"git.commit": GONE, "git.dirty": "false", "weights": "none"})
    lost = (
        "the tag data.md5, the tag data.source, params.yaml, versions.json, splits.csv, metrics.json, predictions.csv"
    )
    assert f"{lost} of its run {run} is missing; a version trained anew has it" in refusal("5")


def test_a_version_that_is_not_there_is_named(registry_copy: Path) -> None:
    assert "gallery has no version 9 in the registry" in refusal("9")


# The project as it was


@pytest.fixture
def tags(project: Path) -> dict[str, str]:
    """The tags of a version of a project that has moved on."""
    return move_on()


@pytest.fixture
def larger(project: Path) -> dict[str, str]:
    """The same, where the project is a folder of a repository that holds more."""
    move(".git", project.parent)
    return move_on()


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C and a closed terminal are heard; not so what a shell starts in the background or by nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
        signal.signal(number, handler)


def move_on() -> dict[str, str]:
    """From what tags tell to other code, no data, and params that were not committed; returns the tags."""
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
    """What git prints."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b")
    return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout


def assert_nothing_is_left(folder: Path) -> None:
    assert not folder.exists() and len(git("worktree", "list").splitlines()) == 1


def cached() -> set[Path]:
    return set(Path(".dvc/cache").rglob("*"))


def test_code_params_data_and_weights_are_there_as_they_were_and_then_gone(tags: dict, tmp_path: Path) -> None:
    with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert (folder / "src/step.py").read_text() == STEP
        assert (folder / PARAMS).read_text() == "then: 1\n"
        assert [path.name for path in folder.glob("data/*/*")] == ["00.png"]
        assert (folder / "weights/own.h5").resolve() == Path("weights/own.h5").resolve()
    assert_nothing_is_left(tmp_path / "now")
    assert not DATA_DVC.exists() and not Path("data").exists()


def test_a_project_in_a_folder_of_a_larger_repository_is_there_too(larger: dict, tmp_path: Path) -> None:
    with restored(larger, Path("then.yaml"), tmp_path / "now") as folder:
        assert folder.parent == tmp_path / "now"
        assert (folder / "src/step.py").read_text() == STEP and len(list(folder.glob("data/*/*"))) == 1
    assert_nothing_is_left(tmp_path / "now")


def test_a_project_that_was_moved_within_its_repository_is_told(tags: dict, project: Path, tmp_path: Path) -> None:
    move(".git", project.parent)
    with (
        pytest.raises(LanduseError, match=f"its commit {tags['git.commit']} has no .*ject/dvc.yaml: the project was"),
        restored(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_is_left(tmp_path / "now")


@pytest.mark.slow
def test_data_that_left_the_cache_comes_from_the_remote_also_where_its_path_is_relative(
    tags: dict, tmp_path: Path
) -> None:
    with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        subprocess.run(["dvc", "push", "--quiet", "data.dvc"], cwd=folder, check=True)
    assert Path(".dvc/storage").is_dir()
    rmtree(".dvc/cache")
    with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert len(list(folder.glob("data/*/*"))) == 1


def test_data_that_is_in_no_cache_and_no_remote_is_named_with_its_md5(tags: dict, tmp_path: Path) -> None:
    rmtree(".dvc/cache")
    with (
        pytest.raises(LanduseError, match=f"its data {tags['data.md5']} .from tiny.zip. is neither in DVC's cache nor"),
        restored(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_is_left(tmp_path / "now")


def test_weights_that_are_not_there_any_more_are_named(tags: dict, tmp_path: Path) -> None:
    Path("weights/own.h5").unlink()
    with (
        pytest.raises(LanduseError, match="its weights weights/own.h5 are not there"),
        restored(tags, Path("then.yaml"), tmp_path / "now"),
    ):
        pass
    assert_nothing_is_left(tmp_path / "now")


def test_a_hook_of_the_user_is_not_run(tags: dict, tmp_path: Path) -> None:
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert (folder / "data").is_dir()


@pytest.mark.slow
def test_stages_really_run_with_the_code_of_then_a_store_of_their_own_and_untouched_caches(
    tags: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(Path("src").resolve()))
    for _ in range(2):
        with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
            before = cached()
            assert rerun(folder, tmp_path / "store.db")
            assert (folder / "out.txt").read_text() == "done" and cached() == before
    once = f"{tmp_path}/now/src/step.py sqlite:///{tmp_path}/store.db\n"
    assert (tmp_path / "log").read_text() == once * 2


def test_a_stage_that_fails_is_told(tags: dict, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        assert not rerun(folder, tmp_path / "store.db")


def test_a_submodule_of_git_is_refused_for_what_it_is(
    tags: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = str(tmp_path / "larger")
    git("init", "--quiet", larger)
    git("-C", larger, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(Path.cwd()), "landuse")
    monkeypatch.chdir(f"{larger}/landuse")
    with pytest.raises(LanduseError, match="the project is a submodule of git, and DVC takes no second working tree"):
        lend(tmp_path)


def is_there(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(
    ("signum", "end"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_who_is_stopped_in_the_middle_leaves_no_folder_and_no_process(
    tags: dict, tmp_path: Path, signum: signal.Signals, end: type[BaseException], heard: None
) -> None:
    (tmp_path / "wait").touch()

    def stop() -> None:
        while not (tmp_path / "pid").exists():
            sleep(0.05)
        os.kill(os.getpid(), signum)

    Thread(target=stop, daemon=True).start()
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(end) as ended, restored(tags, Path("then.yaml"), tmp_path / "now") as folder:
        rerun(folder, tmp_path / "store.db")
    assert signum == signal.SIGINT or ended.value.code == 128 + signum
    assert_nothing_is_left(tmp_path / "now")
    stage, limit = int((tmp_path / "pid").read_text()), monotonic() + 10
    while is_there(stage) and monotonic() < limit:
        sleep(0.05)
    assert not is_there(stage)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
