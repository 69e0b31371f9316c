"""The kinds of values in `params.yaml`, and what every section is."""

from functools import partial
from typing import Annotated, Any, Literal, Self
from unicodedata import normalize

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError


def refuse_truth(value: object) -> object:
    """Raise PydanticCustomError for `true` and `false`, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def refuse_repeated(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raise PydanticCustomError for a name that is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise PydanticCustomError("repeated", "{name} is named twice", {"name": name})
    return names


Label = Annotated[str, AfterValidator(partial(normalize, "NFC"))]  # as folders are, when they are brought in
Labels = Annotated[tuple[Label, ...], Field(min_length=2), AfterValidator(refuse_repeated)]
Number = Annotated[float, BeforeValidator(refuse_truth)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Level = Annotated[Number, Field(ge=0, le=255)]
FORMS: dict[str, str] = {}


def form(pattern: str, words: str) -> Any:
    """A text of this pattern, which complaints put into words."""
    FORMS[pattern] = words
    return Field(pattern=pattern)


Block = Annotated[str, form(r"^(head|all|block_([1-9]|1[0-6]))$", "head, all, or block_1 to block_16")]
Checksum = Annotated[
    str, form(r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$", "md5: and 32 hex digits, or sha256: and 64")
]

Mode = Literal[  # of Pillow, as far as files have them
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B"
]  # fmt: skip

section = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))


@section
class Range:
    """Values between two bounds, drawn evenly, or evenly by their logarithm."""

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def rises(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"low: {self.low}, high: {self.high}: low must be below high, and above 0 with log")
        return self


def refuse_unwritable(value: object) -> object:
    """Raise PydanticCustomError for what is neither a number nor a text, as no value of `train` is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("value_of_train", "Input should be a number or a text")
    return value


Values = Annotated[tuple[Annotated[int | float | str, PlainValidator(refuse_unwritable)], ...], Field(min_length=2)]
Choices = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Values, Tag("list")],
    Discriminator(lambda value: "range" if isinstance(value, dict | Range) else "list"),
]
