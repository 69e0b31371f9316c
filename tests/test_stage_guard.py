"""The inputs of a stage must not change while it runs, or DVC would record its outputs for the wrong inputs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import DVC_YAML, PARAMS
from landuse.params import load_params
from landuse.project.stage_guard import guard_stage

IMAGE = Path("data/forest/a.png")
Edit = Callable[[], object]


@pytest.fixture(autouse=True)
def project_files(project: Path) -> None:
    """A project with a file in data/ and one in artifacts/."""
    for path in (IMAGE, Path("artifacts/splits.csv")):
        path.parent.mkdir(parents=True)
        path.write_text("first")


def put(key: str, value: str) -> Edit:
    """Return an edit of one line of params.yaml."""

    def edit() -> None:
        lines = PARAMS.read_text("utf-8").splitlines()
        index = next(number for number, line in enumerate(lines) if line.startswith(f"  {key}:"))
        lines[index] = f"  {key}: {value}"
        PARAMS.write_text("\n".join(lines), "utf-8")

    return edit


def write(path: str) -> Edit:
    """Return an edit that replaces a file."""

    def edit() -> None:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("something else")

    return edit


@pytest.mark.parametrize(
    ("stage", "edit", "complaint"),
    [
        ("train", put("learning_rate", "0.005"), "train.learning_rate was 0.002 when train began, and is 0.005 now"),
        ("extract", put("views", "4"), "extract.views was 8 when extract began, and is 4 now"),
        ("extract", put("unfreeze_from", "head"), "train.unfreeze_from was 'block_14' when extract began"),
        ("train", write(str(IMAGE)), "data/forest/a.png was changed while train ran"),
        ("train", IMAGE.unlink, "data/forest/a.png was changed while train ran"),
        ("validate", write("data/forest/b.png"), "data/forest/b.png was changed while validate ran"),
        ("train", write("artifacts/splits.csv"), "artifacts/splits.csv was changed while train ran"),
        ("train", write("src/landuse/train/loop.py"), "src/landuse/train/loop.py was changed while train ran"),
        ("train", write("src/landuse/ml/network.py"), "src/landuse/ml/network.py was changed while train ran"),
        ("extract", write("src/landuse/ml/network.py"), "src/landuse/ml/network.py was changed while extract ran"),
    ],
)
def test_a_stage_whose_inputs_change_while_it_runs_fails_at_the_end(stage: str, edit: Edit, complaint: str) -> None:
    with pytest.raises(Unavailable, match="dvc repro makes them again") as refusal, guard_stage(stage):
        edit()
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda: None,
        put("calibration_bins", "10"),
        put("cosine", "0.5"),
        write("src/landuse/evaluate.py"),
        write("src/landuse/train/.loop.py.swp"),
        write("src/landuse/train/__pycache__/loop.cpython-311.pyc"),
        lambda: PARAMS.write_text(f"# a comment\n{PARAMS.read_text('utf-8')}", "utf-8"),
    ],
)
def test_files_that_a_stage_does_not_depend_on_may_change_while_it_runs(edit: Edit) -> None:
    with guard_stage("train") as params:
        edit()
    assert params.train == load_params().train


def test_invalid_params_at_the_end_of_a_stage_are_reported(project: Path) -> None:
    with pytest.raises(LanduseError, match="params.yaml: train.batch_size: missing"), guard_stage("train"):
        PARAMS.write_text(PARAMS.read_text("utf-8").replace("  batch_size: 32 ", "  # "), "utf-8")


def test_a_dvc_yaml_with_merge_conflicts_is_reported(project: Path) -> None:
    DVC_YAML.write_text(f"<<<<<<< HEAD\n{DVC_YAML.read_text('utf-8')}")
    with (
        pytest.raises(LanduseError, match="dvc.yaml has both sides of a merge: keep one of them"),
        guard_stage("train"),
    ):
        pass


@pytest.mark.parametrize("content", [None, "", "stages: {", "stages: {validate: {}}"])
def test_a_stage_missing_from_dvc_yaml_is_reported(content: str | None) -> None:
    DVC_YAML.unlink() if content is None else DVC_YAML.write_text(content)
    with (
        pytest.raises(LanduseError, match="dvc.yaml has no stage train: restore it with git checkout"),
        guard_stage("train"),
    ):
        pass


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_outputs_of_a_stage_are_not_written_through_links_into_the_cache(link: Callable, tmp_path: Path) -> None:
    cached, out = tmp_path / "cached", Path("artifacts/model/model.json")
    out.parent.mkdir(parents=True)
    cached.write_text("of an earlier model")
    link(out, cached)
    with guard_stage("train"):
        out.write_text("new")
    assert (cached.read_text(), out.read_text()) == ("of an earlier model", "new")


def test_outputs_of_earlier_stages_and_persistent_outputs_stay_linked(tmp_path: Path) -> None:
    cached, links = tmp_path / "cached", [Path("artifacts/run.json"), Path("artifacts/registration.json")]
    cached.touch()
    for path in links:
        path.symlink_to(cached)
    with guard_stage("register"):
        assert all(path.is_symlink() for path in links)
