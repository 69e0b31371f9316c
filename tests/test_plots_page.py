"""The page of `dvc plots` in a real browser without network; and the settings that make DVC use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import IDENTITY

from landuse.core.paths import DVC_LOCAL, HISTORY, PER_CLASS, PLOTS_PAGE, PREDICTIONS
from landuse.project.plots_page import use_page, write_page

PAGE = Path("dvc_plots/index.html")
WEB = "https://cdn.jsdelivr.net"  # where DVC's own page has its scripts
RESULTS = {
    HISTORY: "epoch,train_loss,validation_loss,train_accuracy,validation_accuracy\n1,2,3,.4,.3\n2,1,2,.6,.5\n",
    PREDICTIONS: "actual,predicted\nforest,forest\nforest,beach\nbeach,beach\n",
    PER_CLASS: "class,recall\nforest,.5\nbeach,1\n",
}
MARKS = """() => Object.fromEntries([...document.querySelectorAll('body > div')].map(plot => [
  plot.id, plot.querySelectorAll('.mark-line.role-mark path, .mark-rect.role-mark path[d]').length]))"""


def run(*command: str) -> str:
    """Run a command that must succeed; returns its output."""
    done = subprocess.run(command, env=os.environ | IDENTITY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def results(project: Path) -> Path:
    """A project with a commit, whose results in it have changed since."""
    for path, text in RESULTS.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    run("git", "add", "--all")
    run("git", "add", "--force", *map(str, RESULTS))
    run("git", "commit", "--quiet", "--message", "results")
    HISTORY.write_text(RESULTS[HISTORY].replace(".5", ".7"))
    return project


@pytest.mark.parametrize(("command", "revisions"), [(["show"], 1), (["diff"], 2)], ids=["show", "diff"])
def test_the_page_draws_every_plot_without_network(results: Path, browser, command: list[str], revisions: int) -> None:
    run(sys.executable, "-m", "landuse.project.plots_page")
    run("dvc", "plots", *command)
    context = browser.new_context(offline=True)
    page, requests, errors = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(PAGE.resolve().as_uri())
    page.wait_for_function("document.querySelectorAll('svg.marks').length === 4", timeout=10_000)
    marks, menu = page.evaluate(MARKS), page.locator(".vega-actions").first.text_content()
    context.close()
    assert (errors, requests) == ([], [PAGE.resolve().as_uri()])
    assert list(marks) == ["loss_by_epoch", "accuracy_by_epoch", "confusion_matrix", "recall_by_class"]
    assert marks["loss_by_epoch"] >= 2 * revisions, "a line each for training and validation"
    assert marks["accuracy_by_epoch"] >= 2 * revisions
    assert marks["confusion_matrix"] >= 4 * revisions and marks["recall_by_class"] == 2 * revisions
    assert "Save as PNG" in menu and "Editor" not in menu


def test_dvc_shows_plots_where_nothing_was_installed(results: Path) -> None:
    run("dvc", "plots", "show")
    assert WEB in PAGE.read_text()


def test_git_holds_neither_the_page_nor_its_setting(results: Path) -> None:
    before = run("git", "status", "--porcelain")
    write_page()
    use_page()
    assert PLOTS_PAGE.exists() and DVC_LOCAL.exists()
    assert run("git", "status", "--porcelain") == before


def test_other_settings_of_the_user_stay(project: Path) -> None:
    settings = "# ours\n['remote \"local\"']\n    url = /média/a%b\n[plots]\n    auto_open = true\n"
    DVC_LOCAL.write_text(settings, "utf-8")
    use_page()
    use_page()
    assert DVC_LOCAL.read_text("utf-8") == f"{settings}    html_template = plots.html\n"


@pytest.mark.parametrize("name", ["config", "config.local"])
def test_a_template_of_the_user_stays(project: Path, name: str) -> None:
    with DVC_LOCAL.with_name(name).open("a") as file:
        file.write("[plots]\n    html_template = mine.html\n")
    use_page()
    assert run("dvc", "config", "plots.html_template") == "mine.html\n"
