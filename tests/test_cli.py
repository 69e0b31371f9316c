"""The command line: instant help, and one line for every user error."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import tiny
import typer.main

from landuse.cli import app, main
from landuse.core.errors import LanduseError
from landuse.core.files import read_table

ROOT = Path(__file__).parents[1]
LANDUSE = Path(sys.executable).with_name("landuse")
VERBS = tuple(typer.main.get_command(app).commands)
HEAVY = {
    *("tensorflow", "keras", "mlflow", "great_expectations", "pandas", "sklearn", "matplotlib", "dvc", "prefect"),
    *("PIL", "yaml", "psutil"),
}
ARGUMENTS = {
    **{"compare": ("1", "2"), "verify": ("1",), "flow": ("training",)},
    **{"predict": ("a.png",), "export": ("new",), "init": ("images",)},
}

Refusal = Callable[[str], str]


def landuse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LANDUSE, *arguments], capture_output=True, text=True)


@pytest.fixture
def refusal_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Return a function that runs a verb in this process and returns the one-line error it fails with."""

    def refused(verb: str) -> str:
        monkeypatch.setattr(sys, "argv", ["landuse", verb, *ARGUMENTS.get(verb, ())])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert stop.value.code == 1 and printed.out == ""
        assert printed.err.startswith("landuse: ") and printed.err.count("\n") == 1
        return printed.err

    return refused


def test_help_imports_nothing_heavy() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", "import json, sys, landuse.cli; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert HEAVY.isdisjoint(json.loads(answer.stdout))


@pytest.fixture
def edited_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an edited copy of the code below the current folder."""
    code = copytree(ROOT / "src" / "landuse", tmp_path / "src" / "landuse", ignore=ignore_patterns("__pycache__"))
    for name in ("cli.py", "info.py"):
        (code / name).write_text((code / name).read_text().replace("this folder stands for", "this branch stands for"))
    monkeypatch.chdir(tmp_path)
    return code


def test_in_a_copy_of_the_project_the_code_of_that_copy_runs(edited_copy: Path) -> None:
    answer = landuse("info", "--help")
    assert "this branch stands for" in answer.stdout and answer.returncode == 0 and answer.stderr == ""
    edited_copy.rename("elsewhere")
    assert "this folder stands for" in landuse("info", "--help").stdout


def test_in_a_copy_of_the_project_the_flows_of_that_copy_run(edited_copy: Path) -> None:
    copytree(ROOT / "pipelines", "pipelines", ignore=ignore_patterns("__pycache__"))
    copy(ROOT / "params.yaml", "params.yaml")
    Path("pipelines", "steps", "local_run.py").write_text("def run_once(*_): print('of the copy')\n")
    assert landuse("flow", "training").stdout == "of the copy\n"


def test_a_copy_whose_code_cannot_take_precedence_is_refused(edited_copy: Path) -> None:
    answer = subprocess.run([sys.executable, "-E", LANDUSE, "info"], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "landuse: src/landuse is not the code that runs: Python was told to ignore PYTHONPATH\n"


def test_help_describes_every_verb() -> None:
    page = landuse("--help").stdout
    commands = typer.main.get_command(app).commands
    for verb in VERBS:
        assert f" {verb} " in page
        assert len(commands[verb].help) > 20


def test_the_version_is_shown_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert landuse("--version").stdout == f"landuse {version('landuse')}\n"


def test_without_a_verb_help_is_shown() -> None:
    done = landuse()
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("info", "worker")])
def test_outside_the_project_a_verb_says_where_to_run_it_and_writes_nothing(
    refusal_of: Refusal, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal_of(verb) == "landuse: params.yaml is not here: run landuse in the project's folder\n"
    assert list(tmp_path.iterdir()) == []


def test_the_real_command_ends_with_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = subprocess.run([LANDUSE, "split"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "landuse: params.yaml is not here: run landuse in the project's folder\n"


def test_a_full_disk_is_reported_with_the_remedy(trained_copy: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    limited = f"import os, resource, sys; {limit}; os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", limited, LANDUSE, "split"], capture_output=True, text=True, env=tiny.WITHOUT_BYTECODE
    )
    assert done.returncode == 1
    assert done.stderr == "landuse: File too large: free some space, then the same command goes on\n"


def test_a_disk_that_fills_up_during_a_tree_copy_is_reported_with_the_first_file(tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))"
    copy = "import resource, shutil; from landuse.core.errors import report_errors\n"
    copy += f"{limit}\nwith report_errors(): shutil.copytree('from', 'to')"
    (tmp_path / "from" / "deep").mkdir(parents=True)
    (tmp_path / "from" / "deep" / "file").write_bytes(b"0" * 20)
    done = subprocess.run([sys.executable, "-c", copy], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "landuse: to/deep/file: File too large: free some space, then the same command goes on\n"


@pytest.mark.parametrize("verb", ["promote", "rollback", "history", "compare", "verify", "predict", "export"])
def test_before_any_registration_a_registry_verb_says_so_and_creates_no_registry(
    refusal_of: Refusal, project: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    (project / "a.png").write_bytes(b"")
    before = sorted(project.iterdir())
    assert "there is no registry at sqlite:///mlflow.db yet: dvc repro makes it" in refusal_of(verb)
    assert sorted(project.iterdir()) == before


def test_variables_that_name_another_repository_or_run_are_ignored(trained_copy: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "other.git"], check=True)
    others = {"GIT_DIR": str(tmp_path / "other.git"), "MLFLOW_RUN_ID": "0" * 32}
    outputs = [
        subprocess.run([LANDUSE, "info"], env=os.environ | more, capture_output=True, text=True, check=True).stdout
        for more in ({}, others)
    ]
    assert outputs[0] == outputs[1] and "not in git" not in outputs[0]


def test_mlflow_telemetry_is_off(trained_copy: Path, tmp_path: Path) -> None:
    has_telemetry = []
    for command in ([LANDUSE, "info"], [sys.executable, "-c", "import mlflow"]):
        (home := tmp_path / Path(command[0]).name).mkdir()
        env = {"HOME": str(home), "PATH": os.environ["PATH"], "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"]}
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
        has_telemetry.append(bool(list(home.rglob("telemetry.json"))))
    assert has_telemetry == [False, True], "the second shows that the test would notice"


def test_info_before_any_ingest_says_what_to_run(refusal_of: Refusal, project: Path) -> None:
    assert refusal_of("info") == "landuse: data.dvc is not here: bring in a data set with landuse ingest\n"


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("info", "init", "worker")])
def test_every_verb_reports_a_mistyped_key_with_the_likely_one(refusal_of: Refusal, project: Path, verb: str) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("learning_rate:", "learning_rte:"))
    message = refusal_of(verb)
    assert "params.yaml: " in message and "train.learning_rte: unknown key (did you mean learning_rate?)" in message


def test_a_bad_value_is_reported_with_what_is_allowed(refusal_of: Refusal, project: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("backbone: mobilenet_v2", "backbone: resnet"))
    message = refusal_of("split")
    assert "extract.backbone = 'resnet'" in message and "one of mobilenet_v2, mobilenet" in message


def test_info_validates_the_params_too(refusal_of: Refusal, trained_copy: Path) -> None:
    Path("params.yaml").write_text("train: [")
    assert "params.yaml is not valid YAML" in refusal_of("info")


@pytest.mark.parametrize("verb", ["validate", "extract", "split", "train", "evaluate", "register"])
def test_a_stage_without_its_input_names_it_and_how_to_make_it(refusal_of: Refusal, project: Path, verb: str) -> None:
    message = refusal_of(verb)
    assert "data" in message or "artifacts/" in message
    assert "dvc repro" in message or "landuse ingest" in message


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("extract", "manifest.parquet"),
        ("split", "features/embeddings/*.npy"),
        ("train", "features/features.json"),
        ("train", "splits.csv"),
        ("evaluate", "model/model.json"),
        ("evaluate", "model/model.tflite"),
        ("register", "run.json"),
        ("register", "metrics.json"),
    ],
)
def test_a_missing_output_of_an_earlier_stage_is_named_with_how_to_restore_it(
    refusal_of: Refusal, trained_copy: Path, verb: str, name: str
) -> None:
    (path,) = Path("artifacts").glob(name)
    path.unlink()
    message = refusal_of(verb)
    assert str(path) in message and "dvc" in message


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("extract", "manifest.parquet"),
        ("split", "features/embeddings/*.npy"),
        ("train", "features/activations/*.npy"),
        ("train", "features/features.json"),
        ("evaluate", "model/model.json"),
        ("evaluate", "model/model.tflite"),
        ("register", "run.json"),
    ],
)
def test_a_truncated_output_of_an_earlier_stage_is_named_with_how_to_restore_it(
    refusal_of: Refusal, trained_copy: Path, verb: str, name: str
) -> None:
    (path,) = Path("artifacts").glob(name)
    for length in (20, 0):
        path.write_bytes(path.read_bytes()[:length])
        assert f"{path} is damaged: dvc repro makes it again" in refusal_of(verb)


@pytest.mark.slow
def test_a_parquet_file_with_any_wrong_byte_is_read_or_reported_as_damaged(trained_copy: Path) -> None:
    path = Path("artifacts/manifest.parquet")
    whole, damaged = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_table(path)
        except LanduseError as error:
            assert str(error) == f"{path} is damaged: dvc repro makes it again"
            damaged += 1
    assert damaged


@pytest.mark.parametrize(
    ("verb", "name", "key"),
    [
        ("train", "features/features.json", "manifest_sha256"),
        ("evaluate", "model/model.json", "labels"),
        ("register", "metrics.json", "subset"),
        ("info", "registration.json", "model"),
    ],
)
def test_a_file_with_other_content_is_reported_with_the_key_it_lacks(
    refusal_of: Refusal, trained_copy: Path, verb: str, name: str, key: str
) -> None:
    path = Path("artifacts", name)
    path.write_text("{}")
    assert f"artifacts/{name} has no {key}: dvc repro makes it again" in refusal_of(verb)
    path.write_text("3")
    assert f"artifacts/{name} is damaged: dvc repro makes it again" in refusal_of(verb)
