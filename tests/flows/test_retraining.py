"""Retraining: which version is judged, whether it may be promoted, and that nothing is trained for nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from landuse.core.paths import REGISTRATION
from pipelines import retraining

Calls = dict[str, dict[str, Any]]


@pytest.fixture
def calls(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Keyword arguments of each subflow that the flow called, by name; none of them does anything."""
    recorded: Calls = {}

    def record(name: str, result: object) -> None:
        monkeypatch.setattr(retraining, name, lambda *_, **options: recorded.update({name: options}) or result)

    for name, result in {"ingestion": True, "training": {}, "promotion": {}, "rename_run": None}.items():
        record(name, result)
    monkeypatch.setattr(retraining, "with_retries", lambda task: task)
    monkeypatch.setattr(retraining, "find_reason", lambda new_data, force: "new-data" if new_data else None)
    monkeypatch.setattr(retraining, "show_summary", lambda *_: "a verdict")
    REGISTRATION.parent.mkdir()
    REGISTRATION.write_text(json.dumps({"model": "landuse", "version": "7"}))
    tiny.write_params(work_dir, {})
    return recorded


@pytest.mark.parametrize("automatic", [True, False])
def test_the_version_registered_last_is_promoted_only_if_that_is_automatic(
    calls: Calls, work_dir: Path, automatic: bool
) -> None:
    tiny.write_params(work_dir, {"promote": {"automatic": automatic}})
    assert retraining.retraining.fn().message == "a verdict"
    assert calls["promotion"] == {"version": "7", "dry_run": not automatic}


def test_if_nothing_is_new_nothing_is_trained_or_judged(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "ingestion", lambda _: False)
    assert retraining.retraining.fn().name == "NothingNew"
    assert not {"training", "promotion"} & calls.keys()
