"""Lineage: the data, commit and params behind a result."""

import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import yaml

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA_DVC, PARAMS
from landuse.params import load_params
from landuse.project import lineage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with params and a data record, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    tiny.write_params(tmp_path, tiny.CHANGES)
    write_record({"source": "set.zip", "images": 36})
    return tmp_path


def write_record(meta: dict) -> None:
    DATA_DVC.write_text(yaml.safe_dump({"outs": [{"md5": tiny.DATA_MD5, "path": "data"}], "meta": meta}), "utf-8")


def commit() -> None:
    author = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "-m", "Begin"]):
        subprocess.run(["git", *words], check=True)


def test_the_data_record_combines_what_dvc_and_ingest_wrote(folder: Path) -> None:
    assert lineage.data_record() == {"md5": tiny.DATA_MD5, "source": "set.zip", "images": 36}
    DATA_DVC.write_text(f"outs:\n- md5: {tiny.DATA_MD5}\n")
    assert lineage.data_record() == {"md5": tiny.DATA_MD5}


def test_without_data_the_error_says_how_to_get_some(folder: Path) -> None:
    DATA_DVC.unlink()
    with pytest.raises(LanduseError, match="data.dvc is not here: bring in a data set with landuse ingest"):
        lineage.data_record()


@pytest.mark.parametrize("content", ["", "outs: []", "outs:\n- path: data\n", "outs:\n\udcff", "- a\n", "outs: {"])
def test_a_damaged_data_dvc_is_reported_with_the_way_to_restore_it(folder: Path, content: str) -> None:
    DATA_DVC.write_text(content, errors="surrogateescape")
    with pytest.raises(LanduseError, match="data.dvc is damaged: restore it with git checkout data.dvc"):
        lineage.data_record()


def test_a_data_dvc_with_merge_conflicts_is_reported_with_the_way_out(folder: Path) -> None:
    DATA_DVC.write_text("outs:\n<<<<<<< HEAD\n- md5: a\n=======\n- md5: b\n>>>>>>> theirs\n")
    with pytest.raises(LanduseError, match="both sides of a merge: git checkout --ours data.dvc, or --theirs, and dvc"):
        lineage.data_record()


def test_the_commit_of_a_data_version_is_found_even_if_a_merge_dropped_it(folder: Path) -> None:
    def commit(*words: str) -> str:
        author = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *author, *words], check=True, capture_output=True)
        return lineage.git("rev-parse", "--short", "HEAD")

    def version(md5: str) -> str:
        DATA_DVC.write_text(f"outs:\n- md5: {md5}\n")
        subprocess.run(["git", "add", "data.dvc"], check=True)
        return commit("commit", "--quiet", "--message", md5)

    subprocess.run(["git", "init", "--quiet"], check=True)
    version("a")
    subprocess.run(["git", "checkout", "--quiet", "-b", "theirs"], check=True)
    expected = version("dead.dir")
    subprocess.run(["git", "checkout", "--quiet", "-"], check=True)
    version("beef.dir")
    commit("merge", "--quiet", "--strategy", "ours", "theirs")
    subprocess.run(["git", "branch", "--quiet", "-D", "theirs"], check=True)
    assert lineage.find_data_commit("dead.dir") == expected


@pytest.mark.parametrize(
    ("meta", "kind"),
    [
        ({"source": "sample", "drawn": True}, "sample"),
        ({"source": "set.zip", "drawn": True}, "sample"),
        ({"source": "set.zip", "drawn": False}, "real"),
        ({}, "real"),
    ],
)
def test_a_run_on_the_sample_is_distinguished_from_one_on_real_images(folder: Path, meta: dict, kind: str) -> None:
    write_record(meta)
    tags = lineage.tags()
    assert tags["data.kind"] == kind and tags["data.source"] == meta.get("source", "unknown")
    assert tags["data.md5"] == tiny.DATA_MD5 and len(tags["data.md5"]) <= 36


@pytest.mark.parametrize(("source", "kind"), [("sample", "sample"), ("set.zip", "unknown")])
def test_data_edited_since_it_was_ingested_is_recorded_as_edited(folder: Path, source: str, kind: str) -> None:
    write_record({"source": source, "drawn": source == "sample", "version": tiny.DATA_MD5})
    assert lineage.tags()["data.source"] == source
    write_record({"source": source, "drawn": source == "sample", "version": "another"})
    tags = lineage.tags()
    assert tags["data.source"] == f"{source}, edited since" and tags["data.kind"] == kind


def test_outside_a_repository_there_is_no_commit(folder: Path) -> None:
    assert (lineage.tags()["git.commit"], lineage.tags()["git.dirty"]) == ("none", "unknown")


def test_without_git_there_is_no_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert lineage.git("rev-parse", "HEAD") is None


def test_a_repository_that_git_does_not_trust_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as for a host folder in a container
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    with pytest.raises(LanduseError, match=f"git config --global --add safe.directory {folder}$"):
        lineage.tags()


def test_the_commit_is_clean_until_a_file_in_it_changes(folder: Path) -> None:
    code = folder / "src" / "code.py"
    code.parent.mkdir()
    code.touch()
    (folder / "README.md").touch()
    commit()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert (lineage.tags()["git.commit"], lineage.tags()["git.dirty"]) == (head, "false")
    (folder / "README.md").write_text("changed")
    (folder / "untracked.txt").touch()
    assert lineage.tags()["git.dirty"] == "false", "no result depends on these files"
    code.write_text("changed")
    assert lineage.tags()["git.dirty"] == "true"
    commit()
    (folder / "src" / "another.py").touch()
    assert lineage.tags()["git.dirty"] == "true"
    subprocess.run(["git", "config", "status.showUntrackedFiles", "no"], check=True)
    assert lineage.tags()["git.dirty"] == "true", "the user's git settings do not matter"


def test_changes_of_params_and_data_do_not_make_the_commit_dirty(folder: Path) -> None:
    commit()
    for path in (PARAMS, DATA_DVC):
        path.write_text(path.read_text("utf-8") + "\n")
    assert lineage.tags()["git.dirty"] == "false"


def test_the_params_hash_depends_on_the_values_and_not_the_layout(folder: Path) -> None:
    first = lineage.tags()["params.sha256"]
    content = yaml.safe_load(PARAMS.read_text("utf-8"))
    PARAMS.write_text("# a comment\n" + yaml.safe_dump(content, sort_keys=True), "utf-8")
    assert lineage.tags()["params.sha256"] == first
    content["train"]["epochs"] += 1
    PARAMS.write_text(yaml.safe_dump(content), "utf-8")
    assert lineage.tags()["params.sha256"] != first


def test_params_that_a_result_depends_on_are_recorded_key_by_key(folder: Path) -> None:
    record = lineage.params_record()
    assert record["train.unfreeze_from"] == "head" and record["extract.alpha"] == 0.35
    content = yaml.safe_load(PARAMS.read_text("utf-8"))
    of_results = [keys for name, keys in content.items() if name not in lineage.UNRECORDED]
    assert len(record) == sum(map(len, of_results))


def test_the_params_in_use_are_recorded_even_if_params_yaml_changed(folder: Path) -> None:
    train = replace(load_params().train, learning_rate=0.0123)
    assert lineage.params_record(train=load_params().train) == lineage.params_record()
    record = lineage.params_record(train=train)
    assert {key: value for key, value in record.items() if lineage.params_record()[key] != value} == {
        "train.learning_rate": 0.0123
    }
    assert lineage.tags(train=train)["params.sha256"] != lineage.tags()["params.sha256"]


def test_values_recorded_under_an_earlier_name_of_a_key_are_found(folder: Path) -> None:
    tiny.write_params(folder, {})
    train = lineage.params_with({"train.averaged_views": 4, "train.epochs": 3})["train"]
    assert (train["tta_views"], train["epochs"]) == (4, 3) and "averaged_views" not in train


def test_secrets_in_the_source_are_neither_recorded_nor_hashed(folder: Path) -> None:
    hashes = set()
    for secret in ("one", "another"):
        source = f"https://user:{secret}@host/my set.zip?token={secret}"
        tiny.write_params(folder, tiny.CHANGES | {"data": {"source": source, "checksum": None}})
        trained = {"data.source": source, "train.epochs": 3}
        assert lineage.params_record()["data.source"] == "https://host/my set.zip"
        assert lineage.params_with(trained)["data"]["source"] == "https://host/my set.zip"
        write_record({"source": source})
        assert lineage.tags()["data.source"] == "https://host/my set.zip"
        hashes.add(lineage.tags()["params.sha256"])
    assert len(hashes) == 1, "else the hash would let anyone who knows the rest guess passwords"


def test_the_processor_is_named_with_its_architecture() -> None:
    name, _, kind = lineage.processor().rpartition(" ")
    assert name and kind == f"({platform.machine()})"


def test_versions_cover_the_packages_that_affect_a_result() -> None:
    installed = lineage.versions()
    assert {"landuse", "keras", "ai-edge-litert", "mlflow", "dvc"} <= set(installed) <= set(lineage.PACKAGES)
    assert any(name.startswith("tensorflow") for name in installed)


def test_a_repository_that_git_cannot_read_is_an_error(folder: Path) -> None:
    commit()
    Path(".git/index").write_bytes(b"damaged" * 9)
    with pytest.raises(
        LanduseError, match="git: .*(corrupt|bad signature).*; until it is repaired, no result could name"
    ):
        lineage.tags()
