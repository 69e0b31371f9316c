"""End to end: in a project where arrivals are additions, three of them join the data set and are trained on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fresh import Fresh, archive, running_project
from waiting import wait_for
from workspace import Workspace, copy_project


@pytest.fixture
def growing(tmp_path: Path, untouched: Workspace) -> Iterator[Fresh]:
    """A project on real servers of its own that adds what arrives, after the training on its first data set."""
    with running_project(copy_project(untouched, tmp_path / "project")) as fresh:
        fresh.work.change(lambda params: params["data"].update(arrivals="add"))
        fresh.pipelines("up")
        fresh.wait_until_completed(fresh.trigger("retraining"))
        yield fresh


def record(fresh: Fresh) -> dict:
    return yaml.safe_load((fresh.work.folder / "data.dvc").read_text())


@pytest.mark.slow
def test_three_additions_join_the_data_set_in_their_order(growing: Fresh, tmp_path: Path) -> None:
    earlier = {run["id"] for run in growing.runs("retraining")}
    additions = {
        "late.zip": archive(tmp_path / "1.zip", 40, 42, ("beach",)),
        "later.zip": archive(tmp_path / "2.zip", 40, 43, ("river",)),
        "again.zip": archive(tmp_path / "3.zip", 40, 42, ("beach", "tanks")),
    }
    for name, path in additions.items():
        growing.drop(name, path)
    [run] = wait_for(lambda: [run for run in growing.runs("retraining") if run["id"] not in earlier], 60)
    finished = growing.wait_until_completed(run["id"])
    after, inbox = record(growing), growing.work.folder / "inbox"
    assert [batch["source"] for batch in after["meta"]["batches"]] == ["sample", *additions]
    assert [batch["images"] for batch in after["meta"]["batches"]] == [400, 2, 3, 2]
    assert finished["name"] == f"retrain-{after['outs'][0]['md5'][:6]}-new-data"
    assert {path.name.partition("-")[2] for path in (inbox / ".done").iterdir()} == {*additions}
    assert not (inbox / ".superseded").exists() and not (growing.work.folder / "quarantine").exists()
    page = growing.artifacts(run["id"])["retraining"][0]["data"]
    assert "**What changed**: +7 images (river +3, beach +2, tanks +2)\n" in page
    assert growing.work.stale() == {}
    again = growing.wait_until_completed(growing.trigger("retraining"))
    assert again["state"]["name"] == "NothingNew" and record(growing) == after, "data.source does not undo additions"
    assert "since the champion's data: no images changed" in growing.work.ok("landuse", "info", **growing.env)
