"""Pages of Prefect's UI in a real browser: what they tell of a retraining, and that they ask no other server."""

import re
from collections.abc import Iterator

import pytest
from fresh import Fresh
from waiting import wait_for

pytestmark = pytest.mark.slow

FLOWS = ("retraining", "ingestion", "training", "promotion")
REFUSED_BY_POLICY = "csp"  # as the browser says of a request that it did not send
LOADING_MS = 60_000


@pytest.fixture(scope="module")
def ui(fresh: Fresh, scheduled: dict, browser) -> Iterator:
    """A page that is logged in; `requests` are those of all its visits, `errors` those of its scripts."""
    context = browser.new_context(viewport={"width": 1400, "height": 957}, color_scheme="dark")
    context.set_default_timeout(LOADING_MS)
    page = context.new_page()
    page.requests, page.errors = [], []
    context.on("request", lambda request: page.requests.append(request))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(fresh.prefect)
    page.locator("input[type=password]").fill(fresh.login)
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard*")
    yield page
    context.close()


@pytest.fixture(autouse=True)
def check_requests(ui, fresh: Fresh) -> Iterator[None]:
    """Check after each visit that every request was to the server, or not sent, and that no script failed."""
    yield
    ui.wait_for_load_state("networkidle")
    elsewhere = [each for each in ui.requests if not re.match(rf"(blob:)?{re.escape(fresh.prefect)}/|data:", each.url)]
    assert [each.url for each in elsewhere if each.failure != REFUSED_BY_POLICY] == []
    assert ui.errors == []


def test_the_ui_opens_in_the_look_of_the_docs_and_advertises_nothing(ui, fresh: Fresh) -> None:
    ui.goto(fresh.prefect)
    ui.get_by_text("Flow Runs").first.wait_for()
    assert ui.url.startswith(f"{fresh.prefect}/v2/dashboard")
    assert "Upgrade" not in (words := ui.inner_text("body")) and "community" not in words


def test_the_page_of_the_deployments_names_every_flow_and_the_schedule(ui, fresh: Fresh) -> None:
    ui.goto(f"{fresh.prefect}/v2/deployments")
    ui.get_by_text("4 Deployments").wait_for()
    words = ui.inner_text("main")
    assert all(flow in words for flow in FLOWS) and re.search(r"At \d\d:\d\d [AP]M", words)


def test_the_page_of_the_retraining_says_what_the_gate_needs(ui, fresh: Fresh) -> None:
    deployment = fresh.api("/deployments/name/retraining/landuse")["id"]
    ui.goto(f"{fresh.prefect}/v2/deployments/deployment/{deployment}?tab=Description")
    ui.get_by_text("every check to pass").first.wait_for()
    assert "promote.requires: better" in ui.inner_text("main")


def test_the_page_of_a_run_names_its_parts_and_what_came_of_it(ui, fresh: Fresh, scheduled: dict) -> None:
    ui.goto(f"{fresh.prefect}/v2/runs/flow-run/{scheduled['id']}?tab=SubflowRuns")
    for flow in FLOWS[1:]:
        ui.get_by_role("main").get_by_text(flow, exact=True).first.wait_for()
    words = ui.inner_text("main")
    assert all(word in words for word in (scheduled["name"], "Completed", "3 Subflow runs"))


def test_the_page_of_a_retraining_tells_what_changed_before_any_hash(ui, fresh: Fresh, scheduled: dict) -> None:
    [artifact] = fresh.artifacts(scheduled["id"])["retraining"]
    ui.goto(f"{fresh.prefect}/v2/artifacts/artifact/{artifact['id']}")
    ui.get_by_role("heading", name="landuse-sample version 1 is the champion").wait_for()
    words = wait_for(lambda: words_between(ui, "Raw\n", "Show Raw Data"), 60)  # the page draws them a second time
    assert "What changed: the first data set; 400 images in 10 classes, 40 each" in words
    places = [words.index(text) for text in ("What changed", "How good", "Promoted", "Data version", ".dir", "Why:")]
    assert places == sorted(places)


def words_between(ui, start: str, end: str) -> str:
    """Return what the page shows between two of its words; empty while that is not drawn."""
    return ui.inner_text("main").partition(start)[2].partition(end)[0].strip()
