"""Tests that no foreign code of a version runs, and no file outside the store is read."""

import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import copytree, ignore_patterns

import gallery
import pytest
import yaml
from gallery import NAME
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from landuse import registry, tracking
from landuse.core.errors import LanduseError, Refused
from landuse.export import export
from landuse.params import load_params
from landuse.predict import predict
from landuse.promote import promote
from landuse.promote.compare import compare
from landuse.promote.rollback import rollback
from landuse.registry import resolve, smoke_test
from landuse.registry.provenance import PACKAGE, ForeignCode, refuse_foreign_code
from landuse.tracking.names import facts_of, record_tag
from landuse.verify import verify

Forgery = Callable[[Path, str], None]
FLAVOR = "python_function"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test a copy of the project and its registry."""


def fetch_files(number: str, folder: Path) -> Path:
    """Copy the files of a version into a folder."""
    with tracking.store():
        registry.fetch_model(registry.get_version(NAME, number), folder)
    return folder


def edit_mlmodel(folder: Path, **flavor: object) -> None:
    """Change keys of the pyfunc flavor in MLmodel."""
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    mlmodel["flavors"][FLAVOR] |= flavor
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))


def forge_script(folder: Path, payload: str) -> None:
    with (folder / "pyfunc.py").open("a") as file:
        file.write(payload)


def forge_package(folder: Path, payload: str) -> None:
    with (folder / "code/landuse/__init__.py").open("a") as file:
        file.write(payload)


def add_module(folder: Path, payload: str) -> None:
    (folder / "code/PIL.py").write_text(payload)


def add_loader(folder: Path, payload: str) -> None:
    (folder / "code/loader.py").write_text(payload)
    edit_mlmodel(folder, loader_module="loader")


def add_loader_beside_model(folder: Path, payload: str) -> None:
    (folder / "artifacts/model/loader.py").write_text(payload)
    edit_mlmodel(folder, loader_module="loader", code="artifacts/model")


def use_other_script(folder: Path, payload: str) -> None:
    (folder / "another.py").write_text(payload)
    edit_mlmodel(folder, model_code_path="another.py")


def use_pickle(folder: Path, payload: str) -> None:
    (folder / "python_model.pkl").write_bytes(b"cbuiltins\nexec\n(V" + payload.strip().encode() + b"\ntR.")
    mlmodel = yaml.safe_load((folder / "MLmodel").read_text())
    del mlmodel["flavors"][FLAVOR]["model_code_path"]
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    edit_mlmodel(folder, loader_module="mlflow.pyfunc.model", python_model="python_model.pkl")


FORGERIES = [
    pytest.param(forge_script, id="changed pyfunc.py"),
    pytest.param(forge_package, id="changed package", marks=pytest.mark.slow),
    pytest.param(add_module, id="module beside the package", marks=pytest.mark.slow),
    pytest.param(add_loader, id="loader module", marks=pytest.mark.slow),
    pytest.param(add_loader_beside_model, id="loader beside the model", marks=pytest.mark.slow),
    pytest.param(use_other_script, id="other script", marks=pytest.mark.slow),
    pytest.param(use_pickle, id="pickle", marks=pytest.mark.slow),
]


def register_forged(folder: Path) -> str:
    """Register a version with these files and the tags of version 1, as an attacker might, and make it challenger."""
    client, genuine = MlflowClient(), registry.get_version(NAME, "1")
    run = client.create_run(client.get_experiment_by_name("landuse").experiment_id)
    client.log_artifacts(run.info.run_id, str(folder), "model")
    tags = record_tag(facts_of(genuine.tags) | {registry.FILES_TAG: registry.digest_of_files(folder)})
    forged = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", genuine.run_id, tags)
    client.set_registered_model_alias(NAME, "challenger", forged.version)
    return str(forged.version)


def promote_version(number: str | None, **options: object) -> None:
    """Promote a version, the challenger by default, with the params of the project."""
    params = load_params()
    promote(params.promote, params.evaluate, NAME, number, notify=lambda check: None, **options)


def use(number: str, out: Path) -> None:
    """Run every command on a version except promote, and ignore its errors."""
    model = f"models:/{NAME}/{number}"
    for command in (
        partial(predict, ["data/field/00.png"], model, out / "rows.csv"),
        partial(resolve.load, model),
        partial(export, out / "exported", model),
        partial(compare, NAME, "2", number, load_params().evaluate),
        partial(verify, NAME, number, notify=lambda row: None),
    ):
        with suppress(LanduseError):
            command()


@pytest.mark.parametrize("forge", FORGERIES)
def test_code_of_a_forged_version_never_runs(forge: Forgery, tmp_path: Path, monkeypatch) -> None:
    trace, folder = tmp_path / "trace", fetch_files("1", tmp_path / "forged")
    forge(folder, f"__import__('pathlib').Path({str(trace)!r}).touch()\n")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    with suppress(LanduseError):
        smoke_test.predict_in_subprocess(str(folder))
    assert trace.exists(), "it runs if MLflow loads it"
    trace.unlink()
    number = register_forged(folder)
    use(number, tmp_path)
    with pytest.raises((LanduseError, Refused), match="none of its code was run|is no file of a model"):
        promote_version(None)
    assert registry.aliases(NAME).get("champion") is None
    with suppress(LanduseError):
        promote_version(number, reason="a test")
        promote_version("3", reason="back")
        rollback(NAME)
    assert not trace.exists()


@pytest.mark.slow
def test_a_version_with_unknown_code_is_served_and_restored_without_it(tmp_path: Path) -> None:
    folder = fetch_files("1", tmp_path / "old")
    forge_script(folder, "raise RuntimeError('run')\n")
    number = register_forged(folder)
    promote_version(number, reason="made with changes that were never committed")
    promote_version("3", reason="another")
    assert rollback(NAME) == number
    assert resolve.load(f"models:/{NAME}@champion")[0] == f"models:/{NAME}/{number}"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("requirements.txt", "numpy @ http://127.0.0.1:9/numpy.whl"),
        ("requirements.txt", "--index-url=http://127.0.0.1:9"),
        ("requirements.txt", "nunpy==2.4.0"),
        ("conda.yaml", "x: [pip==1.0, evil==1.0]"),
        ("python_env.yaml", "dependencies: [evil]"),
        ("MLmodel", "metadata: {model_is_external: true}"),
        ("sitecustomize.py", "pass"),
        ("code/landuse/evil.pth", "import evil"),
        ("registered_model_meta", "x"),
    ],
)
def test_a_version_with_an_unexpected_line_or_file_is_foreign(file: str, line: str, tmp_path: Path) -> None:
    folder = fetch_files("1", tmp_path / "version")
    refuse_foreign_code(folder, {})
    with (folder / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    with pytest.raises(ForeignCode, match="none of its code was run"):
        refuse_foreign_code(folder, {})


def test_code_of_the_tagged_commit_is_accepted_and_other_code_is_not(tmp_path: Path, monkeypatch) -> None:
    folder, project = fetch_files("1", tmp_path / "version"), tmp_path / "clone" / "part"
    source = copytree(PACKAGE, project / "src/landuse", ignore=ignore_patterns("__pycache__"))
    monkeypatch.chdir(project)
    git = partial(subprocess.run, check=True, capture_output=True, text=True)
    git(["git", "init", "--quiet", ".."])
    commits = []
    for line in ("# first", "# second"):
        with (source / "ml/pyfunc.py").open("a") as file:
            file.write(f"{line}\n")
        git(["git", "add", "."])
        git(["git", "commit", "--quiet", "-m", line])
        commits.append(git(["git", "rev-parse", "HEAD"]).stdout.strip())
        if line == "# first":
            for copied in ("pyfunc.py", "code/landuse/ml/pyfunc.py"):
                (folder / copied).write_bytes((source / "ml/pyfunc.py").read_bytes())
    first, second = commits
    refuse_foreign_code(folder, {"git.commit": first})
    refuse_foreign_code(folder, {"register.git.commit": first, "git.commit": "none"})
    for tags in ({"git.commit": second}, {"git.commit": "0" * 40}, {"git.commit": "--all"}, {}):
        with pytest.raises(ForeignCode, match="has other code than src/landuse"):
            refuse_foreign_code(folder, tags)
    (folder / "code/landuse/another.py").write_text("")
    with pytest.raises(ForeignCode):
        refuse_foreign_code(folder, {"git.commit": first})


def test_a_change_of_any_registered_file_is_detected(tmp_path: Path) -> None:
    for file in ("pyfunc.py", "code/landuse/core/files.py", "requirements.txt", "MLmodel"):
        version = gallery.register_twin(1 + len(file))
        stored = MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location
        with Path(stored, file).open("a") as opened:
            opened.write("\n")
        for command in (partial(resolve.load, f"models:/{NAME}/{version.version}"), partial(promote_version, None)):
            with pytest.raises(
                LanduseError, match=f"gallery version {version.version} is damaged or lost: they are not"
            ):
                command()


def test_files_that_python_and_mlflow_leave_in_the_store_are_ignored(tmp_path: Path) -> None:
    version = gallery.register_twin(5)
    stored = Path(MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location)
    (stored / "registered_model_meta").write_text("model_name: gallery\n")
    for cache in (stored / "code/landuse/__pycache__", stored / "__pycache__"):
        cache.mkdir()
        (cache / "pyfunc.cpython-311.pyc").write_bytes(b"code that Python would take for that of pyfunc.py")
    folder = fetch_files(str(version.version), tmp_path / "fetched")
    assert not [*folder.rglob("*.pyc")]
    refuse_foreign_code(folder, {})


def add_version(source: str, run_id: str | None = None) -> ModelVersion:
    genuine = registry.get_version(NAME, "1")
    return MlflowClient().create_model_version(NAME, source, run_id or genuine.run_id, genuine.tags)


def test_every_command_refuses_a_version_with_files_outside_the_store(tmp_path: Path) -> None:
    outside = fetch_files("1", tmp_path / "outside")
    version = add_version(str(outside))
    model = f"models:/{NAME}/{version.version}"
    for command in (
        partial(predict, ["data/field/00.png"], model, tmp_path / "rows.csv"),
        partial(resolve.load, model),
        partial(export, tmp_path / "exported", model),
        partial(compare, NAME, "2", str(version.version), load_params().evaluate),
        partial(promote_version, str(version.version)),
        partial(promote_version, str(version.version), reason="by force"),
        partial(verify, NAME, str(version.version)),
    ):
        with pytest.raises(LanduseError, match=f"has its files in {outside}, outside of the artifact root"):
            command()


def test_a_version_whose_run_has_files_outside_the_store_is_refused(tmp_path: Path) -> None:
    client, outside = MlflowClient(), tmp_path / "outside"
    run = client.create_run(client.create_experiment("another", str(outside)))
    number = str(add_version(registry.get_version(NAME, "1").source, run.info.run_id).version)
    for command in (partial(promote_version, number), partial(verify, NAME, number)):
        with pytest.raises(LanduseError, match=f"run {run.info.run_id} has its files in {outside}.*, outside of the"):
            command()


@pytest.mark.parametrize(
    ("location", "root", "inside"),
    [
        ("mlflow-artifacts:/1/models/m-1/artifacts", "mlflow-artifacts:", True),
        ("mlflow-artifacts://127.0.0.1:9/1/models", "mlflow-artifacts:", False),
        ("http://127.0.0.1:9/1/models", "mlflow-artifacts:", False),
        ("s3://ours/runs/1/m", "s3://ours/runs", True),
        ("s3://ours/runs-of-others/1/m", "s3://ours/runs", False),
        ("s3://ours/runs/../others", "s3://ours/runs", False),
        ("s3://ours/runs/%2e%2e/others", "s3://ours/runs", False),
        ("s3://others/runs/1", "s3://ours/runs", False),
        ("file:///store/1/m", "/store", True),
        ("/store/1/../../etc", "/store", False),
        ("file:///store/1/%2e%2e/%2e%2e/etc", "/store", False),
        ("/store", "/store", False),
        ("runs:/1/model", "/store", False),
        ("models:/gallery/1", "/store", False),
        ("/store/1", "mlflow-artifacts:", False),
    ],
)
def test_locations_are_within_the_artifact_root_or_not(location: str, root: str, inside: bool) -> None:
    assert registry.location.is_within(location, root) is inside


def test_a_link_that_leads_out_of_the_store_is_not_followed(tmp_path: Path) -> None:
    version = gallery.register_twin(3)
    stored = Path(MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location)
    outside = stored.rename(tmp_path / "moved")
    stored.symlink_to(outside)
    with pytest.raises(LanduseError, match="outside of the artifact root"):
        resolve.load(f"models:/{NAME}/{version.version}")
