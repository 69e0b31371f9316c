"""params.yaml is validated strictly as a whole, and refused with one line that says what is wrong."""

import re
from dataclasses import FrozenInstanceError, asdict
from datetime import date
from pathlib import Path
from unicodedata import normalize

import pytest
import yaml

from landuse.core.errors import LanduseError
from landuse.params import Params, load_params
from landuse.params.backbones import BACKBONES
from landuse.params.errors import RENAMED

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
SECTIONS = {name: list(field.type.__dataclass_fields__) for name, field in Params.__dataclass_fields__.items()}


def changed(path: Path, key: str, value: object) -> Path:
    """Write the sample preset with one key, such as `train.epochs`, set to another value."""
    content = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text("utf-8"))
    *sections, name = key.split(".")
    (content[sections[0]] if sections else content)[name] = value
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def refusal(path: Path) -> str:
    """Return the one-line error with which a file is refused, without its path."""
    with pytest.raises(LanduseError) as caught:
        load_params(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message.replace(f"{path}: ", "")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_loads_and_has_every_section_and_key_in_order(preset: Path) -> None:
    content = yaml.safe_load(preset.read_text("utf-8"))
    assert {name: list(keys) for name, keys in content.items()} == SECTIONS and list(content) == list(SECTIONS)
    assert set(asdict(load_params(preset))) == set(content)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_key_of_a_preset_has_a_comment(preset: Path) -> None:
    lines = re.sub(r"\n {3,}", " ", preset.read_text("utf-8")).splitlines()
    keys = [line for line in lines if line.startswith("  ")]
    assert len(keys) == sum(map(len, SECTIONS.values()))
    assert [line.split(":")[0].strip() for line in keys if "#" not in line] == []


def test_the_params_of_the_project_are_the_sample_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / "sample.yaml").read_bytes()


def test_a_number_may_be_written_in_scientific_notation(tmp_path: Path) -> None:
    text = (ROOT / "presets" / "sample.yaml").read_text("utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 1e-3", text, count=1), "utf-8")
    assert load_params(path).train.learning_rate == 0.001


def test_a_class_name_that_yaml_reads_as_another_type_needs_quotes(tmp_path: Path) -> None:
    words = "validate.classes.{} = {}: String should be in quotes, or YAML takes it for something else"
    for position, name in enumerate((1, 2.5, True, date(2026, 1, 1))):
        names = ["field", "water"]
        names.insert(position % 3, name)
        complaint = refusal(changed(tmp_path / "params.yaml", "validate.classes", names))
        assert complaint.split("; promote")[0] == words.format(position % 3, name)
    assert refusal(changed(tmp_path / "params.yaml", "validate.classes", [1, "field"])).count("validate.classes") == 1


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("validate.classes", ["a", "b", "a"], "validate.classes"),
        ("promote.families", [["a", "a"]], "promote.families.0"),
    ],
)
def test_a_class_that_is_listed_twice_is_refused(tmp_path: Path, key: str, value: list, where: str) -> None:
    assert f"{where} = {value if where == key else value[0]}: a is named twice" in refusal(
        changed(tmp_path / "params.yaml", key, value)
    )


def test_an_unresolved_merge_conflict_is_reported_as_one(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data:\n<<<<<<< HEAD\n  source: a\n=======\n  source: b\n>>>>>>> theirs\n")
    assert refusal(path).endswith("params.yaml has both sides of a merge: keep one of them where <<<<<<< stands")


def test_loaded_params_cannot_be_changed() -> None:
    params = load_params(PRESETS[0])
    with pytest.raises(FrozenInstanceError):
        params.train.epochs = 3
    with pytest.raises(FrozenInstanceError):
        params.train = None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.learning_rat", "train.learning_rat: unknown key (did you mean learning_rate?)"),
        ("extract.width", "extract.width: unknown key (allowed: backbone, alpha, image_size, weights, views)"),
        ("trian", "trian: unknown key (did you mean train?)"),
        ("gate", f"gate: unknown key (allowed: {', '.join(SECTIONS)})"),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_or_all_allowed_keys(tmp_path: Path, key: str, words: str) -> None:
    assert refusal(changed(tmp_path / "params.yaml", key, 1)) == words


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"learning_rat": [1, 2]}, "tune.space.learning_rat: not a key of train (did you mean learning_rate?)"),
        ({"tta_views": [1, 2]}, "tune.space.tta_views: the score of a trial does not depend on it"),
        ({"seed": [1, 2]}, "tune.space.seed: the best of several seeds is luck that does not repeat"),
        ({"epochs": [0, 5]}, "tune.space.epochs = 0: Input should be greater than or equal to 1"),
        ({}, "tune.space = {}: Dictionary should have at least 1 item after validation, not 0"),
        (
            {"dropout": [0.1]},
            "tune.space.dropout = [0.1]: List should have at least 2 items after validation, not 1",
        ),
        (
            {"dropout": {"low": 0.5, "high": 0.1}},
            "tune.space.dropout: low: 0.5, high: 0.1: low must be below high, and above 0 with log",
        ),
        ({"dropout": 0.1}, "tune.space.dropout = 0.1: Input should be a valid list"),
        ({"dropout": {"low": 0, "high": 1, "logs": True}}, "tune.space.dropout.logs: unknown key (did you mean log?)"),
        ({"dropout": {"low": 0, "high": 1}}, "tune.space.dropout = 1.0: Input should be less than 1"),
        ({"dropout": [True, 0.1]}, "tune.space.dropout.0 = True: Input should be a number or text"),
        ({"dropout": [None, 0.1]}, "tune.space.dropout.0 = None: Input should be a number or text"),
        (
            {"unfreeze_from": ["head", "block"]},
            "tune.space.unfreeze_from = 'block': String should be head, all, or block_1, block_2 and so on",
        ),
        ({"dropout": ["1e-3", 0.1]}, "tune.space.dropout = '1e-3': YAML reads that as text; write 0.001"),
        (
            {"epochs": {"low": 5, "high": 20}},
            "tune.space.epochs: a range has no whole numbers; list them, as in [5, 10, 20]",
        ),
    ],
)
def test_a_search_space_with_values_that_train_would_refuse_is_refused(tmp_path: Path, space: dict, words: str) -> None:
    assert refusal(changed(tmp_path / "params.yaml", "tune.space", space)) == words


@pytest.mark.parametrize("old", RENAMED)
def test_the_old_name_of_a_key_is_refused_with_the_new_name(tmp_path: Path, old: str) -> None:
    path = tmp_path / "params.yaml"
    section, name = RENAMED[old].split(".")
    content = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text("utf-8"))
    content[section][old.removeprefix(f"{section}.")] = content[section].pop(name)
    path.write_text(yaml.safe_dump(content), "utf-8")
    assert refusal(path) == f"{old}: renamed to {section}.{name}"


@pytest.mark.parametrize(
    ("old", "new"), [("averaged_views", "tta_views"), ("sure_accuracy", "target_selective_accuracy")]
)
def test_the_old_name_of_a_key_in_a_search_space_is_refused_with_the_new_name(
    tmp_path: Path, old: str, new: str
) -> None:
    path = changed(tmp_path / "params.yaml", "tune.space", {old: [1, 2]})
    assert refusal(path) == f"tune.space.{old}: renamed to tune.space.{new}"


WRONG_VALUES = {
    "data.source": ["", None, 3],
    "data.checksum": ["md5:xyz", "0" * 32],
    "data.arrivals": ["append", True],
    "validate.classes": [[], ["field"], "field", None],
    "validate.images_per_class": [0, "many"],
    "validate.imbalance": [0.5],
    "validate.modes": [[], ["rgb"]],
    "validate.brightness": [[10, 300], [-1, 20], [1, 2, 3], "dark"],
    "validate.contrast": [256],
    "extract.backbone": ["resnet", None],
    "extract.alpha": [0, -1, 3, "wide", float("nan")],
    "extract.image_size": [100, 0, 2048],
    "extract.weights": ["", None],
    "extract.views": [0, 9],
    "split.validation": [0, 1, "a fifth"],
    "split.test": [-0.1, 1],
    "split.cosine": [0, 1.1, True],
    "split.hash_distance": [-1, 17],
    "split.seed": [-1, 1.5, 2**31],
    "train.unfreeze_from": ["block_0", "block_100", "blok_3", "head ", None],
    "train.epochs": [0, 2.5, "ten", None, 2**63],
    "train.batch_size": [0],
    "train.learning_rate": [0, True, -0.1, float("inf"), float("nan")],
    "train.warmup": [1, -0.1],
    "train.weight_decay": [-1],
    "train.label_smoothing": [1],
    "train.mixup": [-0.1],
    "train.dropout": [1, -0.5],
    "train.patience": [0],
    "train.target_selective_accuracy": [0, 1.1, "all"],
    "train.tta_views": [0, 9],
    "evaluate.calibration_bins": [0],
    "evaluate.mistakes": [0],
    "evaluate.latency_runs": [0],
    "register.model": ["", "a b", "a/b", None],
    "promote.automatic": [1, "yes", None],
    "promote.min_images": [0],
    "promote.min_accuracy": [-0.1, 1.1, 95],
    "promote.min_macro_f1": [2],
    "promote.min_class_recall": [-1],
    "promote.min_slice_accuracy": [1.5],
    "promote.min_slice_images": [0],
    "promote.families": ["field", [["alone"]]],
    "promote.max_disturbed_fall": [-0.1],
    "promote.max_calibration_error": [float("nan")],
    "promote.margin": [-0.1],
    "promote.significance": [5],
    "promote.max_class_fall": [-0.1],
    "promote.max_latency_ms": [0],
    "tune.trials": [0],
    "tune.storage": [3, "sqlite:///study.db", "artifacts/study.db"],
    "promote.max_size_mb": [0, "small"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_VALUES.items() for value in values])
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(tmp_path: Path, key: str, value: object) -> None:
    message = refusal(changed(tmp_path / "params.yaml", key, value))
    assert re.match(rf"{re.escape(key)}(\.\d)? = ", message) and re.search(
        ": (Input|String|List|Value) should ", message
    )
    assert repr(value) in message or isinstance(value, list)


def test_every_mistake_is_reported_not_only_the_first(tmp_path: Path) -> None:
    content = yaml.safe_load(changed(tmp_path / "params.yaml", "train.epochs", 0).read_text("utf-8"))
    content["split"]["tset"] = 0.1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), "utf-8")
    message = refusal(tmp_path / "params.yaml")
    assert "train.epochs = 0" in message and "split.tset: unknown key (did you mean test?)" in message


def test_a_block_beyond_the_end_of_the_backbone_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load(changed(tmp_path / "params.yaml", "train.unfreeze_from", "block_14").read_text("utf-8"))
    assert load_params(tmp_path / "params.yaml").train.unfreeze_from == "block_14"
    content["extract"]["backbone"] = "mobilenet"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), "utf-8")
    assert refusal(tmp_path / "params.yaml") == "train.unfreeze_from = block_14: mobilenet ends at block_13"


def test_a_family_of_unknown_classes_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path / "params.yaml", "promote.families", [["forest", "farmland", "desert"]])
    assert refusal(path) == "promote.families: desert is not in validate.classes; [] names none"


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.3)])
def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path: Path, shares: tuple[float, float]) -> None:
    content = yaml.safe_load(changed(tmp_path / "params.yaml", "split.validation", shares[0]).read_text("utf-8"))
    content["split"]["test"] = shares[1]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), "utf-8")
    assert f"split: validation + test = {sum(shares):g}: must stay below 1" in refusal(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([{}], "study.networks: name at least two networks to compare"),
        ([{}, {"backbone": "resnet"}], "study.networks.1.backbone = 'resnet': Input should be one of mobilenet_v2, "),
        ([{}, {"image_size": 100}], "study.networks.1.image_size = 100: Input should be a multiple of 32"),
        ([{}, {"views": 2}], "study.networks.1.views: unknown key (allowed: backbone, alpha, image_size, "),
        ([{}, {"backbone": "mobilenet", "unfreeze_from": "block_14"}], "block_14: mobilenet ends at block_13"),
        ([{}, {"weights": "none"}], "study.networks.1.weights = none: an untrained backbone needs study.networks.1."),
        (
            [{}, {"alpha": 0.6, "weights": "imagenet"}],
            "study.networks.1.alpha = 0.6: Keras has ImageNet weights of mobilenet_v2 for 0.35, 0.5, 0.75, 1.0, 1.3",
        ),
        (
            [{}, {"backbone": "efficientnetv2-b0", "alpha": 0.5}],
            "study.networks.1.alpha = 0.5: efficientnetv2-b0 has one width only, 1.0",
        ),
    ],
)
def test_a_study_of_networks_that_do_not_exist_is_refused(tmp_path: Path, networks: list[dict], message: str) -> None:
    complaint = refusal(changed(tmp_path / "params.yaml", "study.networks", networks))
    assert message in complaint and ("at least" in message or "at least" not in complaint)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_width_that_keras_does_not_publish_is_refused_with_those_it_does(tmp_path: Path, backbone: str) -> None:
    path, widths = tmp_path / "params.yaml", BACKBONES[backbone].widths or (1.0,)
    content = yaml.safe_load((ROOT / "presets" / "tutorial.yaml").read_text("utf-8"))
    for alpha in (0.9, *widths):
        content["extract"] |= {"backbone": backbone, "alpha": alpha}
        path.write_text(
            yaml.safe_dump(content | {"study": {"networks": [{"backbone": "mobilenet", "alpha": 1.0}, {}]}})
        )
        if alpha in widths:
            assert load_params(path).extract.alpha == alpha
        else:
            assert refusal(path).startswith("extract.alpha = 0.9: ") and "1.0" in refusal(path)


REQUIRED = {name: keys for name, keys in SECTIONS.items() if name not in ("study", "compute")}
KEYS = [f"{name}.{key}" for name, keys in REQUIRED.items() for key in keys]


@pytest.mark.parametrize("name", [*REQUIRED, *(key for key in KEYS if key not in ("data.arrivals", "tune.storage"))])
def test_a_missing_section_or_key_is_reported_with_where_to_find_it(tmp_path: Path, name: str) -> None:
    content = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text("utf-8"))
    section, _, key = name.partition(".")
    del (content[section] if key else content)[key or section]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), "utf-8")
    assert refusal(tmp_path / "params.yaml") == f"{name}: missing; presets/sample.yaml shows every key"


@pytest.mark.parametrize(
    "address", ["ada:secret@host/db", "postgresql://ada:sec/ret@host/db", "mysql://ada:secret@h/db"]
)
def test_the_login_of_a_database_is_not_shown_when_its_address_is_refused(tmp_path: Path, address: str) -> None:
    message = refusal(changed(tmp_path / "params.yaml", "tune.storage", address))
    assert message.startswith("tune.storage = ") and not re.search("ada|sec|ret@", message)


def test_a_search_is_kept_in_a_file_where_an_older_file_does_not_say(tmp_path: Path) -> None:
    text = (ROOT / "presets" / "sample.yaml").read_text("utf-8")
    (tmp_path / "params.yaml").write_text(re.sub(r"  storage:.*\n", "", text), "utf-8")
    assert load_params(tmp_path / "params.yaml").tune.storage is None


def test_arrivals_replace_the_data_set_where_an_older_file_does_not_say(tmp_path: Path) -> None:
    text = (ROOT / "presets" / "sample.yaml").read_text("utf-8")
    assert load_params(ROOT / "presets" / "sample.yaml").data.arrivals == "replace"
    (tmp_path / "params.yaml").write_text(re.sub(r"  arrivals:.*\n", "", text), "utf-8")
    assert load_params(tmp_path / "params.yaml").data.arrivals == "replace"


def test_a_class_name_is_the_same_however_its_accents_are_encoded(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text("utf-8"))
    names = [normalize("NFD", "fl\N{LATIN SMALL LETTER U WITH DIAERESIS}sse"), *content["validate"]["classes"]]
    content["validate"]["classes"] = names
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
    assert load_params(tmp_path / "params.yaml").validate.classes == (normalize("NFC", names[0]), *names[1:])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"train:\n\tepochs: 3\n", "is not valid YAML: .*line 2"),
        (b"train: {epochs: 3\n", "is not valid YAML"),
        (b"train: {epochs: 3, epochs: 4}\n", "is not valid YAML: epochs is given twice.*column 20"),
        (b"train: {epochs: 010}\n", "is not valid YAML: 010 is not the same number in every YAML: write it in decimal"),
        (b"train: {epochs: +0_7}\n", "is not valid YAML: [+]0_7 is not the same number in every YAML"),
        (b"train: {epochs: 1:30}\n", "is not valid YAML: 1:30 is not the same number in every YAML"),
        (b"train: {epochs: 2026-13-45}\n", "is not valid YAML: month must be in"),
        (b"[" * 3000, "is not valid YAML"),
        (b"\xff\xfe\x00t", "is not valid YAML"),
        (b"", "holds no sections: start from presets/sample.yaml"),
        (b"- train\n", "holds no sections: start from presets/sample.yaml"),
        (b"just text", "holds no sections: start from presets/sample.yaml"),
    ],
)
def test_a_file_that_is_not_a_params_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert re.search(words, refusal(path))


def test_a_missing_file_is_reported_with_where_to_run(tmp_path: Path) -> None:
    assert "is not here: run landuse in the project's folder" in refusal(tmp_path / "params.yaml")


def test_a_section_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    for value in (None, 3, [1]):
        assert refusal(changed(tmp_path / "params.yaml", "train", value)).startswith(f"train = {value!r}: ")
