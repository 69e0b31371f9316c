"""Validation errors of `params.yaml` in words: the key, its value, and what is allowed."""

from dataclasses import fields
from datetime import date
from difflib import get_close_matches
from typing import TYPE_CHECKING, get_type_hints

from pydantic_core import ErrorDetails
from yaml import MarkedYAMLError

from landuse.core.errors import one_line
from landuse.params.types import PATTERN_DESCRIPTIONS, NetworkParams, Range

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SPACE, NETWORKS = ["tune", "space"], ["study", "networks"]
NEED_QUOTES = (bool, int, float, date)  # types that YAML may read an unquoted name as
RENAMED = {  # keys of earlier versions
    "train.sure_accuracy": "train.target_selective_accuracy",
    "train.averaged_views": "train.tta_views",
    "promote.images": "promote.min_images",
    "promote.accuracy": "promote.min_accuracy",
    "promote.macro_f1": "promote.min_macro_f1",
    "promote.class_recall": "promote.min_class_recall",
    "promote.slice_accuracy": "promote.min_slice_accuracy",
    "promote.slice_images": "promote.min_slice_images",
    "promote.calibration_error": "promote.max_calibration_error",
    "promote.disturbed_fall": "promote.max_disturbed_fall",
    "promote.class_fall": "promote.max_class_fall",
    "promote.latency_ms": "promote.max_latency_ms",
    "promote.size_mb": "promote.max_size_mb",
}


def yaml_reason(error: Exception) -> str:
    """Describe a YAML error by line and column, without quoting the line: it may hold a password."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return one_line(error)
    reason = ", ".join(filter(None, (error.context, error.problem)))
    return f"{one_line(reason)} in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"


def root_causes(problems: list[ErrorDetails]) -> list[ErrorDetails]:
    """Drop problems that only follow from others.

    A list is too short because one of its entries is wrong; a key is missing because it has its old name.
    """
    wrong = {problem["loc"][:end] for problem in problems for end in range(1, len(problem["loc"]))}
    unknown = {key_of(problem) for problem in problems if problem["type"] == "unexpected_keyword_argument"}
    new_names = {RENAMED[key] for key in unknown & RENAMED.keys()}
    return [
        problem
        for problem in problems
        if not (problem["type"] == "too_short" and problem["loc"] in wrong)
        and not (problem["type"] == "missing" and key_of(problem) in new_names)
    ]


def key_of(problem: ErrorDetails) -> str:
    """Return the dotted key that a pydantic problem is about."""
    keys = [str(key) for key in problem["loc"]]
    if keys[:2] == SPACE:
        del keys[3:4]  # pydantic's tag of the kind of choices, which is not in the file
    return ".".join(keys)


def explain(problem: ErrorDetails, params: type["DataclassInstance"]) -> str:
    """Describe a pydantic problem as `key = value: what is allowed`."""
    key = key_of(problem)
    keys = key.split(".")
    if problem["type"] == "unexpected_keyword_argument":
        if key in RENAMED:
            return f"{key}: renamed to {RENAMED[key]}"
        return f"{key}: unknown key{suggestion(keys[-1], owning_class(keys, params))}"
    if problem["type"] == "missing":
        return f"{key}: missing; presets/sample.yaml shows every key"
    if problem["type"] == "too_short" and keys == NETWORKS:
        return f"{key}: name at least two networks to compare"
    if problem["type"] == "string_pattern_mismatch":
        return f"{key} = {problem['input']!r}: String should be {PATTERN_DESCRIPTIONS[problem['ctx']['pattern']]}"
    if problem["type"] == "string_type" and isinstance(problem["input"], NEED_QUOTES):
        return f"{key} = {problem['input']!s}: String should be in quotes, or YAML takes it for something else"
    message = problem["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    if problem["type"] == "value_error":
        return message if not key or message.startswith(keys[0]) else f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message}" if key else message


def owning_class(keys: list[str], params: type["DataclassInstance"]) -> type["DataclassInstance"]:
    """Return the dataclass that should have had a key: the params, a section of them, or an entry of a section."""
    if keys[:2] == SPACE:
        return Range
    if keys[:2] == NETWORKS:
        return NetworkParams
    section: type[DataclassInstance] = params if len(keys) == 1 else get_type_hints(params)[keys[0]]
    return section


def suggestion(key: str, section: type["DataclassInstance"]) -> str:
    """Suggest the closest allowed key in place of an unknown one, or list all of them if none is close."""
    allowed = [field.name for field in fields(section)]
    close = get_close_matches(key, allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (allowed: {', '.join(allowed)})"
