"""Typed, frozen parameters from `params.yaml`; unknown keys are refused."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from landuse.core.addresses import ENCODING_HINT, is_ambiguous, public
from landuse.core.errors import LanduseError
from landuse.core.files import CONFLICT_MARKER
from landuse.core.paths import PARAMS
from landuse.params.backbones import BACKBONES
from landuse.params.errors import RENAMED, explain, root_causes, suggestion, yaml_reason
from landuse.params.types import (
    DASK_ADDRESS,
    BackboneName,
    Block,
    Checksum,
    Choices,
    Count,
    Fraction,
    ImageSize,
    Labels,
    Level,
    Mode,
    NetworkParams,
    Number,
    Range,
    Seed,
    Share,
    Weights,
    Width,
    matching,
    section,
)
from landuse.params.yaml_loader import StrictLoader


@section
class DataParams:
    """The source of the images that `landuse ingest` imports, and what the flows do with those that arrive."""

    source: Annotated[str, Field(min_length=1)]
    checksum: Checksum | None
    arrivals: Literal["replace", "add"] = "replace"  # a file from before it existed has none


@section
class ValidateParams:
    """Requirements on the data set and its images."""

    classes: Labels
    images_per_class: Count
    imbalance: Annotated[Number, Field(ge=1)]
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    size: Count
    smallest: Count
    brightness: tuple[Level, Level]
    contrast: Level

    @model_validator(mode="after")
    def check_brightness_range(self) -> Self:
        if self.brightness[0] >= self.brightness[1]:
            raise ValueError(f"validate.brightness = {list(self.brightness)}: the first level must be below the second")
        return self


@section
class ExtractParams:
    """The frozen backbone and how many augmented views of each image it embeds."""

    backbone: BackboneName
    alpha: Width
    image_size: ImageSize
    weights: Weights
    views: Annotated[int, Field(ge=1, le=8, strict=True)]


@section
class SplitParams:
    """The split into train, validation and test."""

    validation: Annotated[Number, Field(gt=0, lt=1)]
    test: Fraction
    cosine: Annotated[Number, Field(gt=0, le=1)]
    hash_distance: Annotated[int, Field(ge=0, le=16, strict=True)]
    seed: Seed

    @model_validator(mode="after")
    def check_train_share(self) -> Self:
        held_out = self.validation + self.test
        if held_out >= 1:
            raise ValueError(f"validation + test = {held_out:g}: must stay below 1, or nothing is left to train on")
        return self


@section
class TrainParams:
    """Hyperparameters of the training, and of the calibrated model it exports."""

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
    target_selective_accuracy: Annotated[Number, Field(gt=0, le=1)]
    tta_views: Annotated[int, Field(ge=1, le=8, strict=True)]
    seed: Seed


@section
class EvaluateParams:
    """Evaluation of the exported model."""

    calibration_bins: Count
    mistakes: Count
    latency_runs: Count


@section
class RegisterParams:
    """Name of the model in the registry."""

    model: Annotated[str, matching(r"^[A-Za-z0-9_.-]+$", "a name of letters, digits, _, . and -")]


@section
class PromoteParams:
    """Thresholds a version must meet to become champion."""

    automatic: Annotated[bool, Field(strict=True)]
    requires: Literal["not_worse", "better"]
    min_images: Count
    min_accuracy: Share
    min_macro_f1: Share
    min_class_recall: Share
    min_slice_accuracy: Share
    min_slice_images: Count
    families: tuple[Labels, ...]
    max_calibration_error: Share
    max_disturbed_fall: Share
    margin: Share
    significance: Share
    max_class_fall: Share
    max_coverage_fall: Share
    max_shrinkage: Share
    max_latency_ms: Annotated[Number, Field(gt=0)]
    max_size_mb: Annotated[Number, Field(gt=0)]


@section
class TuneParams:
    """The search of `landuse tune`: its size, where it is kept, and the keys of `train` with the values to try."""

    trials: Count
    storage: str | None = None  # a file from before it existed has none
    space: Annotated[dict[str, Choices], Field(min_length=1)]

    @model_validator(mode="after")
    def check_storage(self) -> Self:
        if self.storage is not None and (not self.storage.startswith("postgresql://") or is_ambiguous(self.storage)):
            allowed = f"String should be as postgresql://host/database; {ENCODING_HINT}"
            raise ValueError(f"tune.storage = {public(self.storage)!r}: {allowed}")
        return self


@section
class StudyParams:
    """The networks that `landuse study` trains on the same images, the first of which the others are compared with."""

    networks: Annotated[tuple[NetworkParams, ...], Field(min_length=2)] = ()


@section
class ServeParams:
    """Settings of `landuse serve`: following the champion, and logging predictions."""

    follow_seconds: Annotated[Number, Field(gt=0)]
    log: Annotated[str, Field(min_length=1)] | None


@section
class ComputeParams:
    """Workers that validate, extract and predict send their work on images to; no result depends on them."""

    address: Annotated[str, matching(DASK_ADDRESS, "tcp://<host>:<port>, or tls://")] | None
    images: Literal["folder", "remote"]


@section
class PipelinesParams:
    """Timeouts, retries and notifications of the flows in `pipelines/`; no result depends on them."""

    fetch_minutes: Annotated[Number, Field(gt=0)]
    retry_seconds: Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Field(max_length=10)]
    settle_seconds: Annotated[Number, Field(ge=0)]
    notify: Annotated[str, matching(r"^[a-z0-9-]+/[a-z0-9-]+$", "<type>/<name> of a block")] | None


NOT_TUNABLE = frozenset({"tta_views", "target_selective_accuracy"})  # they take effect after a trial is scored


def check_candidate(train: TrainParams, key: str, value: Any) -> None:
    """Raise ValueError if a key of `tune.space` cannot be tuned, or `train` would not accept the value."""
    if new_name := RENAMED.get(f"train.{key}"):
        raise ValueError(f"tune.space.{key}: renamed to {new_name.replace('train', 'tune.space')}")
    if key not in TrainParams.__dataclass_fields__:
        raise ValueError(f"tune.space.{key}: not a key of train{suggestion(key, TrainParams)}")
    if key == "seed":
        raise ValueError("tune.space.seed: the best of several seeds is luck that does not repeat")
    if key in NOT_TUNABLE:
        raise ValueError(f"tune.space.{key}: the score of a trial does not depend on it")
    try:
        validated = getattr(replace(train, **{key: value}), key)
    except ValidationError as error:
        raise ValueError(f"tune.space.{explain(error.errors()[0], TrainParams)}") from None
    if validated != value:
        raise ValueError(f"tune.space.{key} = {value!r}: YAML reads that as text; write {validated!r}")


def check_network(extract: ExtractParams, unfreeze_from: str, cut_prefix: str, prefix: str) -> None:
    """Raise ValueError if there is no such block, or Keras has no such width, or untrained layers would be frozen.

    The prefixes stand before the keys in the message.
    """
    spec, block = BACKBONES[extract.backbone], unfreeze_from.removeprefix("block_")
    if block.isdigit() and int(block) > spec.blocks:
        raise ValueError(f"{cut_prefix}unfreeze_from = block_{block}: {extract.backbone} ends at block_{spec.blocks}")
    if extract.weights == "none" and unfreeze_from != "all":
        raise ValueError(f"{prefix}weights = none: an untrained backbone needs {cut_prefix}unfreeze_from = all")
    if not spec.widths and extract.alpha != 1:
        raise ValueError(f"{prefix}alpha = {extract.alpha:g}: {extract.backbone} has one width only, 1.0")
    if extract.weights == "imagenet" and spec.widths and extract.alpha not in spec.widths:
        widths = ", ".join(map(str, spec.widths))
        raise ValueError(
            f"{prefix}alpha = {extract.alpha:g}: Keras has ImageNet weights of {extract.backbone} for {widths}"
        )


@section
class Params:
    """One section for each step, for the server and for the flows; code is passed its own section only."""

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
    study: StudyParams = StudyParams()  # a file from before it existed has none
    compute: ComputeParams = ComputeParams(address=None, images="folder")  # likewise

    @model_validator(mode="after")
    def check_network_exists(self) -> Self:
        check_network(self.extract, self.train.unfreeze_from, "train.", "extract.")
        return self

    @model_validator(mode="after")
    def check_networks_of_the_study(self) -> Self:
        for number, network in enumerate(self.study.networks):
            check_network(*self.with_network(network), *2 * (f"study.networks.{number}.",))
        return self

    @model_validator(mode="after")
    def check_views_are_cached(self) -> Self:
        wanted, cached = self.train.tta_views, self.extract.views
        if wanted > cached and self.train.unfreeze_from != "all":
            raise ValueError(f"train.tta_views = {wanted}: no more than extract.views = {cached}")
        return self

    @model_validator(mode="after")
    def check_search_space(self) -> Self:
        for key, values in self.tune.space.items():
            if isinstance(values, Range) and isinstance(getattr(self.train, key, None), int):
                raise ValueError(f"tune.space.{key}: a range has no whole numbers; list them, as in [5, 10, 20]")
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                check_candidate(self.train, key, value)
        return self

    @model_validator(mode="after")
    def check_families(self) -> Self:
        unknown = sorted({label for family in self.promote.families for label in family} - {*self.validate.classes})
        if unknown:
            are = "is" if len(unknown) == 1 else "are"
            raise ValueError(f"promote.families: {', '.join(unknown)} {are} not in validate.classes; [] names none")
        return self

    def with_network(self, network: NetworkParams) -> tuple[ExtractParams, str]:
        """Return `extract` and `train.unfreeze_from` with the keys that a network of the study replaces."""
        replaced = {key: value for key, value in asdict(network).items() if value is not None}
        unfreeze_from = replaced.pop("unfreeze_from", self.train.unfreeze_from)
        return replace(self.extract, **replaced), unfreeze_from


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate a params file.

    Raises LanduseError naming the file, the key, its value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if CONFLICT_MARKER in text:
            raise LanduseError(
                f"{path} has both sides of a merge: keep one of them where {CONFLICT_MARKER.strip()} stands"
            )
        content = yaml.load(text, StrictLoader)
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
            f"{path}: " + "; ".join(explain(problem, Params) for problem in root_causes(error.errors()))
        ) from None
