"""Tuning: which values are tried, what a search writes, and that it can be continued."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import optuna
import pytest
import tiny
import yaml
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from landuse.core import process
from landuse.core.errors import LanduseError
from landuse.core.paths import PARAMS, TUNE
from landuse.ml import features
from landuse.params import ExtractParams, Range, TrainParams, TuneParams, load_params
from landuse.params.editor import apply, replace_values
from landuse.tune import runs, tune
from landuse.tune import study as study_module
from landuse.tune import trial as trial_module
from landuse.tune.plots import plot_study
from landuse.tune.search import PROCESS, open_search
from landuse.tune.trial import PruningCallback, suggest

EXTRACT = ExtractParams(**tiny.CHANGES["extract"])
TRAIN = replace(TrainParams(**tiny.CHANGES["train"]), epochs=3)
SPACE = {"learning_rate": Range(low=0.001, high=0.1, log=True), "batch_size": (4, 8)}
PRESET = tiny.ROOT / "presets" / "sample.yaml"


def params(trials: int) -> TuneParams:
    return TuneParams(trials=trials, space=SPACE)


def trials_of(params: TuneParams) -> list[FrozenTrial]:
    with open_search(study_module.study_name(TRAIN, params), params.storage) as search:
        return search.study.trials


def trial_runs(parent: str) -> list[mlflow.entities.Run]:
    return mlflow.search_runs(
        experiment_names=["landuse"], filter_string=f"tags.`mlflow.parentRunId` = '{parent}'", output_format="list"
    )


def latest_parent() -> mlflow.entities.Run:
    runs = mlflow.search_runs(experiment_names=["landuse"], output_format="list")
    return next(run for run in runs if run.info.run_name.endswith("-tune"))


@pytest.fixture
def interrupt_trial(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that simulates Ctrl-C in the trial of a given number, counted from 1."""

    def interrupt(number: int) -> None:
        calls, original = [], trial_module.suggest

        def suggest(*arguments: object) -> dict:
            calls.append(1)
            if len(calls) == number:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(trial_module, "suggest", suggest)

    return interrupt


def test_a_study_returns_values_and_logs_runs_and_pictures(trained_copy: Path) -> None:
    reports: list[str] = []
    best = tune(TRAIN, params(4), EXTRACT, reports.append)
    assert set(best) == set(SPACE) and 0.001 <= best["learning_rate"] <= 0.1 and best["batch_size"] in (4, 8)
    assert float(f"{best['learning_rate']:.3g}") == best["learning_rate"]
    parent = latest_parent()
    runs = trial_runs(parent.info.run_id)
    assert len(runs) == 4 and all(run.info.status == "FINISHED" for run in [parent, *runs])
    assert {run.data.tags["outcome"] for run in runs} <= {"complete", "pruned"}
    assert all("landuse.process.id" in run.data.tags for run in runs), "so that killed runs are recognized"
    scores = [run.data.metrics["best_validation_accuracy"] for run in runs if run.data.tags["outcome"] == "complete"]
    assert parent.data.metrics["best_validation_accuracy"] == max(scores)
    pictures = {file.path for file in mlflow.MlflowClient().list_artifacts(parent.info.run_id, "pictures")}
    assert "pictures/parallel_coordinates.png" in pictures
    assert "0 of 4 trials" in reports[0] and "is the best" in reports[-3]


def test_the_current_values_are_tried_first_and_compared_with_the_best(trained_copy: Path) -> None:
    reports: list[str] = []
    tune(replace(TRAIN, learning_rate=0.02, batch_size=8), params(2), EXTRACT, reports.append)
    [first, _] = trials_of(params(2))
    assert first.user_attrs["values"] == {"learning_rate": 0.02, "batch_size": 8}
    assert reports[-3].endswith(f", {first.value:.4f} with the current values")
    assert [line.split()[0] for line in reports[-2:]] == ["learning_rate", "batch_size"]
    assert reports[-2].endswith(" now 0.02") and reports[-1].endswith(" now 8")


def test_current_values_are_tried_with_all_their_digits(trained_copy: Path) -> None:
    reports: list[str] = []
    current = {"learning_rate": 0.0212345, "batch_size": 8}
    assert tune(replace(TRAIN, **current), params(1), EXTRACT, reports.append) == current
    assert reports[-3].endswith(" with the current values")
    tune(replace(TRAIN, **current | {"batch_size": 4}), params(1), EXTRACT, reports.append)
    assert reports[-5].startswith("1 of 1 trials are done") and "with the current values" not in reports[-3]
    assert reports[-4] == "the current values were not tried: raise tune.trials"


@pytest.mark.parametrize("outside", [{"learning_rate": 0.5}, {"batch_size": 16}])
def test_current_values_outside_the_search_space_are_not_tried(outside: dict, trained_copy: Path) -> None:
    reports: list[str] = []
    tune(replace(TRAIN, **{"learning_rate": 0.02, "batch_size": 8} | outside), params(1), EXTRACT, reports.append)
    assert trials_of(params(1))[0].user_attrs["values"] != {"learning_rate": 0.02, "batch_size": 8}
    assert "current" not in reports[-3]
    [(key, value)] = outside.items()
    assert f"the current values cannot be tried: tune.space.{key} does not contain {value}" in reports


KILLED = """
import os, signal
from dataclasses import replace
from pathlib import Path
import test_tune
from landuse import tune as tune_module

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{fault} = die
tune_module.tune(test_tune.TRAIN, test_tune.params(2), test_tune.EXTRACT, print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["tune_module.runs.plot_study", "tune_module.runs.mlflow.end_run"])
def test_a_search_killed_after_its_last_trial_is_completed_by_the_next(trained_copy: Path, fault: str) -> None:
    command = [sys.executable, "-c", KILLED.format(fault=fault)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    killed, reports = latest_parent(), []
    assert killed.info.status == "RUNNING"
    best = tune(TRAIN, params(2), EXTRACT, reports.append)
    assert reports[0].startswith("2 of 2 trials are done") and len(trial_runs(killed.info.run_id)) == 2
    run = latest_parent()
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "FINISHED")
    assert {key: str(value) for key, value in best.items()}.items() <= {
        key.removeprefix("best."): value for key, value in run.data.tags.items()
    }.items()
    assert mlflow.MlflowClient().list_artifacts(run.info.run_id, "pictures")
    assert "best_validation_accuracy" in run.data.metrics


@pytest.mark.slow
def test_an_interrupted_study_is_continued_and_a_complete_one_runs_no_trials(
    trained_copy: Path, interrupt_trial: Callable[[int], None]
) -> None:
    interrupt_trial(3)
    with pytest.raises(KeyboardInterrupt):
        tune(TRAIN, params(4), EXTRACT, lambda _: None)
    first = latest_parent()
    assert first.info.status == "FINISHED" and "best_validation_accuracy" in first.data.metrics
    assert [trial.state for trial in trials_of(params(4))].count(TrialState.FAIL) == 1
    reports: list[str] = []
    best = tune(TRAIN, params(4), EXTRACT, reports.append)
    assert reports[0].startswith("2 of 4 trials are done") and len(trial_runs(first.info.run_id)) == 4
    assert latest_parent().info.run_id == first.info.run_id and latest_parent().info.status == "FINISHED"
    assert tune(TRAIN, params(4), EXTRACT, reports.append) == best and reports[-4].startswith("4 of 4")
    trials = [trial for trial in trials_of(params(4)) if "values" in trial.user_attrs]
    assert len({trial.params["learning_rate"] for trial in trials}) == len(trials) == 4, "no values are repeated"


def test_the_run_of_a_search_goes_on_while_another_process_is_at_work(trained_copy: Path) -> None:
    with open_search(study_module.study_name(TRAIN, params(2)), None) as search:
        trial = search.ask(2, None, 1)
        trial.set_user_attr(PROCESS, process.identity(os.getppid()))
        with runs.search_run(search) as parent:
            pass
        run = mlflow.get_run(parent)
        assert (run.info.status, run.data.tags["landuse.process.id"]) == ("RUNNING", str(os.getppid()))
        search.tell(trial, TrialState.FAIL)
        with runs.search_run(search) as again:
            pass
        assert again == parent and mlflow.get_run(parent).info.status == "FINISHED"


def test_a_search_is_the_same_wherever_the_weights_lie(trained_copy: Path) -> None:
    name = study_module.study_name(TRAIN, params(2))
    record = json.loads(features.METADATA.read_text())
    record["params"]["weights"] = "/another/machine/weights.h5"
    features.METADATA.write_text(json.dumps(record))
    assert study_module.study_name(TRAIN, params(2)) == name
    features.METADATA.write_text(json.dumps(record | {"weights_sha256": "others"}))
    assert study_module.study_name(TRAIN, params(2)) != name


@pytest.mark.slow
def test_trials_with_other_params_get_another_parent_run(trained_copy: Path) -> None:
    tune(TRAIN, params(1), EXTRACT, lambda _: None)
    first = latest_parent()
    PARAMS.write_text(PARAMS.read_text().replace("calibration_bins: 10", "calibration_bins: 12"))
    tune(TRAIN, params(2), EXTRACT, lambda _: None)
    assert latest_parent().data.params["evaluate.calibration_bins"] == "12"
    assert [len(trial_runs(parent.info.run_id)) for parent in (first, latest_parent())] == [1, 1]


def test_a_study_interrupted_in_its_first_trial_logs_no_score(
    trained_copy: Path, interrupt_trial: Callable[[int], None]
) -> None:
    interrupt_trial(1)
    with pytest.raises(KeyboardInterrupt):
        tune(TRAIN, params(2), EXTRACT, lambda _: None)
    assert "best_validation_accuracy" not in latest_parent().data.metrics


def test_if_every_trial_diverges_the_learning_rate_is_reported_every_time(trained_copy: Path) -> None:
    wild = TuneParams(trials=2, space={"learning_rate": Range(low=1e30, high=1e31, log=True)})
    for _ in range(2):
        with pytest.raises(LanduseError, match="no trial was completed: lower tune.space.learning_rate"):
            tune(TRAIN, wild, EXTRACT, lambda _: None)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"rubbish" * 999), lambda file: file.mkdir()])
def test_a_damaged_study_is_reported_with_the_remedy(trained_copy: Path, damage: Callable[[Path], object]) -> None:
    TUNE.mkdir(exist_ok=True)
    damage(TUNE / "study.db")
    with pytest.raises(LanduseError, match="artifacts/tune/study.db cannot be used .*: remove it") as caught:
        tune(TRAIN, params(1), EXTRACT, lambda _: None)
    assert "\n" not in str(caught.value)


def test_a_study_depends_on_split_space_and_code_but_not_on_tuned_values(trained_copy: Path) -> None:
    Path("src/landuse/train").mkdir(parents=True)
    Path("src/landuse/train/loop.py").touch()
    name = study_module.study_name(TRAIN, params(2))
    assert study_module.study_name(replace(TRAIN, learning_rate=0.5, target_selective_accuracy=0.5), params(9)) == name
    assert study_module.study_name(replace(TRAIN, epochs=4), params(2)) != name
    assert study_module.study_name(TRAIN, TuneParams(trials=2, space=SPACE | {"dropout": (0, 0.1)})) != name
    for path in (Path("artifacts/splits.csv"), Path("src/landuse/train/loop.py")):
        before = path.read_text("utf-8")
        path.write_text(before + "\n", "utf-8")
        assert study_module.study_name(TRAIN, params(2)) != name
        path.write_text(before, "utf-8")
    assert study_module.study_name(TRAIN, params(2)) == name


def test_the_same_values_give_the_same_score_whatever_was_tried_before(trained_copy: Path) -> None:
    from landuse.train.trainer import Trainer

    class Recorder(PruningCallback):
        def on_epoch_end(self, row: dict, *_: object) -> None:
            self.rows.append(row)

    trainer, scores = Trainer(TRAIN), []
    for rate in (0.02, 0.1, 0.02):
        recorder = Recorder(None)
        trainer.fit(replace(TRAIN, learning_rate=rate, dropout=0.3), recorder)
        scores.append(recorder.rows)
    assert scores[0] == scores[2] != scores[1]


def test_a_lagging_trial_is_pruned_and_the_score_is_that_of_the_best_epoch() -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(1, 0))
    row = {"epoch": 4, "validation_loss": 0.5, "validation_accuracy": 0.9}
    good = PruningCallback(study.ask())
    good.on_epoch_end(row)
    good.on_epoch_end(row | {"epoch": 8, "validation_loss": 0.6, "validation_accuracy": 0.95})
    assert good.score == 0.9
    study.tell(good.trial, good.score)
    with pytest.raises(optuna.TrialPruned):
        PruningCallback(study.ask()).on_epoch_end(row | {"validation_accuracy": 0.2})


def test_a_value_that_needs_a_new_extraction_is_refused_with_the_remedy(trained_copy: Path) -> None:
    wide = TuneParams(trials=2, space=SPACE | {"unfreeze_from": ("head", "block_14")})
    reason = "block_14 would force a new extraction: the cached features were cut at head"
    with pytest.raises(LanduseError, match=reason):
        tune(TRAIN, wide, EXTRACT, lambda _: None)
    assert not TUNE.exists()


def test_features_made_with_other_params_are_refused(trained_copy: Path) -> None:
    views = "extract.views = 7: the cached features were made with 8; dvc repro split first"
    with pytest.raises(LanduseError, match=views):
        tune(TRAIN, params(2), replace(EXTRACT, views=7), lambda _: None)
    cut = "train.unfreeze_from = block_14: the cached features were cut at head; dvc repro split first"
    with pytest.raises(LanduseError, match=cut):
        tune(replace(TRAIN, unfreeze_from="block_14"), params(2), EXTRACT, lambda _: None)


def test_a_value_rounded_to_three_digits_stays_within_its_range() -> None:
    space = {"dropout": Range(low=0.0, high=0.9996, log=False), "mixup": Range(low=0.12344, high=1.0, log=False)}
    limits = {"dropout": 0.9996, "mixup": 0.12344}
    assert suggest(FixedTrial(limits), space) == limits
    assert suggest(FixedTrial({"dropout": 0.12345, "mixup": 0.5}), space) == {"dropout": 0.123, "mixup": 0.5}


def test_a_small_value_is_written_as_a_yaml_number(project: Path) -> None:
    apply({"train": {"learning_rate": 2e-05}})
    assert yaml.safe_load(PARAMS.read_text("utf-8"))["train"]["learning_rate"] == 2e-05
    assert apply({"train": {"learning_rate": 2e-05}}) == ""


def test_only_the_best_values_are_changed_in_params_yaml(project: Path) -> None:
    before = PARAMS.read_text("utf-8")
    diff = apply({"train": {"learning_rate": 0.0123, "batch_size": 64, "label_smoothing": 0.1}})
    after = PARAMS.read_text("utf-8")
    assert load_params().train == replace(
        load_params(PRESET).train, learning_rate=0.0123, batch_size=64, label_smoothing=0.1
    )
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [new.split("#")[0].strip() for _, new in changed] == ["batch_size: 64", "learning_rate: 0.0123"]
    assert all(old.index("#") == new.index("#") for old, new in changed)
    assert [line for line in diff.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")] == [
        sign + line for sign, side in (("-", 0), ("+", 1)) for line in (pair[side] for pair in changed)
    ]


@pytest.mark.parametrize(
    ("plain", "anchored"),
    [
        ("weight_decay: 0.01", "weight_decay: &same 0.01"),
        ("learning_rate: 0.002", "learning_rate: &same 0.002"),
    ],
)
def test_a_value_shared_by_a_yaml_anchor_is_not_changed(project: Path, plain: str, anchored: str) -> None:
    text = PARAMS.read_text("utf-8").replace(plain, anchored).replace("dropout: 0.2", "dropout: *same")
    assert "&same" in text and "*same" in text
    PARAMS.write_text(text, "utf-8")
    advice = "by anchors, so it was not changed: write under train learning_rate: 0.5, dr"
    with pytest.raises(LanduseError, match=advice):
        apply({"train": {"learning_rate": 0.5, "dropout": 0.1}})
    assert PARAMS.read_text("utf-8") == text


def test_line_endings_are_kept(project: Path) -> None:
    PARAMS.write_bytes(PARAMS.read_bytes().replace(b"\n", b"\r\n"))
    apply({"train": {"learning_rate": 0.0123}})
    assert b"0.0123" in PARAMS.read_bytes() and PARAMS.read_bytes().count(b"\n") == PARAMS.read_bytes().count(b"\r\n")


def test_values_of_any_length_are_replaced_in_a_flow_mapping() -> None:
    text = "train: {dropout: 0.2, seed: 1} # both\nother: {dropout: 0.2}\n"
    assert yaml.safe_load(replace_values(text, "train", {"dropout": 0.12345, "seed": 22})) == {
        "train": {"dropout": 0.12345, "seed": 22},
        "other": {"dropout": 0.2},
    }


def test_an_equal_number_keeps_its_notation() -> None:
    text = "train:\n  mixup: 0  # none\n  learning_rate: 1e-3\n  dropout: 0.1\n"
    assert replace_values(text, "train", {"mixup": 0.0, "dropout": 0.1}) == text


def test_a_full_disk_leaves_params_yaml_unchanged(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, files = PARAMS.read_bytes(), set(Path().iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        apply({"train": {"learning_rate": 0.0123}})
    assert PARAMS.read_bytes() == before and set(Path().iterdir()) == files


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5]])
def test_importances_are_not_plotted_if_all_scores_are_equal(tmp_path: Path, scores: list[float]) -> None:
    study = optuna.create_study(direction="maximize")
    space = {"learning_rate": optuna.distributions.FloatDistribution(0, 1)}
    for number, score in enumerate([*scores, 0.25]):
        state = TrialState.COMPLETE if number < len(scores) else TrialState.PRUNED
        values = {"params": {"learning_rate": number / 10}, "distributions": space, "intermediate_values": {1: score}}
        study.add_trial(optuna.trial.create_trial(state=state, value=score, **values))
    (tmp_path / "importances.png").write_text("from an earlier study")
    plot_study(study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["parallel_coordinates.png"]


def test_an_interrupted_search_leaves_params_yaml_unchanged(
    trained_copy: Path, interrupt_trial: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from landuse.cli import main

    content = yaml.safe_load(PARAMS.read_text("utf-8"))
    content["tune"] = {"trials": 3, "space": {"learning_rate": [0.01, 0.02], "batch_size": [4, 8]}}
    PARAMS.write_text(yaml.safe_dump(content, sort_keys=False))
    before = PARAMS.read_text("utf-8")
    interrupt_trial(3)
    monkeypatch.setattr("sys.argv", ["landuse", "tune", "--apply"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130 and PARAMS.read_text("utf-8") == before and TUNE.exists()
