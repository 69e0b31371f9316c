"""What is wrong with `params.yaml`, in words: the key, its value, and what is allowed."""

from datetime import date
from difflib import get_close_matches
from typing import Any

from landuse.core.errors import one_line
from landuse.params.types import FORMS, Range

SPACE = ["tune", "space"]
QUOTED = (bool, int, float, date)  # what a name may look like without quotes


def yaml_reason(error: Exception) -> str:
    """Why a text is no YAML, with line and column, but without the line itself: there may be a password in it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return one_line(error)
    reason = ", ".join(filter(None, (error.context, error.problem)))
    return f"{one_line(reason)} in line {mark.line + 1}, column {mark.column + 1}"


def causes(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The problems without those of lists that are too short only because some of what is listed is wrong."""
    wrong = {problem["loc"][:-1] for problem in problems}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in wrong]


def explain(problem: dict[str, Any], params: type) -> str:
    """One pydantic problem of the params as `key = value: what is allowed`."""
    keys = [str(key) for key in problem["loc"]]
    if keys[:2] == SPACE:
        del keys[3:4]  # which kind of choices it is taken for: that stands in no file
    key = ".".join(keys)
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key}: unknown key{suggestion(keys[-1], owner(keys, params))}"
    if problem["type"] == "missing":
        return f"{key}: missing; presets/sample.yaml shows every key"
    if problem["type"] == "string_pattern_mismatch":
        return f"{key} = {problem['input']!r}: String should be {FORMS[problem['ctx']['pattern']]}"
    if problem["type"] == "string_type" and isinstance(problem["input"], QUOTED):
        return f"{key} = {problem['input']!s}: String should be in quotes, or YAML takes it for something else"
    message = problem["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    if problem["type"] == "value_error":
        return message if not key or message.startswith(keys[0]) else f"{key}: {message}"
    return f"{key} = {problem['input']!r}: {message}" if key else message


def owner(keys: list[str], params: type) -> type:
    """What a key would belong to: the params, a section of them, or a range of `tune.space`."""
    if keys[:2] == SPACE:
        return Range
    return params if len(keys) == 1 else params.__dataclass_fields__[keys[0]].type


def suggestion(key: str, section: type) -> str:
    """The keys that a section has, beside one that it has not: the likeliest, or all."""
    allowed = list(section.__dataclass_fields__)
    close = get_close_matches(key, allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (allowed: {', '.join(allowed)})"
