"""The README matches the project: what it names exists, and what exists is named."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer.main
import yaml
from workspace import IDENTITY

from landuse.cli import app
from landuse.params import Params

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
VERBS = set(typer.main.get_command(app).commands)
SECTIONS = {name: set(field.type.__dataclass_fields__) for name, field in Params.__dataclass_fields__.items()}


def code_snippets() -> list[str]:
    """Return every line of a code block and all inline code."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", prose)


def mentions(pattern: str) -> set[str]:
    return {match for text in code_snippets() for match in re.findall(pattern, text)}


def make_targets() -> set[str]:
    return set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())


def test_the_readme_names_exactly_the_make_targets() -> None:
    assert mentions(r"(?:^|[;&$] ?)make ([a-z]+)") == make_targets()


def test_the_readme_names_exactly_the_verbs() -> None:
    assert mentions(r"(?:^|[;&$] ?)landuse ([a-z]+)") | mentions(r"^([a-z]+)$") & VERBS == VERBS


def test_the_readme_names_exactly_the_presets() -> None:
    assert mentions(r"presets/\w+\.yaml") == {f"presets/{path.name}" for path in (ROOT / "presets").glob("*.yaml")}


def test_every_params_key_in_the_readme_exists() -> None:
    for section, key in mentions(rf"\b({'|'.join(SECTIONS)})\.([a-z_0-9]+)"):
        assert key in SECTIONS[section] or (ROOT / f"{section}.{key}").exists(), f"{section}.{key}"


def test_every_picture_and_relative_link_exists() -> None:
    links = re.findall(r"\]\(([^)#\s]+)", README) + re.findall(r'(?:src|href)="([^"#]+)"', README)
    for link in links:
        assert link.startswith(("http://", "https://")) or (ROOT / link).exists(), link


def test_every_script_in_the_readme_exists() -> None:
    for path in mentions(r"(?:benchmarks|src|tests|pipelines)/[\w./]+\.py"):
        assert (ROOT / path).exists(), path


def test_the_cache_cleanup_in_the_readme_keeps_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
