"""Overridden params are tried in a copy of the project, which itself stays unchanged."""

import subprocess
from pathlib import Path
from shutil import copytree, move, rmtree

import pytest
import tiny
import yaml

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.params import load_params
from landuse.project.worktree import copy_project, remove_copy, run_command
from pipelines.steps.commands import command_environment
from pipelines.steps.workspace import COPY, apply_overrides, workspace

IDENTITY = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
FASTER = {"train.learning_rate": 0.5}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A shared MLflow store: creating one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_EXPERIMENT_ID", "0")
        with tracking.store() as uri:
            return uri


@pytest.fixture
def committed(
    project: Path, store: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The project with two images in data/, versioned and committed: created once, then copied."""
    for name, value in {**IDENTITY, "MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    template = tmp_path_factory.getbasetemp() / "committed"
    if template.exists():
        copytree(template, project, dirs_exist_ok=True)
    else:
        for number, label in enumerate(("field", "water")):
            (project / "data" / label).mkdir(parents=True)
            tiny.scene(label, number).save(project / "data" / label / "a.png")
        Path("dvc.lock").write_text("schema: '2.0'\n")
        run_command("dvc", "add", "--quiet", "data")
        run_command("git", "add", "--all")
        run_command("git", "commit", "--quiet", "--message", "Begin")
        copytree(project, template)
    (project / ".services").mkdir()
    return project


def snapshot() -> tuple[bytes, ...]:
    """Return what must not change: params, lock file, and the state of git, including its worktrees."""
    queries = (("status", "--porcelain"), ("diff", "HEAD"), ("worktree", "list"), ("stash", "list"))
    git = [subprocess.run(["git", *words], capture_output=True, check=True).stdout for words in queries]
    return (Path("params.yaml").read_bytes(), Path("dvc.lock").read_bytes(), *git)


def learning_rate(folder: Path) -> float:
    return load_params(folder / "params.yaml").train.learning_rate


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_overrides_the_workspace_is_the_project_itself(project: Path) -> None:
    for overrides in (None, {}):
        with workspace(overrides) as folder:
            assert folder.resolve() == project
    assert not COPY.exists()


def test_overrides_apply_to_the_copy_and_leave_the_project_unchanged(committed: Path) -> None:
    before = snapshot()
    with workspace(FASTER | {"train.unfreeze_from": "head"}) as folder:
        assert learning_rate(folder) == 0.5 and load_params(folder / "params.yaml").train.unfreeze_from == "head"
        assert snapshot()[:4] == before[:4]
        assert files(folder / "data") == {"field/a.png", "water/a.png"}
        assert run_command("dvc", "cache", "dir", folder=folder) == run_command("dvc", "cache", "dir")
        (folder / "dvc.lock").write_text("changed by a stage")
    assert snapshot() == before and not COPY.exists()


def test_a_cache_of_links_falls_back_to_copies_on_another_disk(committed: Path) -> None:
    run_command("dvc", "config", "--local", "cache.type", "hardlink,symlink")
    with workspace(FASTER) as folder:
        assert run_command("dvc", "config", "cache.type", folder=folder).strip() == "['hardlink', 'symlink', 'copy']"


def test_git_hooks_of_the_user_are_not_run(committed: Path) -> None:
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with workspace(FASTER) as folder:
        assert files(folder / "data") == {"field/a.png", "water/a.png"}


def test_a_project_in_a_subfolder_of_a_larger_repository_is_copied(committed: Path) -> None:
    move(".git", committed.parent)
    run_command("git", "add", "--all", ".")
    run_command("git", "commit", "--quiet", "--message", "Into a larger repository")
    Path("dvc.lock").write_text("schema: '2.0' # changed since\n")
    Path("src/new.py").write_text("new")
    with workspace(FASTER) as folder:
        assert folder == COPY / committed.name and learning_rate(folder) == 0.5
        assert files(folder / "data") == {"field/a.png", "water/a.png"}
        assert (folder / "dvc.lock").read_text().endswith("# changed since\n") and (folder / "src/new.py").exists()
    assert not COPY.exists()


@pytest.mark.slow
def test_uncommitted_changes_are_copied(committed: Path) -> None:
    Path("weights/none").unlink()
    Path("gx/great_expectations.yml").write_text("changed: true\n")
    new = Path("src/with a space\N{LATIN SMALL LETTER E WITH ACUTE}.txt")
    new.parent.mkdir(exist_ok=True)
    new.write_text("new")
    Path("tiles").mkdir()
    Path("tiles/a.png").write_text("any number of images")
    Path("presets").mkdir()
    Path("presets/own.yaml").write_text("staged and changed again\n")
    run_command("git", "add", "presets")
    Path("presets/own.yaml").write_text("own\n")
    Path("link").symlink_to("presets")
    run_command("git", "add", "link")
    run_command("git", "init", "--quiet", "src/own")
    params = Path("params.yaml").read_text().replace("epochs: 20", "epochs: 7")
    Path("params.yaml").write_text(params)
    before = snapshot()
    with workspace(FASTER) as folder:
        assert not (folder / "weights/none").exists()
        assert (folder / "gx/great_expectations.yml").read_text() == "changed: true\n"
        assert (folder / new).read_text() == "new" and not (folder / "tiles").exists()
        assert (folder / "presets/own.yaml").read_text() == "own\n"
        assert (folder / "link").is_symlink() and not (folder / "src/own").exists()
        assert load_params(folder / "params.yaml").train.epochs == 7 and learning_rate(folder) == 0.5
    assert snapshot() == before


@pytest.mark.slow
def test_untracked_weights_and_local_dvc_settings_are_available(committed: Path) -> None:
    Path("weights/own.weights.h5").write_text("numbers")
    run_command("dvc", "remote", "add", "--local", "own", "/nowhere")
    with workspace(FASTER) as folder:
        assert (folder / "weights/own.weights.h5").read_text() == "numbers"
        assert "own" in run_command("dvc", "remote", "list", folder=folder)
    assert Path("weights/own.weights.h5").exists()


@pytest.mark.slow
def test_a_copy_that_a_killed_flow_left_behind_is_replaced(committed: Path) -> None:
    before = snapshot()
    copy_project(COPY)
    (COPY / "params.yaml").write_text("half")
    (COPY / "left.txt").touch()
    with workspace(FASTER) as folder:
        assert learning_rate(folder) == 0.5 and not (folder / "left.txt").exists()
    assert snapshot() == before


@pytest.mark.slow
def test_a_link_that_became_a_folder_is_not_followed_out_of_the_copy(
    committed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside, link = tmp_path_factory.mktemp("outside"), Path("src/lib")
    (outside / "f.py").write_text("original")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    run_command("git", "add", "--all")
    run_command("git", "commit", "--quiet", "--message", "A link")
    link.unlink()
    link.mkdir()
    (link / "f.py").write_text("changed")
    with workspace(FASTER) as folder:
        assert (folder / link / "f.py").read_text() == "changed" and not (folder / link).is_symlink()
    assert (outside / "f.py").read_text() == "original"


@pytest.mark.slow
def test_a_damaged_copy_is_replaced(committed: Path) -> None:
    copy_project(COPY)
    (COPY / ".git").unlink()
    with workspace(FASTER) as folder:
        assert learning_rate(folder) == 0.5
    remove_copy(COPY)
    assert len(run_command("git", "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_a_failed_training_leaves_no_copy(committed: Path) -> None:
    before = snapshot()
    with pytest.raises(LanduseError, match="diverged"), workspace(FASTER):
        raise LanduseError("diverged")
    assert snapshot() == before and not COPY.exists()


@pytest.mark.slow
def test_a_copy_whose_data_is_missing_is_removed(committed: Path) -> None:
    before = snapshot()
    rmtree(".dvc/cache")
    with pytest.raises(LanduseError, match="dvc failed .*a copy of the project needs a git commit and its data"):
        workspace(FASTER).__enter__()
    assert snapshot() == before and not COPY.exists()


@pytest.mark.slow
def test_commands_in_the_copy_use_the_store_of_the_project(committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with workspace(FASTER) as folder:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert folder.exists() and command_environment()["MLFLOW_TRACKING_URI"] == f"sqlite:///{committed}/mlflow.db"


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("train.learning_rat", "(did you mean learning_rate?)"),
        ("trian.learning_rate", "(did you mean train?)"),
        ("learning_rate", "(allowed: data, validate,"),
        ("train", "(allowed: unfreeze_from, epochs,"),
        ("train.learning_rate.x", "(did you mean learning_rate?)"),
        ("", "(allowed: data, validate,"),
    ],
)
def test_an_unknown_key_is_refused_before_anything_is_copied(project: Path, name: str, likely: str) -> None:
    with pytest.raises(LanduseError) as refusal, workspace({name: 0.5}):
        pass
    assert str(refusal.value).startswith(f"{name} = 0.5: there is no such key in params.yaml {likely}")
    assert not COPY.exists()


@pytest.mark.slow
def test_an_invalid_value_is_refused_and_leaves_no_copy(committed: Path) -> None:
    before = snapshot()
    with pytest.raises(LanduseError, match="^train.epochs = 'many'"), workspace({"train.epochs": "many"}):
        pass
    assert snapshot() == before and not COPY.exists()


def test_a_project_without_a_commit_is_refused(project: Path, store: str, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with pytest.raises(LanduseError, match="git failed .*a copy of the project needs a git commit") as refusal:
        workspace(FASTER).__enter__()
    assert "\n" not in str(refusal.value)


def test_the_copy_contains_only_the_public_part_of_the_source(project: Path) -> None:
    source = "https://user:planted@host/a.zip?token=planted"
    tiny.write_params(project, {"data": {"source": source}})
    assert yaml.safe_load(apply_overrides(FASTER))["data"]["source"] == "https://host/a.zip"


def test_params_that_are_not_overridden_keep_their_value_and_order(project: Path) -> None:
    before, after = yaml.safe_load(Path("params.yaml").read_text()), yaml.safe_load(apply_overrides(FASTER))
    assert list(after) == list(before)
    assert after.pop("train") == before.pop("train") | {"learning_rate": 0.5} and after == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.sure_accuracy", "train.target_selective_accuracy"),
        ("train.averaged_views", "train.tta_views"),
        ("promote.accuracy", "promote.min_accuracy"),
    ],
)
def test_an_override_of_an_old_key_is_refused_with_the_new_name(project: Path, old: str, new: str) -> None:
    with pytest.raises(LanduseError) as refusal:
        apply_overrides({old: 1})
    assert str(refusal.value) == f"{old}: renamed to {new}"
