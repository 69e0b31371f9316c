"""Generate the reference pages that follow from the code: `python docs/generate.py` writes them anew."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer.main
import yaml

from landuse.cli import app
from landuse.core.environment import FILES, VARIABLES, Row
from landuse.params import Params
from landuse.params.backbones import BACKBONES
from landuse.params.types import PATTERN_DESCRIPTIONS, BackboneName, Range

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PRESETS = ("sample", "tutorial", "ucmerced")
SECTION, KEY = (
    re.compile(r"(\w+):"),
    re.compile(r"  (\w+):[^#]*(?:#\s*(.*))?$"),
)  # of params.yaml, with the key's comment
TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
LONGEST_VALUE = 18

CLI_INTRODUCTION = """\
# Command line

Every verb of `landuse`. Run them in the project's folder. `landuse --help` lists them, and each verb has `--help`, too.
"""
MAKE_INTRODUCTION = """\
# Make

What `make` does in the project's folder. Each target first installs what it needs into `.venv`. `PYTHON=…` names the
Python that `.venv` is made with, and `ARGS=…` adds options to the tests and to the benchmark.
"""
MAKE_END = """\
Behind five of them is a program, `python -m pipelines`, with the verbs `up`, `down`, `status`, `ui` and, for the end of
`make run`, `next`. In a container,
`python -m pipelines up --wait` stays until it is told to end, or until a service dies: then it ends the others, names
the dead one, and its exit code is 1. The verbs `work` and `watch` are the worker and the watcher of `inbox/`, which
`up` starts.
"""
PARAMS_INTRODUCTION = """\
# Parameters

Every key of `params.yaml`, with its values in the three presets. No key has a default: all must be there, but
`study`, which only `landuse study` asks for, and `data.arrivals` and `tune.storage`, which are `replace` and `null` in
a file without them. An unknown key, or a value out of range, is refused in one line that names it.
"""
ENVIRONMENT_INTRODUCTION = """\
# Environment variables

What a command does depends on the files of the project, not on the user's shell or home folder. Each variable below is
*fixed* (removed, or set to a value), *obeyed*, or *refused* in one line that names it, by every program of this project
and in whatever that starts. The first row that matches applies. Variables of no row are left alone.

If you start `dvc`, `mlflow` or `prefect` yourself, they see your whole environment; the stages of `dvc repro` do not.
"""


def make_page() -> str:
    """Describe every target of the Makefile, by the comment beside it, and the programs behind some of them."""
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z][a-z -]*):[^\n#]*## (.*)$", text, re.MULTILINE)
    rows = [(f"`make {name}`", meaning) for names, meaning in targets for name in names.split()]
    return "\n".join((MAKE_INTRODUCTION, *table(("target", "what it does"), rows), "", MAKE_END))


def cli_page() -> str:
    """Describe every verb of the command line, in the groups of `landuse --help`."""
    panels: dict[str, list[Any]] = {}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]  # a group has them
        panels.setdefault(command.rich_help_panel, []).append(command)
    sections = [f"## {panel}\n\n" + "\n\n".join(map(command_section, panels[panel])) for panel in panels]
    return "\n".join((CLI_INTRODUCTION, "\n\n".join(sections), ""))


def command_section(command: Any) -> str:
    """Describe a verb: usage, purpose, arguments and options."""
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    names = [argument.metavar or argument.name.upper() for argument in arguments]
    usage = ["landuse", command.name, *(["[OPTIONS]"] if options else [])]
    usage += [name if argument.required else f"[{name}]" for name, argument in zip(names, arguments, strict=True)]
    rows = [(f"`{name}`", "", argument.help) for name, argument in zip(names, arguments, strict=True)]
    rows += [(f"`{', '.join(option.opts)}`", default_of(option), option.help) for option in options]
    lines = [f"### {command.name}", "", f"`{' '.join(usage)}`", "", command.help]
    return "\n".join(lines + ([""] + table(("argument or option", "default", "meaning"), rows) if rows else []))


def default_of(option: Any) -> str:
    """Return the default of an option as code, or nothing."""
    return "" if option.default in (None, False, "") else f"`{option.default}`"


def params_page() -> str:
    """Describe every key of `params.yaml`: type, range, its value in each preset, and meaning."""
    texts = {name: (ROOT / "presets" / f"{name}.yaml").read_text("utf-8") for name in PRESETS}
    values = {name: yaml.safe_load(text) for name, text in texts.items()}
    meanings = key_comments(texts["ucmerced"])
    page = [PARAMS_INTRODUCTION]
    for section, parameters in get_type_hints(Params).items():
        rows = [
            (
                f"`{section}.{key}`",
                meanings[f"{section}.{key}"],
                value_type(annotation),
                *(f"`{on_one_line(values[name][section][key])}`" for name in PRESETS),
            )
            for key, annotation in get_type_hints(parameters, include_extras=True).items()
        ]
        lines = table(("key", "meaning", "type and range", *PRESETS), rows)
        page.append("\n".join((f"## {section}", "", parameters.__doc__, "", *lines, "")))
    return "\n".join(page)


def key_comments(params_file: str) -> dict[str, str]:
    """Return the comment beside each key of a params file, by section.key."""
    section, comments = "", {}
    for line in params_file.splitlines():
        if heading := SECTION.match(line):
            section = heading[1]
        elif key := KEY.match(line):
            comments[f"{section}.{key[1]}"] = (key[2] or "").replace("<", "\\<")
    return comments


def value_type(annotation: Any) -> str:
    """Describe the type and range of a value."""
    if annotation is BackboneName:
        return "one of " + ", ".join(f"`{name}`" for name in BACKBONES)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for each in arguments[1:] for rule in getattr(each, "metadata", ())]
        if patterns := [rule.pattern for rule in rules if getattr(rule, "pattern", None)]:
            return PATTERN_DESCRIPTIONS[patterns[0]].replace("<", "\\<")
        return f"{value_type(arguments[0])} {', '.join(filter(None, map(bound, rules)))}".strip()
    if origin in (Union, UnionType):
        return " or ".join(map(value_type, arguments))
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"{'list' if Ellipsis in arguments else 'pair'} of: {value_type(arguments[0])}"
    if origin is dict:
        return f"keys of `train`, each with {value_type(arguments[1])}"
    if is_dataclass(annotation):
        keys = ", ".join(f"`{field.name}`" for field in fields(annotation))
        return f"a range of {keys}" if annotation is Range else f"keys {keys}"
    return TYPES[annotation]


def bound(rule: object) -> str:
    """Describe a bound of a number, or return nothing."""
    found = ((sign, getattr(rule, name, None)) for name, sign in BOUNDS.items())
    return " ".join(f"{sign} {value:g}" for sign, value in found if value is not None and value < 2**31)


def on_one_line(value: object) -> str:
    """Write a value as YAML on one line, and shorten it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def environment_page() -> str:
    """List what becomes of the variables and files of the user's shell and home."""
    sections = [
        f"## {kind}\n\n{policy_table(kind, rows)}\n" for kind, rows in (("Variables", VARIABLES), ("Files", FILES))
    ]
    return "\n".join((ENVIRONMENT_INTRODUCTION, *sections))


def policy_table(kind: str, rows: Sequence[Row]) -> str:
    """Build the table of the policy for variables or files."""
    cells = [(row.library, ", ".join(f"`{name}`" for name in row.names), row.rule, row.effect) for row in rows]
    return "\n".join(table(("library", kind.lower(), "rule", "effect"), cells))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Build the lines of a Markdown table."""
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
    ]


PAGES = {"make.md": make_page, "cli.md": cli_page, "params.md": params_page, "environment.md": environment_page}


def generated() -> Iterator[tuple[Path, str]]:
    """Yield the path and text of each generated page."""
    for name, page in PAGES.items():
        yield REFERENCE / name, page()


if __name__ == "__main__":
    for path, text in generated():
        path.write_text(text, encoding="utf-8")
