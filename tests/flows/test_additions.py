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
def test_three_additions_in_a_row_are_each_trained_on_and_judged(growing: Fresh, tmp_path: Path) -> None:
    additions = {
        "late.zip": (archive(tmp_path / "1.zip", 40, 42, ("beach",)), "+2 images (beach +2)"),
        "later.zip": (archive(tmp_path / "2.zip", 40, 43, ("river",)), "+3 images (river +3)"),
        "again.zip": (archive(tmp_path / "3.zip", 40, 42, ("beach", "tanks")), "+2 images (tanks +2)"),
    }
    for number, (name, (path, change)) in enumerate(additions.items(), start=1):
        run = deliver(growing, name, path)
        page, version = growing.artifacts(run["id"])["retraining"][0]["data"], record(growing)["outs"][0]["md5"]
        assert run["name"] == f"retrain-{version[:6]}-new-data"
        assert f"**What changed**: {change}\n" in page and f"version {number + 1}" in page
        assert len(growing.work.ok("landuse", "history", **growing.env).splitlines()) == 2 + number, page
    after, inbox = record(growing), growing.work.folder / "inbox"
    assert [batch["source"] for batch in after["meta"]["batches"]] == ["sample", *additions]
    assert [batch["images"] for batch in after["meta"]["batches"]] == [400, 2, 3, 2]
    assert {path.name.partition("-")[2] for path in (inbox / ".done").iterdir()} == {*additions}
    assert not (inbox / ".superseded").exists() and not (growing.work.folder / "quarantine").exists()
    assert growing.work.stale() == {}
    again = growing.wait_until_completed(growing.trigger("retraining"))
    assert again["state"]["name"] == "NothingNew" and record(growing) == after, "data.source does not undo additions"
    assert "since the champion's data: no images changed" in growing.work.ok("landuse", "info", **growing.env)


def deliver(fresh: Fresh, name: str, path: Path) -> dict:
    """Drop a delivery; return the retraining that it started, once that has completed."""
    earlier = {run["id"] for run in fresh.runs("retraining")}
    fresh.drop(name, path)
    [run] = wait_for(lambda: [run for run in fresh.runs("retraining") if run["id"] not in earlier], 60)
    return fresh.wait_until_completed(run["id"])
