"""What a stage depends on may not change while it runs, or DVC would record it under what it was not made from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import DVC_YAML, PARAMS
from landuse.params import load_params
from landuse.project.stage_guard import kept

IMAGE = Path("data/forest/a.png")
Edit = Callable[[], object]


@pytest.fixture(autouse=True)
def at_work(project: Path) -> None:
    """A project with something in data/ and in artifacts/."""
    for path in (IMAGE, Path("artifacts/splits.csv")):
        path.parent.mkdir(parents=True)
        path.write_text("first")


def put(key: str, value: str) -> Edit:
    """An edit of a line of params.yaml."""

    def edit() -> None:
        lines = PARAMS.read_text("utf-8").splitlines()
        found = next(number for number, line in enumerate(lines) if line.startswith(f"  {key}:"))
        lines[found] = f"  {key}: {value}"
        PARAMS.write_text("\n".join(lines), "utf-8")

    return edit


def write(path: str) -> Edit:
    """New content of a file."""

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
        ("train", write("src/landuse/train/learner.py"), "src/landuse/train/learner.py was changed while train ran"),
        ("train", write("src/landuse/model.py"), "src/landuse/model.py was changed while train ran"),
        ("extract", write("src/landuse/model.py"), "src/landuse/model.py was changed while extract ran"),
    ],
)
def test_a_stage_whose_inputs_were_edited_meanwhile_fails_in_the_end(stage: str, edit: Edit, complaint: str) -> None:
    with pytest.raises(Unavailable, match="dvc repro makes it again") as refusal, kept(stage):
        edit()
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    "edit",
    [
        lambda: None,
        put("calibration_bins", "10"),
        put("cosine", "0.5"),
        write("src/landuse/evaluate.py"),
        write("src/landuse/train/.learner.py.swp"),
        write("src/landuse/train/__pycache__/learner.cpython-311.pyc"),
        lambda: PARAMS.write_text(f"# a comment\n{PARAMS.read_text('utf-8')}", "utf-8"),
    ],
)
def test_an_edit_of_what_a_stage_does_not_depend_on_may_be_made_while_it_runs(edit: Edit) -> None:
    with kept("train") as params:
        edit()
    assert params.train == load_params().train


def test_params_that_are_half_edited_when_a_stage_ends_are_named(project: Path) -> None:
    with pytest.raises(LanduseError, match="params.yaml: train.batch_size: missing"), kept("train"):
        PARAMS.write_text(PARAMS.read_text("utf-8").replace("  batch_size: 32 ", "  # "), "utf-8")


def test_a_dvc_yaml_with_both_sides_of_a_merge_is_named(project: Path) -> None:
    DVC_YAML.write_text(f"<<<<<<< HEAD\n{DVC_YAML.read_text('utf-8')}")
    with pytest.raises(LanduseError, match="dvc.yaml has both sides of a merge: keep one of them"), kept("train"):
        pass


@pytest.mark.parametrize("content", [None, "", "stages: {", "stages: {validate: {}}"])
def test_a_stage_that_dvc_yaml_does_not_have_is_named(content: str | None) -> None:
    DVC_YAML.unlink() if content is None else DVC_YAML.write_text(content)
    with pytest.raises(LanduseError, match="dvc.yaml has no stage train: restore it with git checkout"), kept("train"):
        pass


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_what_a_stage_makes_is_not_written_through_a_link_into_the_cache(link: Callable, tmp_path: Path) -> None:
    cached, out = tmp_path / "cached", Path("artifacts/model/model.json")
    out.parent.mkdir(parents=True)
    cached.write_text("of an earlier model")
    link(out, cached)
    with kept("train"):
        out.write_text("new")
    assert (cached.read_text(), out.read_text()) == ("of an earlier model", "new")


def test_what_an_earlier_stage_made_and_what_persists_stays_linked(tmp_path: Path) -> None:
    cached, links = tmp_path / "cached", [Path("artifacts/run.json"), Path("artifacts/registration.json")]
    cached.touch()
    for path in links:
        path.symlink_to(cached)
    with kept("register"):
        assert all(path.is_symlink() for path in links)
