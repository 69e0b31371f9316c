"""The documentation matches the project: what it names exists, what exists is named, and the site works offline."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os.path import normpath
from pathlib import Path
from threading import Thread

import pytest
import typer.main
import yaml
from playwright.sync_api import Browser, Page
from workspace import IDENTITY

from landuse.cli import UNREADABLE_FILES, app
from landuse.core.errors import LanduseError, NotReady, Refused, Unavailable
from landuse.gate.blessing import Blessing
from landuse.params import Params
from landuse.serve.app import SCORING_PATHS
from landuse.serve.metrics import Metrics
from landuse.serve.prediction_log import SCHEMA
from landuse.validate.manifest import COLUMNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("[!_]*.md"))]
VERBS = set(typer.main.get_command(app).commands)
SECTIONS = {name: set(field.type.__dataclass_fields__) for name, field in Params.__dataclass_fields__.items()}
PROJECT_FILES = {"params.yaml", "data.dvc", "dvc.yaml", "dvc.lock"}


@cache
def code_snippets() -> list[str]:
    """Return every line of a code block and all inline code of all pages."""
    snippets = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        snippets += [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)
    return snippets


def mentions(pattern: str) -> set[str]:
    """Return what the pattern finds in code; at least one, or the pattern itself is wrong."""
    found = {match for text in code_snippets() for match in re.findall(pattern, text)}
    assert found, pattern
    return found


def make_targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


def test_the_pages_name_exactly_the_make_targets() -> None:
    assert mentions(r"(?:^|[;&$(] ?)make ([a-z-]+)") == make_targets()


def test_the_pages_name_exactly_the_verbs() -> None:
    assert mentions(r"(?:^|[;&$] ?)landuse ([a-z]+)") == VERBS


def test_the_pages_name_exactly_the_presets() -> None:
    assert mentions(r"presets/\w+\.yaml") == {f"presets/{path.name}" for path in (ROOT / "presets").glob("*.yaml")}


def test_every_params_key_in_the_pages_exists() -> None:
    others = PROJECT_FILES | rows_of("tags-and-metrics.md")
    for section, key in mentions(rf"\b({'|'.join(SECTIONS)})\.([a-z_0-9]+(?:\.[a-z0-9]+)*)"):
        known = {*SECTIONS[section], "py", "txt", "csv", "html", "db"}  # of names of files
        assert key.partition(".")[0] in known or f"{section}.{key}" in others, f"{section}.{key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_picture_and_relative_link_of_a_page_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    assert links or page.name != "README.md"
    for link in links:
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_a_section_from_outside_the_site_lead_to_a_heading(name: str) -> None:
    page = ROOT / name
    for link, section in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8")):
        target = page.parent / link if link else page
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
        assert section in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, section


def test_every_file_of_the_project_that_the_pages_name_exists() -> None:
    for path in mentions(r"(?:benchmarks|src|tests|pipelines|requirements|docs|presets)/[\w./]+\.\w+"):
        assert (ROOT / path).exists(), path


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 160 and len(text.encode()) <= 10_000
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("name", ["cli", "environment", "make", "params"])
def test_the_generated_reference_is_that_of_the_code(name: str) -> None:
    script = f"from generate import PAGES; print(PAGES['{name}.md'](), end='')"
    done = subprocess.run([sys.executable, "-c", script], cwd=DOCS, capture_output=True, text=True, check=True)
    assert (REFERENCE / f"{name}.md").read_text("utf-8") == done.stdout, "python docs/generate.py writes it anew"


def rows_of(page: str) -> set[str]:
    """Return all inline code in the first column of the tables of a reference page."""
    first_cells = re.findall(r"^\| ([^|]+) \|", (REFERENCE / page).read_text("utf-8"), re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_reference_has_every_column_and_key_of_the_files() -> None:
    assert {*COLUMNS, *SCHEMA.names, *(field.name for field in fields(Blessing))} <= rows_of("files.md")


def test_the_reference_has_every_path_and_metric_of_the_server() -> None:
    assert {"/", "/predict", "/version", "/metrics", *SCORING_PATHS} <= rows_of("http-api.md")
    names = set(re.findall(r"^# TYPE (landuse_\w+)", Metrics().render().decode(), re.MULTILINE))
    assert names and names <= rows_of("tags-and-metrics.md")


def test_the_reference_has_every_exit_code() -> None:
    codes = {error.exit_code for error in (LanduseError, NotReady, Refused, Unavailable)} | {UNREADABLE_FILES}
    page = (REFERENCE / "exit-codes.md").read_text("utf-8")
    assert {str(code) for code in codes} <= set(re.findall(r"^\| (\d+)", page, re.MULTILINE))


def test_the_cache_cleanup_in_the_pages_keeps_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [command] = mentions(r"^dvc gc .*")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))

    def run(command_line: str) -> None:
        subprocess.run(command_line.split(), check=True, capture_output=True, env=os.environ | IDENTITY, timeout=120)

    for line in ("git init --quiet .", "dvc init --quiet"):
        run(line)
    Path("params.yaml").write_text("value: 1\n")
    stage = {"cmd": "cp params.yaml out.txt", "params": ["value"], "outs": ["out.txt"]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"stage": stage}}))
    for line in ("dvc repro", "git add --all", "git commit --message one", "dvc exp run --set-param value=2"):
        run(line)
    for line in ("git checkout params.yaml dvc.lock", "dvc checkout"):
        run(line)
    before = {path.read_text() for path in Path(".dvc/cache/files").rglob("*") if path.is_file()}
    run(f"{command} --force")
    assert {path.read_text() for path in Path(".dvc/cache/files").rglob("*") if path.is_file()} == before
    assert before == {"value: 1\n", "value: 2\n"}


def test_the_table_of_experiments_in_the_pages_leaves_out_files_alone() -> None:
    [command] = mentions(r"^dvc exp show .*")
    dropped = re.compile(shlex.split(command)[-1])
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"].values()
    files = {normpath(Path(stage.get("wdir", ""), path)) for stage in stages for path in stage["deps"]}
    keys = {f"{section}.{key}" for section in SECTIONS for key in SECTIONS[section]}
    names = {*files, *keys, *(name.rpartition("/")[2] for name in rows_of("tags-and-metrics.md"))}
    assert {name for name in names if dropped.match(name)} == files


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a broken link or an unlisted page is an error."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "-d", str(folder / "doctrees")]
    build = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of the site, served on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(site))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A tab that records requests to other machines, of which there must be none."""
    tab, foreign = browser.new_page(), []
    tab.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(address) else None)
    yield tab
    tab.close()
    assert [url for url in foreign if not url.startswith(("data:", "blob:"))] == []


@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", ["tutorial", "reference/params", "troubleshooting"])
def test_a_page_of_the_site_fits_the_screen(page: Page, address: str, name: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}/{name}.html")
    assert page.locator("h1").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    assert page.evaluate(broken) == []


def test_the_search_of_the_site_finds_an_error_by_its_words(page: Page, address: str) -> None:
    page.goto(f"{address}/search.html?q=unknown+key")
    page.locator("#search-results a", has_text="Troubleshooting").first.wait_for(timeout=10_000)
