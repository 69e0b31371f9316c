"""No code of a version runs unless it is this project's, and no file is read that lies outside of the store."""

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
from landuse.registry.provenance import PACKAGE, Foreign, refuse_foreign
from landuse.verify import verify

Change = Callable[[Path, str], None]
FLAVOR = "python_function"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Every test has a project and a registry of its own."""


def files_of(number: str, folder: Path) -> Path:
    """A copy of the files of a version."""
    with tracking.store():
        registry.fetch_model(registry.get_version(NAME, number), folder)
    return folder


def edit_card(folder: Path, **flavor: object) -> None:
    card = yaml.safe_load((folder / "MLmodel").read_text())
    card["flavors"][FLAVOR] |= flavor
    (folder / "MLmodel").write_text(yaml.safe_dump(card))


def script(folder: Path, spell: str) -> None:
    with (folder / "pyfunc.py").open("a") as file:
        file.write(spell)


def package(folder: Path, spell: str) -> None:
    with (folder / "code/landuse/__init__.py").open("a") as file:
        file.write(spell)


def neighbour(folder: Path, spell: str) -> None:
    (folder / "code/PIL.py").write_text(spell)


def loader(folder: Path, spell: str) -> None:
    (folder / "code/loader.py").write_text(spell)
    edit_card(folder, loader_module="loader")


def loader_of_ours(folder: Path, spell: str) -> None:
    (folder / "artifacts/model/loader.py").write_text(spell)
    edit_card(folder, loader_module="loader", code="artifacts/model")


def elsewhere(folder: Path, spell: str) -> None:
    (folder / "another.py").write_text(spell)
    edit_card(folder, model_code_path="another.py")


def pickled(folder: Path, spell: str) -> None:
    (folder / "python_model.pkl").write_bytes(b"cbuiltins\nexec\n(V" + spell.strip().encode() + b"\ntR.")
    card = yaml.safe_load((folder / "MLmodel").read_text())
    del card["flavors"][FLAVOR]["model_code_path"]
    (folder / "MLmodel").write_text(yaml.safe_dump(card))
    edit_card(folder, loader_module="mlflow.pyfunc.model", python_model="python_model.pkl")


FORGED = [
    pytest.param(script, id="pyfunc.py of its own"),
    pytest.param(package, id="a line in the package", marks=pytest.mark.slow),
    pytest.param(neighbour, id="a module beside the package", marks=pytest.mark.slow),
    pytest.param(loader, id="a loader of its own", marks=pytest.mark.slow),
    pytest.param(loader_of_ours, id="code beside the model", marks=pytest.mark.slow),
    pytest.param(elsewhere, id="another script", marks=pytest.mark.slow),
    pytest.param(pickled, id="a pickle", marks=pytest.mark.slow),
]


def forge(folder: Path, **more: str) -> str:
    """Add a version with these files and the tags of version 1 as somebody else may; the challenger."""
    client, honest = MlflowClient(), registry.get_version(NAME, "1")
    run = client.create_run(client.get_experiment_by_name("landuse").experiment_id)
    client.log_artifacts(run.info.run_id, str(folder), "model")
    tags = honest.tags | {registry.FILES_TAG: registry.digest_of_files(folder)} | more
    forged = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", honest.run_id, tags)
    client.set_registered_model_alias(NAME, "challenger", forged.version)
    return str(forged.version)


def promoted(number: str | None, **more: object) -> None:
    params = load_params()
    promote(params.promote, params.evaluate, NAME, number, tell=lambda check: None, **more)


def use(number: str, out: Path) -> None:
    """Everything that can be done with a version but to promote it."""
    model = f"models:/{NAME}/{number}"
    for work in (
        partial(predict, ["data/field/00.png"], model, out / "rows.csv"),
        partial(resolve.load, model),
        partial(export, out / "exported", model),
        partial(compare, NAME, "2", number, load_params().evaluate),
        partial(verify, NAME, number, tell=lambda row: None),
    ):
        with suppress(LanduseError):
            work()


@pytest.mark.parametrize("change", FORGED)
def test_code_of_a_forged_version_runs_nowhere(change: Change, tmp_path: Path, monkeypatch) -> None:
    trace, folder = tmp_path / "trace", files_of("1", tmp_path / "forged")
    change(folder, f"__import__('pathlib').Path({str(trace)!r}).touch()\n")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    with suppress(LanduseError):
        smoke_test.ask(str(folder))
    assert trace.exists(), "it would run if anybody let it"
    trace.unlink()
    number = forge(folder)
    use(number, tmp_path)
    with pytest.raises((LanduseError, Refused), match="none of its code was run|is no file of a model"):
        promoted(None)
    assert registry.aliases(NAME).get("champion") is None
    with suppress(LanduseError):
        promoted(number, reason="a look at its numbers")
        promoted("3", reason="back")
        rollback(NAME)
    assert not trace.exists()


def test_a_version_of_code_that_nobody_has_serves_and_comes_back_without_that_code(tmp_path: Path) -> None:
    folder = files_of("1", tmp_path / "old")
    script(folder, "raise RuntimeError('run')\n")
    number = forge(folder)
    promoted(number, reason="made with changes that were never committed")
    promoted("3", reason="another")
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
def test_a_version_with_a_line_or_file_that_we_do_not_write_is_foreign(file: str, line: str, tmp_path: Path) -> None:
    folder = files_of("1", tmp_path / "version")
    refuse_foreign(folder, {})
    with (folder / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    with pytest.raises(Foreign, match="none of its code was run"):
        refuse_foreign(folder, {})


def test_code_of_the_commit_that_a_version_names_is_ours_and_that_of_another_is_not(
    tmp_path: Path, monkeypatch
) -> None:
    folder, project = files_of("1", tmp_path / "version"), tmp_path / "clone" / "part"
    source = copytree(PACKAGE, project / "src/landuse", ignore=ignore_patterns("__pycache__"))
    monkeypatch.chdir(project)
    git = partial(subprocess.run, check=True, capture_output=True, text=True)
    git(["git", "init", "--quiet", ".."])
    commits = []
    for line in ("# first", "# second"):
        with (source / "pyfunc.py").open("a") as file:
            file.write(f"{line}\n")
        git(["git", "add", "."])
        git(["git", "commit", "--quiet", "-m", line])
        commits.append(git(["git", "rev-parse", "HEAD"]).stdout.strip())
        if line == "# first":
            for copied in ("pyfunc.py", "code/landuse/pyfunc.py"):
                (folder / copied).write_bytes((source / "pyfunc.py").read_bytes())
    first, second = commits
    refuse_foreign(folder, {"git.commit": first})
    refuse_foreign(folder, {"register.git.commit": first, "git.commit": "none"})
    for tags in ({"git.commit": second}, {"git.commit": "0" * 40}, {"git.commit": "--all"}, {}):
        with pytest.raises(Foreign, match="has other code than src/landuse"):
            refuse_foreign(folder, tags)
    (folder / "code/landuse/another.py").write_text("")
    with pytest.raises(Foreign):
        refuse_foreign(folder, {"git.commit": first})


def test_files_that_were_changed_in_the_registry_are_noticed_whichever_they_are(tmp_path: Path) -> None:
    for file in ("pyfunc.py", "code/landuse/files.py", "requirements.txt", "MLmodel"):
        version = gallery.hang_twin(1 + len(file))
        stored = MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location
        with Path(stored, file).open("a") as opened:
            opened.write("\n")
        for work in (partial(resolve.load, f"models:/{NAME}/{version.version}"), partial(promoted, None)):
            with pytest.raises(
                LanduseError, match=f"gallery version {version.version} is damaged or lost: they are not"
            ):
                work()


def test_what_python_and_mlflow_leave_beside_a_version_is_no_change_and_runs_nowhere(tmp_path: Path) -> None:
    version = gallery.hang_twin(5)
    stored = Path(MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location)
    (stored / "registered_model_meta").write_text("model_name: gallery\n")
    for cache in (stored / "code/landuse/__pycache__", stored / "__pycache__"):
        cache.mkdir()
        (cache / "pyfunc.cpython-311.pyc").write_bytes(b"code that Python would take for that of pyfunc.py")
    folder = files_of(str(version.version), tmp_path / "fetched")
    assert not [*folder.rglob("*.pyc")]
    refuse_foreign(folder, {})


def add_version(source: str, run_id: str | None = None) -> ModelVersion:
    honest = registry.get_version(NAME, "1")
    return MlflowClient().create_model_version(NAME, source, run_id or honest.run_id, honest.tags)


def test_a_version_with_files_outside_of_the_store_is_refused_by_every_command(tmp_path: Path) -> None:
    outside = files_of("1", tmp_path / "outside")
    version = add_version(str(outside))
    model = f"models:/{NAME}/{version.version}"
    for work in (
        partial(predict, ["data/field/00.png"], model, tmp_path / "rows.csv"),
        partial(resolve.load, model),
        partial(export, tmp_path / "exported", model),
        partial(compare, NAME, "2", str(version.version), load_params().evaluate),
        partial(promoted, str(version.version)),
        partial(promoted, str(version.version), reason="by force"),
        partial(verify, NAME, str(version.version)),
    ):
        with pytest.raises(LanduseError, match=f"has its files in {outside}, outside of the artifact root"):
            work()


def test_a_version_whose_run_has_its_files_outside_of_the_store_is_refused(tmp_path: Path) -> None:
    client, outside = MlflowClient(), tmp_path / "outside"
    run = client.create_run(client.create_experiment("another", str(outside)))
    number = str(add_version(registry.get_version(NAME, "1").source, run.info.run_id).version)
    for work in (partial(promoted, number), partial(verify, NAME, number)):
        with pytest.raises(LanduseError, match=f"run {run.info.run_id} has its files in {outside}.*, outside of the"):
            work()


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
def test_what_lies_within_the_artifact_root(location: str, root: str, inside: bool) -> None:
    assert registry.location.lies_within(location, root) is inside


def test_a_link_in_the_store_that_leads_out_of_it_is_not_followed(tmp_path: Path) -> None:
    version = gallery.hang_twin(3)
    stored = Path(MlflowClient().get_logged_model(version.source.rpartition("/")[2]).artifact_location)
    outside = stored.rename(tmp_path / "moved")
    stored.symlink_to(outside)
    with pytest.raises(LanduseError, match="outside of the artifact root"):
        resolve.load(f"models:/{NAME}/{version.version}")
