"""The example workflows for GitHub Actions: valid, with commands that exist, on every Python of the project."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
by_name = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def steps(workflow: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def scripts(workflow: Path) -> list[str]:
    """Return the shell scripts of a workflow."""
    return [step["run"] for step in steps(workflow) if "run" in step]


@by_name
def test_a_workflow_follows_the_schema(workflow: Path) -> None:
    if not (checker := Path(sys.executable).with_name("check-jsonschema")).exists():
        pytest.skip("check-jsonschema is not installed: requirements/dev.txt has it")
    command = [checker, "--builtin-schema", "vendor.github-workflows", workflow]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@by_name
def test_the_scripts_of_a_workflow_are_valid_and_make_targets_of_ours(workflow: Path) -> None:
    for script in scripts(workflow):
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
        for target in re.findall(r"\bmake (\S+)", script):
            assert subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True).returncode == 0, target


def test_the_tests_run_on_every_python_that_the_project_supports() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert jobs["test"]["strategy"]["matrix"]["python"] == supported
