"""A project whose data, models and registry were made by an earlier version of the code goes on with today's.

Its only record that needs a change is `params.yaml`, whose keys have new names. Runs, versions and dvc.lock stay as
they are.
"""

import base64
import json
import subprocess
from pathlib import Path
from shutil import copy2
from urllib.request import Request, urlopen

import pytest
from ports import free_port
from servers import wait_for
from workspace import ROOT, Workspace, make_small, write_weights

EARLIER = "0837fb3780f2e3c1edd5fcc8377919f7f2a01431"  # the last commit before the modules moved into wings
OWN = ("params.yaml", "data.dvc", "dvc.lock")  # what a user keeps in an update
RENAMED = {
    "train": {"sure_accuracy": "target_selective_accuracy", "averaged_views": "tta_views"},
    "promote": {
        "images": "min_images",
        "accuracy": "min_accuracy",
        "macro_f1": "min_macro_f1",
        "class_recall": "min_class_recall",
        "slice_accuracy": "min_slice_accuracy",
        "slice_images": "min_slice_images",
        "calibration_error": "max_calibration_error",
        "disturbed_fall": "max_disturbed_fall",
        "class_fall": "max_class_fall",
        "latency_ms": "max_latency_ms",
        "size_mb": "max_size_mb",
    },
}

ADDED = {"requires": "not_worse", "max_coverage_fall": 0.1, "max_shrinkage": 0.1}  # to the section promote


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An earlier project with two champions in turn, its code replaced by today's; params.yaml has the old keys."""
    known = subprocess.run(["git", "cat-file", "-e", EARLIER], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip(f"commit {EARLIER} is not here: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("earlier")
    work = Workspace(folder / "project", folder / "own.weights.h5")
    write_weights(work.weights, alpha=0.35)
    subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, work.folder], check=True)
    work.ok("git", "checkout", "--quiet", "--detach", EARLIER)
    (work.folder / "params.yaml").write_bytes((work.folder / "presets" / "sample.yaml").read_bytes())
    work.change(lambda params: make_small(params, str(work.weights)))
    work.commit()
    work.ok("landuse", "ingest")
    for seed in (1, 2):
        work.change(lambda params, seed=seed: params["train"].update(seed=seed))
        work.ok("dvc", "repro")
        work.commit()
        work.ok("landuse", "promote", "--force", "--reason", f"seed {seed}")
    update(work)
    return work


def update(work: Workspace) -> None:
    """Replace every tracked file but those in OWN by today's."""
    for name in work.ok("git", "ls-files").splitlines():
        if name not in OWN:
            (work.folder / name).unlink()
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and name not in OWN and (ROOT / name).exists():
            (work.folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, work.folder / name)


def rename_keys(params: dict) -> None:
    """Give the keys of params.yaml their new names, and add those that are new."""
    for section, names in RENAMED.items():
        params[section] = {names.get(key, key): value for key, value in params[section].items()}
    params["promote"] |= ADDED


def test_old_keys_are_refused_with_their_new_names(updated: Workspace) -> None:
    complaint = updated.refused("landuse", "history")
    for section, names in RENAMED.items():
        for old, new in names.items():
            assert f"{section}.{old}: renamed to {section}.{new}" in complaint
    for key in ADDED:
        assert f"promote.{key}: missing; presets/sample.yaml shows every key" in complaint


@pytest.fixture(scope="module")
def work(updated: Workspace) -> Workspace:
    """The updated project with the new keys, committed."""
    updated.change(rename_keys)
    updated.commit()
    return updated


def test_an_earlier_champion_answers_and_is_served(work: Workspace, tmp_path: Path) -> None:
    image = next((work.folder / "data").rglob("*.png"))
    _, row = work.ok("landuse", "predict", str(image)).splitlines()
    port, inputs = free_port(), {"inputs": [base64.b64encode(image.read_bytes()).decode()]}
    address, headers = f"http://127.0.0.1:{port}", {"Content-Type": "application/json"}
    command = ["landuse", "serve", "--port", port]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=work.folder, env=work.env(), stdout=log, stderr=log) as server,
    ):
        try:
            wait_for(f"{address}/health", server)
            with urlopen(Request(f"{address}/invocations", json.dumps(inputs).encode(), headers)) as answer:
                label = json.load(answer)["predictions"][0]["label"]
        finally:
            server.terminate()
    assert row.startswith(f"{image},{label},")


def test_earlier_versions_are_compared_and_gated(work: Workspace) -> None:
    assert work.ok("landuse", "compare", "1", "2")
    assert work.run("landuse", "promote", "1", "--dry-run").returncode in (0, 3)


def test_an_earlier_version_is_rebuilt_by_its_own_code(work: Workspace) -> None:
    assert "came out the same" in work.ok("landuse", "verify", "2")


def test_an_earlier_champion_comes_back_by_rollback(work: Workspace) -> None:
    work.ok("landuse", "rollback")
    assert len(work.ok("landuse", "history").splitlines()) >= 3


def test_stages_run_once_more_after_the_update_and_then_never(work: Workspace) -> None:
    assert "register" in work.stages_run("dvc", "repro")
    assert work.stages_run("dvc", "repro") == []
    assert work.run("landuse", "promote", "--dry-run").returncode in (0, 3)
