"""Tests of registration: every model once, with its lineage, as challenger."""

import base64
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from shutil import copytree, ignore_patterns

import mlflow
import pytest
import tiny
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.models.model import ModelInfo

from landuse import register as register_stage
from landuse import registry, tracking
from landuse.core.errors import LanduseError
from landuse.core.paths import MODEL
from landuse.ml.classifier import Classifier
from landuse.params import RegisterParams
from landuse.registry.provenance import refuse_foreign_code
from landuse.tracking.names import facts_of

LANDUSE = Path(sys.executable).with_name("landuse")


def register(name: str) -> ModelVersion:
    return register_stage.register(RegisterParams(model=name))


def aliases(name: str) -> dict[str, int]:
    return MlflowClient().get_registered_model(name).aliases


def change_model() -> None:
    """Change the bytes of the exported model, but not its predictions."""
    with Path("artifacts/model/model.tflite").open("ab") as file:
        file.write(b"\0\0\0\0")


def test_a_registered_model_becomes_challenger_and_not_champion(trained_copy: Path) -> None:
    version = register("first")
    assert aliases("first") == {"challenger": version.version}


def test_the_same_model_is_registered_once(trained_copy: Path) -> None:
    first, second = register("once"), register("once")
    assert first.version == second.version
    assert len(MlflowClient().search_model_versions("name = 'once'")) == 1


@pytest.mark.slow
def test_concurrent_registrations_of_one_model_make_one_version(trained_copy: Path) -> None:
    tiny.write_params(trained_copy, tiny.params_with({}) | {"register": {"model": "at-once"}})
    processes = [subprocess.Popen([LANDUSE, "register"], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    (version,) = MlflowClient().search_model_versions("name = 'at-once'")
    assert aliases("at-once") == {"challenger": version.version}


def test_a_model_that_another_machine_registers_meanwhile_is_not_added_again(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_model, run = register_stage.log_model, tracking.find_run(Classifier(MODEL).digest)

    def log_model_twice() -> ModelInfo:
        monkeypatch.setattr(register_stage, "log_model", log_model)
        register_stage.add_version(MlflowClient(), "meanwhile", Classifier(MODEL).digest, run)
        return log_model()

    monkeypatch.setattr(register_stage, "log_model", log_model_twice)
    assert str(register("meanwhile").version) == "1"
    (version,) = MlflowClient().search_model_versions("name = 'meanwhile'")
    assert aliases("meanwhile") == {"challenger": version.version}
    logged = MlflowClient().search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert version.source.rpartition("/")[2] == max(logged, key=lambda model: model.creation_timestamp).model_id


def test_a_version_whose_answer_was_lost_and_that_was_asked_for_again_keeps_its_files(
    trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_model_version

    def create_twice(*arguments: object, **more: object) -> ModelVersion:
        create(*arguments, **more)
        return create(*arguments, **more)

    monkeypatch.setattr(MlflowClient, "create_model_version", create_twice)
    version = register("again")
    (only,) = MlflowClient().search_model_versions("name = 'again'")
    assert only.version == version.version
    assert MlflowClient().get_logged_model(only.source.rpartition("/")[2]).status == "READY"


FULL_DISK = """
from sqlalchemy import event
from sqlalchemy.engine import Engine
from landuse.cli import main
event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
main()
"""


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line(trained_copy: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FULL_DISK, "register"]
    tiny.write_params(trained_copy, tiny.params_with({}) | {"register": {"model": "full"}})
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 1
    assert re.fullmatch(
        r"landuse: MLflow at .*database or disk is full; free some space, then .* goes on\n", finished.stderr
    )


def test_a_version_has_the_digest_of_its_files_and_no_editor_files(trained_copy: Path, monkeypatch) -> None:
    package = copytree(register_stage.PACKAGE, trained_copy / "src/landuse", ignore=ignore_patterns("__pycache__"))
    for name in (".DS_Store", ".pyfunc.py.swp", "pyfunc.py~"):
        (package / name).touch()
    monkeypatch.setattr(register_stage, "PACKAGE", package)
    version = register("clean")
    registry.fetch_model(version, trained_copy / "fetched")
    assert facts_of(version.tags)[registry.FILES_TAG] == registry.digest_of_files(trained_copy / "fetched")
    refuse_foreign_code(trained_copy / "fetched", facts_of(version.tags))


def test_a_model_is_registered_again_once_its_code_is_committed(trained_copy: Path) -> None:
    run = tracking.find_run(Classifier(MODEL).digest)
    set_run_tag = partial(MlflowClient().set_tag, run.info.run_id, "landuse.git.dirty")
    set_run_tag("true")
    dirty = register("traced")
    assert register("traced").version == dirty.version
    set_run_tag("false")
    clean = register("traced")
    assert clean.version != dirty.version and facts_of(clean.tags)["git.dirty"] == "false"
    assert register("traced").version == clean.version
    set_run_tag("true")
    assert register("traced").version == clean.version, "the traceable version stays"
    set_run_tag(run.data.tags["landuse.git.dirty"])


def test_a_model_with_another_threshold_is_another_model(trained_copy: Path) -> None:
    first, card = register("surer"), Path("artifacts/model/model.json")
    card.write_text(card.read_text().replace('"unsure_below": ', '"unsure_below": 0.0, "before": '))
    assert register("surer").version != first.version


def test_the_registered_model_requires_neither_tensorflow_nor_keras(trained_copy: Path) -> None:
    version = register("needs")
    file = mlflow.artifacts.download_artifacts(f"models:/needs/{version.version}/requirements.txt")
    requirements = Path(file).read_text().lower()
    assert "ai-edge-litert==" in requirements
    assert not {"tensorflow", "keras"} & set(re.split(r"[=\s-]", requirements))


def test_another_model_becomes_challenger_and_the_champion_stays(trained_copy: Path) -> None:
    champion = register("duel")
    MlflowClient().set_registered_model_alias("duel", "champion", champion.version)
    change_model()
    challenger = register("duel")
    assert challenger.version != champion.version
    assert aliases("duel") == {"challenger": challenger.version, "champion": champion.version}


def test_a_model_can_be_registered_under_two_names(trained_copy: Path) -> None:
    assert register("one-name").run_id == register("another-name").run_id


def test_a_model_whose_version_was_deleted_is_registered_again(trained_copy: Path) -> None:
    register("deleted")
    MlflowClient().delete_registered_model("deleted")
    register("deleted")
    assert len(MlflowClient().search_model_versions("name = 'deleted'")) == 1


def test_registration_json_names_the_registered_version(trained_copy: Path) -> None:
    version = register("on-file")
    registration = json.loads(Path("artifacts/registration.json").read_text())
    sha256 = facts_of(version.tags)["model.sha256"]
    assert registration == {"model": "on-file", "version": str(version.version), "model.sha256": sha256}


def test_a_version_has_lineage_and_metrics_as_tags(trained_copy: Path) -> None:
    version = register("tagged")
    metrics = json.loads(Path("artifacts/metrics.json").read_text())
    record = json.loads(Path("artifacts/run.json").read_text())
    facts = facts_of(version.tags)
    assert record["tags"].items() <= facts.items() and not any(name.startswith("process.") for name in facts)
    for score in ("accuracy", "macro_f1"):
        assert float(facts[f"test.{score}"]) == pytest.approx(metrics[score], abs=1e-4)
    assert version.tags["accuracy"] == facts["test.accuracy"] and version.tags["gate"] == "not judged yet"


def test_the_input_example_is_the_first_held_out_image(trained_copy: Path) -> None:
    first = Path("artifacts/predictions.csv").read_text().splitlines()[1].partition(",")[0]
    assert base64.b64decode(register_stage.example()[0]) == (Path("data") / first).read_bytes()


def test_a_missing_example_image_is_reported_with_a_remedy(trained_copy: Path) -> None:
    first = Path("artifacts/predictions.csv").read_text().splitlines()[1].partition(",")[0]
    (Path("data") / first).unlink()
    with pytest.raises(LanduseError, match=re.escape(f"data/{first} is not here: dvc checkout data.dvc")):
        register_stage.example()
