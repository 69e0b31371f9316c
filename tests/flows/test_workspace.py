"""Other params are tried in a copy of the project, which stays as it was."""

import subprocess
from pathlib import Path
from shutil import copytree, move, rmtree

import pytest
import tiny
import yaml

from landuse import tracking
from landuse.core.errors import LanduseError
from landuse.params import load_params
from pipelines.steps.workspace import COPY, command, make_copy, overridden, remove_copy, workspace

IDENTITY = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
FASTER = {"train.learning_rate": 0.5}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store: making one takes seconds."""
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
    """The project with two images in data/, versioned and committed: made once, copied from then on."""
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
        command("dvc", "add", "--quiet", "data")
        command("git", "add", "--all")
        command("git", "commit", "--quiet", "--message", "Begin")
        copytree(project, template)
    (project / ".services").mkdir()
    return project


def facts() -> tuple[bytes, ...]:
    """What must not change: params, lock, and what git sees, worktrees included."""
    seen = (("status", "--porcelain"), ("diff", "HEAD"), ("worktree", "list"), ("stash", "list"))
    git = [subprocess.run(["git", *words], capture_output=True, check=True).stdout for words in seen]
    return (Path("params.yaml").read_bytes(), Path("dvc.lock").read_bytes(), *git)


def learning_rate(folder: Path) -> float:
    return load_params(folder / "params.yaml").train.learning_rate


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_other_params_the_project_itself_is_worked_in(project: Path) -> None:
    for nothing in (None, {}):
        with workspace(nothing) as folder:
            assert folder.resolve() == project
    assert not COPY.exists()


def test_other_params_are_those_of_the_copy_and_the_project_is_as_before(committed: Path) -> None:
    before = facts()
    with workspace(FASTER | {"train.unfreeze_from": "head"}) as folder:
        assert learning_rate(folder) == 0.5 and load_params(folder / "params.yaml").train.unfreeze_from == "head"
        assert facts()[:4] == before[:4]
        assert files(folder / "data") == {"field/a.png", "water/a.png"}
        assert command("dvc", "cache", "dir", folder=folder) == command("dvc", "cache", "dir")
        (folder / "dvc.lock").write_text("changed by a stage")
    assert facts() == before and not COPY.exists()


def test_where_the_cache_makes_links_the_copy_may_be_on_another_disk(committed: Path) -> None:
    command("dvc", "config", "--local", "cache.type", "hardlink,symlink")
    with workspace(FASTER) as folder:
        assert command("dvc", "config", "cache.type", folder=folder).strip() == "['hardlink', 'symlink', 'copy']"


def test_a_hook_of_the_user_is_not_run(committed: Path) -> None:
    hook = Path(".git/hooks/post-checkout")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with workspace(FASTER) as folder:
        assert files(folder / "data") == {"field/a.png", "water/a.png"}


def test_a_project_in_a_folder_of_a_larger_repository_is_copied_in_its_place(committed: Path) -> None:
    move(".git", committed.parent)
    command("git", "add", "--all", ".")
    command("git", "commit", "--quiet", "--message", "Into a larger repository")
    Path("dvc.lock").write_text("schema: '2.0' # changed since\n")
    Path("src/new.py").write_text("new")
    with workspace(FASTER) as folder:
        assert folder == COPY / committed.name and learning_rate(folder) == 0.5
        assert files(folder / "data") == {"field/a.png", "water/a.png"}
        assert (folder / "dvc.lock").read_text().endswith("# changed since\n") and (folder / "src/new.py").exists()
    assert not COPY.exists()


@pytest.mark.slow
def test_what_is_not_committed_is_carried_over(committed: Path) -> None:
    Path("weights/none").unlink()
    Path("gx/great_expectations.yml").write_text("changed: true\n")
    new = Path("src/with a space\N{LATIN SMALL LETTER E WITH ACUTE}.txt")
    new.parent.mkdir(exist_ok=True)
    new.write_text("new")
    Path("tiles").mkdir()
    Path("tiles/a.png").write_text("any number of images")
    Path("presets").mkdir()
    Path("presets/own.yaml").write_text("staged and changed again\n")
    command("git", "add", "presets")
    Path("presets/own.yaml").write_text("own\n")
    Path("link").symlink_to("presets")
    command("git", "add", "link")
    command("git", "init", "--quiet", "src/own")
    params = Path("params.yaml").read_text().replace("epochs: 20", "epochs: 7")
    Path("params.yaml").write_text(params)
    before = facts()
    with workspace(FASTER) as folder:
        assert not (folder / "weights/none").exists()
        assert (folder / "gx/great_expectations.yml").read_text() == "changed: true\n"
        assert (folder / new).read_text() == "new" and not (folder / "tiles").exists()
        assert (folder / "presets/own.yaml").read_text() == "own\n"
        assert (folder / "link").is_symlink() and not (folder / "src/own").exists()
        assert load_params(folder / "params.yaml").train.epochs == 7 and learning_rate(folder) == 0.5
    assert facts() == before


@pytest.mark.slow
def test_weights_and_settings_that_git_does_not_know_are_there_too(committed: Path) -> None:
    Path("weights/own.weights.h5").write_text("numbers")
    command("dvc", "remote", "add", "--local", "own", "/nowhere")
    with workspace(FASTER) as folder:
        assert (folder / "weights/own.weights.h5").read_text() == "numbers"
        assert "own" in command("dvc", "remote", "list", folder=folder)
    assert Path("weights/own.weights.h5").exists()


@pytest.mark.slow
def test_a_copy_that_a_killed_flow_left_behind_is_replaced(committed: Path) -> None:
    before = facts()
    make_copy()
    (COPY / "params.yaml").write_text("half")
    (COPY / "left.txt").touch()
    with workspace(FASTER) as folder:
        assert learning_rate(folder) == 0.5 and not (folder / "left.txt").exists()
    assert facts() == before


@pytest.mark.slow
def test_the_ruins_of_a_copy_are_replaced(committed: Path) -> None:
    make_copy()
    (COPY / ".git").unlink()
    with workspace(FASTER) as folder:
        assert learning_rate(folder) == 0.5
    remove_copy()
    assert len(command("git", "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_a_training_that_fails_leaves_no_copy(committed: Path) -> None:
    before = facts()
    with pytest.raises(LanduseError, match="diverged"), workspace(FASTER):
        raise LanduseError("diverged")
    assert facts() == before and not COPY.exists()


@pytest.mark.slow
def test_a_copy_whose_data_cannot_be_had_is_removed_again(committed: Path) -> None:
    before = facts()
    rmtree(".dvc/cache")
    with pytest.raises(LanduseError, match="dvc failed .*other params need a git commit and its data"):
        workspace(FASTER).__enter__()
    assert facts() == before and not COPY.exists()


@pytest.mark.slow
def test_the_experiment_keeps_its_files_in_the_project_and_not_in_the_copy(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with workspace(FASTER) as folder:
        script = "import os; print(os.environ['MLFLOW_TRACKING_URI'])"
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert command("python", "-c", script, folder=folder).strip() == f"sqlite:///{committed}/mlflow.db"


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
def test_a_key_that_there_is_not_is_refused_before_anything_is_copied(project: Path, name: str, likely: str) -> None:
    with pytest.raises(LanduseError) as refusal, workspace({name: 0.5}):
        pass
    assert str(refusal.value).startswith(f"{name} = 0.5: there is no such key in params.yaml {likely}")
    assert not COPY.exists()


@pytest.mark.slow
def test_a_value_that_is_not_allowed_is_refused_and_nothing_stays(committed: Path) -> None:
    before = facts()
    with pytest.raises(LanduseError, match="^train.epochs = 'many'"), workspace({"train.epochs": "many"}):
        pass
    assert facts() == before and not COPY.exists()


def test_a_project_that_was_never_committed_is_told_so(project: Path, store: str, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    with pytest.raises(LanduseError, match="git failed .*other params need a git commit") as refusal:
        workspace(FASTER).__enter__()
    assert "\n" not in str(refusal.value)


def test_of_the_source_the_copy_knows_only_what_is_public(project: Path) -> None:
    source = "https://user:planted@host/a.zip?token=planted"
    tiny.write_params(project, {"data": {"source": source}})
    assert yaml.safe_load(overridden(FASTER))["data"]["source"] == "https://host/a.zip"


def test_what_is_not_overridden_keeps_its_value_and_place(project: Path) -> None:
    before, after = yaml.safe_load(Path("params.yaml").read_text()), yaml.safe_load(overridden(FASTER))
    assert list(after) == list(before)
    assert after.pop("train") == before.pop("train") | {"learning_rate": 0.5} and after == before
