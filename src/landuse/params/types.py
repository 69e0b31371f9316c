"""Value types of `params.yaml`, and the decorator that makes a class a section of it."""

from collections.abc import Hashable
from functools import partial
from typing import Annotated, Any, Literal, Self, TypeVar, dataclass_transform
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

from landuse.params.backbones import BACKBONES

SectionClass = TypeVar("SectionClass")


def refuse_bool(value: object) -> object:
    """Raise PydanticCustomError for `true` and `false`, which Python would accept as 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def refuse_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raise PydanticCustomError if a name is listed twice."""
    for name in names:
        if names.count(name) > 1:
            raise PydanticCustomError("repeated", "{name} is named twice", {"name": name})
    return names


Label = Annotated[str, AfterValidator(partial(normalize, "NFC"))]  # ingest normalizes folder names the same way
Labels = Annotated[tuple[Label, ...], Field(min_length=2), AfterValidator(refuse_duplicates)]
Number = Annotated[float, BeforeValidator(refuse_bool)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Level = Annotated[Number, Field(ge=0, le=255)]
PATTERN_DESCRIPTIONS: dict[str, str] = {}
DASK_ADDRESS = r"^(tcp|tls)://[^/@\s]+:\d+$"


def matching(pattern: str, description: str) -> Any:
    """Return a pydantic field for text of this pattern; error messages show the description instead of the pattern."""
    PATTERN_DESCRIPTIONS[pattern] = description
    return Field(pattern=pattern)


def known_backbone(name: str) -> str:
    """Return the name of a backbone. Raises PydanticCustomError if there is none of this name."""
    if name not in BACKBONES:
        raise PydanticCustomError("backbone", "Input should be one of {names}", {"names": ", ".join(BACKBONES)})
    return name


BackboneName = Annotated[str, AfterValidator(known_backbone)]
Block = Annotated[str, matching(r"^(head|all|block_[1-9][0-9]?)$", "head, all, or block_1, block_2 and so on")]
Width = Annotated[Number, Field(gt=0, le=2)]
ImageSize = Annotated[int, Field(ge=32, le=1024, multiple_of=32, strict=True)]
Weights = Annotated[str, Field(min_length=1)]
Checksum = Annotated[
    str, matching(r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$", "md5: and 32 hex digits, or sha256: and 64")
]

Mode = Literal[  # the modes of Pillow that occur in image files
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B"
]  # fmt: skip


@dataclass_transform(kw_only_default=True, frozen_default=True)
def section(cls: type[SectionClass]) -> type[SectionClass]:
    """Class decorator for a section: a frozen, validated dataclass that refuses unknown keys."""
    decorate = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    return decorate(cls)  # type: ignore[return-value]  # typed as another class, but it is this one


@section
class Range:
    """A search range, sampled uniformly between `low` and `high`, or log-uniformly with `log`."""

    low: Number
    high: Number
    log: bool = False

    @model_validator(mode="after")
    def check_order(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"low: {self.low}, high: {self.high}: low must be below high, and above 0 with log")
        return self


def refuse_non_scalar(value: object) -> object:
    """Raise PydanticCustomError unless the value is a number or text, as every value of `train` is."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError("value_of_train", "Input should be a number or text")
    return value


def kind_of_choices(value: object) -> Hashable:
    """Return the pydantic tag, `range` or `list`, by which an entry of `tune.space` is validated."""
    return "range" if isinstance(value, dict | Range) else "list"


Values = Annotated[tuple[Annotated[int | float | str, PlainValidator(refuse_non_scalar)], ...], Field(min_length=2)]
Choices = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Values, Tag("list")],
    Discriminator(kind_of_choices),
]


@section
class NetworkParams:
    """A network of a study: keys of `extract`, and `train.unfreeze_from`; what is missing is taken from there."""

    backbone: BackboneName | None = None
    alpha: Width | None = None
    image_size: ImageSize | None = None
    weights: Weights | None = None
    unfreeze_from: Block | None = None
