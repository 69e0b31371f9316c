"""`params.yaml`, loaded once: typed, frozen, unknown keys refused."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from landuse.core.errors import LanduseError
from landuse.core.files import BOTH_SIDES
from landuse.core.paths import PARAMS
from landuse.params.errors import causes, explain, suggestion, yaml_reason
from landuse.params.types import (
    Block,
    Checksum,
    Choices,
    Count,
    Fraction,
    Labels,
    Level,
    Mode,
    Number,
    Range,
    Seed,
    Share,
    form,
    section,
)


@section
class DataParams:
    """Where `landuse ingest` takes the images from."""

    source: Annotated[str, Field(min_length=1)]
    checksum: Checksum | None


@section
class ValidateParams:
    """What the images must look like to be let in."""

    classes: Labels
    images_per_class: Count
    imbalance: Annotated[Number, Field(ge=1)]
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    size: Count
    smallest: Count
    brightness: tuple[Level, Level]
    contrast: Level

    @model_validator(mode="after")
    def has_a_range_of_brightness(self) -> Self:
        if self.brightness[0] >= self.brightness[1]:
            raise ValueError(f"validate.brightness = {list(self.brightness)}: the first level must be below the second")
        return self


@section
class ExtractParams:
    """The backbone, and the views of each image it looks at."""

    backbone: Literal["mobilenet_v2", "mobilenet"]
    alpha: Annotated[Number, Field(gt=0, le=2)]
    image_size: Annotated[int, Field(ge=32, le=1024, multiple_of=32, strict=True)]
    weights: Annotated[str, Field(min_length=1)]
    views: Annotated[int, Field(ge=1, le=8, strict=True)]


@section
class SplitParams:
    """How the images are divided into train, validation and test."""

    validation: Annotated[Number, Field(gt=0, lt=1)]
    test: Fraction
    cosine: Annotated[Number, Field(gt=0, le=1)]
    hash_distance: Annotated[int, Field(ge=0, le=16, strict=True)]
    seed: Seed

    @model_validator(mode="after")
    def leaves_something_to_train_on(self) -> Self:
        held_out = self.validation + self.test
        if held_out >= 1:
            raise ValueError(f"validation + test = {held_out:g}: must stay below 1, or nothing is left to train on")
        return self


@section
class TrainParams:
    """What is trained, and how."""

    unfreeze_from: Block
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[Number, Field(gt=0)]
    warmup: Fraction
    weight_decay: Annotated[Number, Field(ge=0)]
    label_smoothing: Fraction
    mixup: Annotated[Number, Field(ge=0)]
    dropout: Fraction
    patience: Count
    sure_accuracy: Annotated[Number, Field(gt=0, le=1)]
    averaged_views: Annotated[int, Field(ge=1, le=8, strict=True)]
    seed: Seed


@section
class EvaluateParams:
    """How the exported model is judged."""

    calibration_bins: Count
    mistakes: Count
    latency_runs: Count


@section
class RegisterParams:
    """Under which name the model is registered."""

    model: Annotated[str, form(r"^[A-Za-z0-9_.-]+$", "a name of letters, digits, _, . and -")]


@section
class PromoteParams:
    """What a version must show to become champion."""

    automatic: Annotated[bool, Field(strict=True)]
    images: Count
    accuracy: Share
    macro_f1: Share
    class_recall: Share
    slice_accuracy: Share
    slice_images: Count
    families: tuple[Labels, ...]
    calibration_error: Share
    disturbed_fall: Share
    margin: Share
    significance: Share
    class_fall: Share
    latency_ms: Annotated[Number, Field(gt=0)]
    size_mb: Annotated[Number, Field(gt=0)]


@section
class TuneParams:
    """What `landuse tune` tries: keys of `train`, each with a range or a list of values."""

    trials: Count
    space: Annotated[dict[str, Choices], Field(min_length=1)]


@section
class ServeParams:
    """How `landuse serve` follows the champion, and where its answers are kept."""

    follow_seconds: Annotated[Number, Field(gt=0)]
    log: Annotated[str, Field(min_length=1)] | None


@section
class PipelinesParams:
    """How the flows of `pipelines/` wait, try again and tell; nothing of it changes a result."""

    fetch_minutes: Annotated[Number, Field(gt=0)]
    retry_seconds: Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Field(max_length=10)]
    settle_seconds: Annotated[Number, Field(ge=0)]
    notify: Annotated[str, form(r"^[a-z0-9-]+/[a-z0-9-]+$", "<type>/<name> of a block")] | None


UNSCORED = frozenset({"averaged_views", "sure_accuracy"})  # what trials have in common, or is looked at afterwards


def refuse_untrainable(train: TrainParams, key: str, value: object) -> None:
    """Raise ValueError where a key of `tune.space` is none of `train`, or `train` would not take a value of it."""
    if key not in TrainParams.__dataclass_fields__:
        raise ValueError(f"tune.space.{key}: no key of train{suggestion(key, TrainParams)}")
    if key == "seed":
        raise ValueError("tune.space.seed: the best of several seeds is luck, which no other training has")
    if key in UNSCORED:
        raise ValueError(f"tune.space.{key}: the score of a trial does not depend on it")
    try:
        taken = getattr(replace(train, **{key: value}), key)
    except ValidationError as error:
        raise ValueError(f"tune.space.{explain(error.errors()[0], TrainParams)}") from None
    if taken != value:
        raise ValueError(f"tune.space.{key} = {value!r}: YAML takes that for a text; write {taken!r}")


BLOCKS = {"mobilenet_v2": 16, "mobilenet": 13}


@section
class Params:
    """One section per step, one for the server, one for the flows; a step is given its own section."""

    data: DataParams
    validate: ValidateParams
    extract: ExtractParams
    split: SplitParams
    train: TrainParams
    evaluate: EvaluateParams
    register: RegisterParams
    promote: PromoteParams
    tune: TuneParams
    serve: ServeParams
    pipelines: PipelinesParams

    @model_validator(mode="after")
    def unfreezes_a_block_the_backbone_has(self) -> Self:
        block = self.train.unfreeze_from.removeprefix("block_")
        last = BLOCKS[self.extract.backbone]
        if block.isdigit() and int(block) > last:
            raise ValueError(f"train.unfreeze_from = block_{block}: {self.extract.backbone} ends at block_{last}")
        return self

    @model_validator(mode="after")
    def averages_views_that_are_extracted(self) -> Self:
        wanted, cached = self.train.averaged_views, self.extract.views
        if wanted > cached and self.train.unfreeze_from != "all":
            raise ValueError(f"train.averaged_views = {wanted}: no more than extract.views = {cached}")
        return self

    @model_validator(mode="after")
    def tries_what_train_would_take(self) -> Self:
        for key, values in self.tune.space.items():
            if isinstance(values, Range) and isinstance(getattr(self.train, key, None), int):
                raise ValueError(f"tune.space.{key}: a range is not of whole numbers; list them, as [5, 10, 20]")
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                refuse_untrainable(self.train, key, value)
        return self

    @model_validator(mode="after")
    def has_families_of_its_own_classes(self) -> Self:
        strangers = sorted({label for family in self.promote.families for label in family} - {*self.validate.classes})
        if strangers:
            are = "is" if len(strangers) == 1 else "are"
            raise ValueError(f"promote.families: {', '.join(strangers)} {are} not in validate.classes; [] names none")
        return self

    @model_validator(mode="after")
    def does_not_freeze_what_never_learned(self) -> Self:
        if self.extract.weights == "none" and self.train.unfreeze_from != "all":
            raise ValueError("extract.weights = none: a backbone that never learned needs train.unfreeze_from = all")
        return self


class Unambiguous(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, and so is a number that is another one in DVC's YAML 1.2.

    Usually the second key would win, and 010 be eight here and ten there, without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A section. Raises ConstructorError for a second value of a key."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for key, _ in reversed(node.value) if keys.count(key.value) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice.value} stands there twice", twice.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number. Raises ConstructorError for one that begins with 0, or has the base 60."""
        if re.search(r"^[-+]?0_*\d|:", node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not the same number in every YAML: write it in decimal", node.start_mark
            )
        return super().construct_yaml_int(node)


Unambiguous.add_constructor("tag:yaml.org,2002:int", Unambiguous.construct_yaml_int)


def load_params(path: Path = PARAMS) -> Params:
    """Read and check a params file.

    Raises LanduseError naming the file, the key's path, the value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if BOTH_SIDES in text:
            raise LanduseError(f"{path} has both sides of a merge: keep one of them where {BOTH_SIDES.strip()} stands")
        content = yaml.load(text, Unambiguous)
    except FileNotFoundError:
        raise LanduseError(f"{path} is not here: run landuse in the project's folder") from None
    except OSError as error:
        raise LanduseError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise LanduseError(f"{path} is not valid YAML: {yaml_reason(error)}") from None
    if not isinstance(content, dict):
        raise LanduseError(f"{path} holds no sections: start from presets/sample.yaml")
    try:
        return TypeAdapter(Params).validate_python(content)
    except ValidationError as error:
        raise LanduseError(
            f"{path}: " + "; ".join(explain(problem, Params) for problem in causes(error.errors()))
        ) from None
