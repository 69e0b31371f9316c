"""One name everywhere: stage, section of params.yaml, module, function, verb, row of the README, flow, deployment.

And the dependencies in dvc.yaml are those of the code.
"""

import ast
import re
import subprocess
import sys
from os.path import normpath
from pathlib import Path
from typing import Any

import grimp
import pytest
import typer.main
import yaml

from landuse.cli import Flow, app

ROOT = Path(__file__).parents[1]
SOURCE = Path("src/landuse")
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
STAGES = tuple(DVC["stages"])
VERSION_STEPS = ("promote", "predict", "serve", "export")  # steps that work on registered versions
REGISTRY_VERBS = ("rollback", "history", "compare", "verify")
FLOWS = ("ingestion", "training", "retraining", "promotion")
MAX_FLOW_STATEMENTS = 12
# Modules that no result depends on, so that their change does not rerun a stage.
WITHOUT_EFFECT = {"core", "ml/pool", "project/dvc_cache", "project/earlier", "project/lineage", "project/stage_guard"}
WITHOUT_EFFECT |= {f"params/{name}" for name in ("__init__", "errors", "types", "yaml_loader")}
WINGS = {"project", "ml", "params", "registry"}  # packages whose modules are separate dependencies of a stage


def part_of(module: str) -> str:
    """Return the dependency unit of a module `landuse.…`: the module itself in a wing, else its top-level package."""
    first, *others = module.split(".")[1:]
    return "/".join([first, *others] if others else [first, "__init__"]) if first in WINGS else first


def module_file(name: str) -> Path:
    """Return the path of a module or package, relative to the project."""
    return SOURCE / name if (ROOT / SOURCE / name).is_dir() else SOURCE / f"{name}.py"


def source_text(name: str) -> str:
    path = ROOT / module_file(name)
    return "\n".join(file.read_text() for file in sorted(path.rglob("*.py"))) if path.is_dir() else path.read_text()


def paths_of(stage: dict[str, Any], key: str) -> list[str]:
    """Return the deps, outs or metrics of a stage, relative to the project."""
    weights = PARAMS["extract"]["weights"]
    entries = (next(iter(entry)) if isinstance(entry, dict) else entry for entry in stage.get(key, []))
    return [normpath(Path(stage.get("wdir", ""), entry.replace("${extract.weights}", weights))) for entry in entries]


def stage_outputs() -> dict[str, str]:
    """Return every file or folder that a stage writes, with the stage."""
    stages = DVC["stages"].items()
    return {
        path: name for name, stage in stages for key in ("outs", "metrics", "plots") for path in paths_of(stage, key)
    }


def within(path: str, folders: set[str]) -> bool:
    return not folders.isdisjoint({path, *map(str, Path(path).parents)})


def test_every_step_is_a_section_of_the_params() -> None:
    assert tuple(PARAMS) == ("data", *STAGES, "promote", "tune", "serve", "pipelines", "study", "compute")


@pytest.mark.parametrize(
    "name",
    (
        "ingest",
        *STAGES,
        *VERSION_STEPS,
        "verify",
        "promote/rollback",
        "promote/history",
        "promote/compare",
        "tune",
        "study",
        "init",
        "thresholds",
        "diff",
    ),
)
def test_every_step_is_a_module_with_a_function_of_its_name(name: str) -> None:
    path = ROOT / module_file(name)
    file = path / "__init__.py" if path.is_dir() else path
    functions = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert Path(name).name in functions


def test_every_step_is_a_verb_and_there_are_no_unknown_verbs() -> None:
    verbs = [
        "fetch",
        "ingest",
        "init",
        *STAGES,
        "tune",
        "study",
        "promote",
        "thresholds",
        *REGISTRY_VERBS,
        "predict",
        "serve",
        "export",
        "worker",
    ]
    verbs += ["info", "diff", "flow"]
    assert list(typer.main.get_command(app).commands) == verbs


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_its_verb(name: str) -> None:
    assert DVC["stages"][name]["cmd"].removeprefix("cd .. && ") == f"landuse {name}"


def test_every_step_is_a_row_of_the_readme_in_the_order_of_execution() -> None:
    rows = re.findall(r"^\|\s*`(\w+)`\s*\|", (ROOT / "README.md").read_text(), re.MULTILINE)
    steps = ["ingest", *STAGES, *VERSION_STEPS]
    assert [row for row in rows if row in steps][: len(steps)] == steps


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_depends_on_its_own_section_of_the_params(name: str) -> None:
    sections = DVC["stages"][name]["params"]
    flat = [key for entry in sections for key in ([entry] if isinstance(entry, str) else sum(entry.values(), []))]
    assert name in flat
    for key in flat:
        section, _, inner = key.partition(".")
        assert not inner or inner in PARAMS[section], key


@pytest.mark.parametrize("name", STAGES)
def test_every_dependency_of_a_stage_exists_or_is_made_by_an_earlier_stage(name: str) -> None:
    before = set(STAGES[: STAGES.index(name)])
    earlier_outputs = {path for path, stage in stage_outputs().items() if stage in before}
    for path in paths_of(DVC["stages"][name], "deps"):
        assert (
            path == "data" or within(path, earlier_outputs) or (ROOT / path).exists() or path.startswith("weights/")
        ), path


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_modules_that_affect_its_output(name: str) -> None:
    graph = grimp.build_graph("landuse")
    for checks in ("landuse.params", "landuse.params.types"):  # they only check values by the table
        graph.remove_import(importer=checks, imported="landuse.params.backbones")
    modules = graph.find_upstream_modules(f"landuse.{name}", as_package=True) - {"landuse"}
    parts = {name} | {part_of(module) for module in modules} - {f"{wing}/__init__" for wing in WINGS - {"registry"}}
    declared = {Path(path) for path in paths_of(DVC["stages"][name], "deps") if path.startswith("src/")}
    assert {module_file(part) for part in parts - WITHOUT_EFFECT} <= declared
    mentioned = {path for path in declared if f'"{path.name}"' in source_text(name)}
    assert declared <= {module_file(part) for part in parts} | mentioned


def test_git_converts_no_line_endings_of_sources() -> None:
    command = ["git", "-c", "core.autocrlf=true", "check-attr", "text", "dvc.yaml", "src/landuse/cli.py"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.rpartition(" ")[2] for line in answer.stdout.splitlines()] == ["unset", "unset"]


def test_every_output_is_below_artifacts_and_written_by_one_stage() -> None:
    outs = [path for stage in DVC["stages"].values() for key in ("outs", "metrics") for path in paths_of(stage, key)]
    assert all(Path(path).parts[0] == "artifacts" and len(Path(path).parts) > 1 for path in outs)
    assert len(outs) == len(set(outs))


def test_every_plotted_file_is_written_by_a_stage() -> None:
    files = {path for plot in DVC["plots"] for settings in plot.values() for path in settings["y"]}
    assert files <= set(stage_outputs())


def test_only_one_stage_writes_metrics() -> None:
    assert {name for name, stage in DVC["stages"].items() if "metrics" in stage} == {"evaluate"}


# Flows


def flows_of(name: str) -> dict[str, ast.FunctionDef]:
    """Return the flows in a module of pipelines/, by name."""
    functions = [node for node in ast.parse((ROOT / f"pipelines/{name}.py").read_text()).body if is_flow(node)]
    return {function.name: function for function in functions}


def is_flow(node: ast.stmt) -> bool:
    calls = [ast.unparse(decorator).partition("(")[0] for decorator in getattr(node, "decorator_list", [])]
    return "flow" in calls


def test_every_flow_is_a_module_of_its_name_and_a_choice_of_the_command_line() -> None:
    modules = [
        path.relative_to(ROOT / "pipelines").with_suffix("").as_posix() for path in (ROOT / "pipelines").rglob("*.py")
    ]
    assert {name: list(flows_of(name)) for name in modules if flows_of(name)} == {name: [name] for name in FLOWS}
    assert tuple(Flow) == FLOWS


def test_every_flow_is_deployed_from_its_module_with_one_run_at_a_time() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert sorted(each["entrypoint"] for each in deployments) == sorted(f"pipelines/{name}.py:{name}" for name in FLOWS)
    assert all(each["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"} for each in deployments)


@pytest.mark.parametrize("name", FLOWS)
def test_the_body_of_a_flow_is_a_table_of_contents(name: str) -> None:
    body = flows_of(name)[name].body
    statements = [node for part in body for node in ast.walk(part) if isinstance(node, ast.stmt)]
    assert ast.get_docstring(flows_of(name)[name])
    assert len(statements) - 1 <= MAX_FLOW_STATEMENTS, "the work of a flow belongs in tasks and functions"


@pytest.mark.parametrize("name", ["__main__", "steps.local_run", "services.processes"])
def test_modules_that_set_up_the_environment_of_prefect_do_not_import_it(name: str) -> None:
    """Prefect reads its settings when it is imported."""
    probe = f"import sys, pipelines.{name}; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
