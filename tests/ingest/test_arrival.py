"""An arrival is ingested instead of `data.source`, and stays until the content of `data.source` changes."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import yaml
from archives import CHECKS, files_in, folder_of, ingest_source, is_data_current, picture, pictures, zip_of
from dvc.repo import Repo
from PIL import Image

from landuse import ingest
from landuse.cli import main
from landuse.core.errors import LanduseError, Refused, Unavailable
from landuse.params import DataParams
from landuse.project.lineage import data_record
from landuse.sample.png import encode_png

SET = DataParams(source="../set.zip", checksum=None)
NAMELESS = "the arrival has no name: name an archive or a folder, or leave it out for data.source"
NOWHERE = "http://127.0.0.1:9/set.zip"  # port of the discard service, which is obsolete


def arrive(path: Path | str, data: DataParams = SET) -> ingest.IngestResult:
    return ingest.ingest(data, CHECKS, str(path))


@pytest.fixture
def arrived(
    settled: ingest.IngestResult, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> ingest.IngestResult:
    """The project after new.zip replaced set.zip, which data.source still names; ingested once, then copied."""
    template = tmp_path_factory.getbasetemp() / "arrived"
    archive = zip_of(Path("../new.zip"), pictures(10))
    if template.exists():
        rmtree("data")
        copytree(template, project, dirs_exist_ok=True)
    else:
        arrive(archive)
        copytree(project, template)
    return ingest.to_result(ingest.read_metadata(), changed=True)


def test_an_arrival_replaces_the_source_and_a_plain_ingest_keeps_it(
    settled: ingest.IngestResult, arrived: ingest.IngestResult
) -> None:
    assert (arrived.source, arrived.changed) == ("new.zip", True) and arrived.version != settled.version
    assert files_in(Path("data")) == pictures(10) and is_data_current()
    assert data_record()["supersedes"] == settled.digest
    assert ingest_source("../set.zip") == replace(arrived, changed=False)
    assert files_in(Path("data")) == pictures(10) and is_data_current()


def test_an_arrival_named_like_a_built_in_source_is_the_folder(settled: ingest.IngestResult) -> None:
    folder_of(Path("sample"), pictures(10))
    result = arrive("sample")
    assert result.source == "sample" and files_in(Path("data")) == pictures(10)


def test_a_url_is_refused_as_an_arrival_and_belongs_in_the_params(settled: ingest.IngestResult) -> None:
    with pytest.raises(LanduseError, match="http://127.0.0.1:9/set.zip: set data.source to ingest from a URL, and"):
        arrive(NOWHERE.replace("//", "//user:secret@"))


def test_a_pipe_is_refused_as_an_arrival_without_blaming_data_source(settled: ingest.IngestResult) -> None:
    os.mkfifo("../pipe.zip")
    with pytest.raises(LanduseError, match="^../pipe.zip: there is no such file or folder$"):
        arrive("../pipe.zip")


def test_an_unchanged_arrival_is_not_ingested_twice(arrived: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    assert arrive("../new.zip") == replace(arrived, changed=False)
    assert Path("data.dvc").read_bytes() == before


def test_a_source_with_new_content_replaces_an_arrival(arrived: ingest.IngestResult) -> None:
    zip_of(Path("../set.zip"), pictures(20))
    assert ingest_source("../set.zip").changed
    assert files_in(Path("data")) == pictures(20) and "supersedes" not in data_record()


def test_another_source_replaces_an_arrival(arrived: ingest.IngestResult) -> None:
    assert ingest_source(folder_of(Path("../own"), pictures(30))).source == "own"
    assert files_in(Path("data")) == pictures(30)


def test_drawn_images_are_recorded_as_drawn_in_any_archive(arrived: ingest.IngestResult) -> None:
    assert data_record()["drawn"] is False
    drawn = encode_png(Image.effect_noise((32, 32), 64).convert("RGB"))
    arrive(zip_of(Path("../mixed.zip"), pictures(20) | {"water/drawn.png": drawn}))
    assert data_record()["drawn"] is True


def test_the_source_stays_superseded_by_a_second_arrival(
    settled: ingest.IngestResult, arrived: ingest.IngestResult
) -> None:
    second = arrive(folder_of(Path("../folder"), pictures(20)))
    assert (second.source, data_record()["supersedes"]) == ("folder", settled.digest)
    assert ingest_source("../set.zip") == replace(second, changed=False)


@pytest.mark.slow
def test_the_source_stays_superseded_while_it_cannot_be_read(settled: ingest.IngestResult) -> None:
    Path("../set.zip").rename("../away.zip")
    first = arrive(zip_of(Path("../new.zip"), pictures(10)))
    second = arrive(zip_of(Path("../newer.zip"), pictures(20)))
    Path("../away.zip").rename("../set.zip")
    assert first.changed and second.changed and data_record()["supersedes"] == settled.digest
    assert ingest_source("../set.zip") == replace(second, changed=False)


def test_the_first_images_of_a_project_may_arrive(project: Path) -> None:
    zip_of(Path("../set.zip"), pictures())
    arrived = arrive(zip_of(Path("../new.zip"), pictures(10)))
    assert ingest_source("../set.zip") == replace(arrived, changed=False)


def test_missing_data_is_not_replaced_by_the_superseded_source(arrived: ingest.IngestResult) -> None:
    rmtree("data")
    with pytest.raises(LanduseError) as refusal:
        ingest_source("../set.zip")
    message = str(refusal.value)
    assert f"version {arrived.version}, which arrived as new.zip after data.source = set.zip" in message
    assert "dvc pull data" in message and "ingest new.zip again" in message and not Path("data").exists()
    assert arrive("../new.zip") == replace(arrived, changed=False, restored=True)
    assert files_in(Path("data")) == pictures(10) and is_data_current()


def test_missing_data_can_be_restored_from_dvc_as_the_error_says(arrived: ingest.IngestResult) -> None:
    rmtree("data")
    with Repo() as repo:
        repo.checkout(["data"])
    assert ingest_source("../set.zip") == replace(arrived, changed=False)


def test_a_rejected_arrival_changes_nothing(settled: ingest.IngestResult, arrived: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    with pytest.raises(Refused, match=r"^\.\./bad\.zip is rejected: .*swamp"):
        arrive(zip_of(Path("../bad.zip"), pictures(20) | {"swamp/a.png": picture(1)}))
    assert Path("data.dvc").read_bytes() == before and files_in(Path("data")) == pictures(10)
    assert ingest_source("../set.zip") == replace(arrived, changed=False)


def test_a_file_name_that_no_page_can_show_is_rejected_without_quarantine(settled: ingest.IngestResult) -> None:
    message = r"^\.\./odd\.zip is rejected: image 'field/5\" tile\.png' has <, >, a quote .*: rename it$"
    with pytest.raises(Refused, match=message):
        arrive(zip_of(Path("../odd.zip"), pictures(20) | {'field/5" tile.png': picture(1)}))
    assert files_in(Path("data")) == pictures() and not Path("quarantine").exists()


# Fetch


def test_fetch_reports_what_ingest_would_ingest_and_changes_nothing(settled: ingest.IngestResult) -> None:
    before = Path("data.dvc").read_bytes()
    assert ingest.fetch(SET, CHECKS) == f"{settled.source} is already ingested; its digest is {settled.digest}"
    assert ingest.fetch(SET, CHECKS, str(zip_of(Path("../new.zip"), pictures(10)))).startswith("new.zip is available; ")
    assert Path("data.dvc").read_bytes() == before and files_in(Path("data")) == pictures()


def test_an_ingested_or_superseded_source_is_not_fetched_again(arrived: ingest.IngestResult) -> None:
    content = yaml.safe_load(Path("data.dvc").read_text())
    for key in ("digest", "supersedes"):
        ingested = DataParams(source=NOWHERE, checksum=content["meta"][key])
        assert ingest.fetch(ingested, CHECKS) == f"{NOWHERE} is already ingested; its digest is {ingested.checksum}"
    other = DataParams(source=NOWHERE, checksum="md5:" + "0" * 32)
    with pytest.raises(Unavailable):
        ingest.fetch(other, CHECKS)


def test_a_source_that_must_be_ingested_again_is_fetched_again(settled: ingest.IngestResult) -> None:
    ingested = DataParams(source=NOWHERE, checksum=settled.digest)
    with pytest.raises(Unavailable):
        ingest.fetch(ingested, replace(CHECKS, smallest=CHECKS.smallest - 1))
    rmtree("data")
    with pytest.raises(Unavailable):
        ingest.fetch(ingested, CHECKS)


# Exit codes

RunCommand = Callable[..., tuple[int, str]]


@pytest.fixture
def run_command(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> RunCommand:
    """Return a function that runs a `landuse` command with a data.source; it returns exit code and error line."""

    def run(*words: str, source: str = "../set.zip", checksum: str | None = None) -> tuple[int, str]:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["data"] = {"source": source, "checksum": checksum}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.setattr(sys, "argv", ["landuse", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        line = capsys.readouterr().err
        assert line.startswith("landuse: ") and line.count("\n") == 1
        return stop.value.code, line

    return run


def test_an_unreachable_source_exits_with_75(run_command: RunCommand) -> None:
    for verb in ("fetch", "ingest"):
        status, line = run_command(verb, source=NOWHERE, checksum="md5:" + "0" * 32)
        assert status == 75 and "cannot be reached" in line


def test_rejected_images_and_damaged_archives_exit_with_3(run_command: RunCommand) -> None:
    zip_of(Path("../set.zip"), pictures())
    status, line = run_command("ingest")
    assert status == 3 and "quarantine/" in line
    Path("../broken.zip").write_bytes(Path("../set.zip").read_bytes()[:100])
    assert run_command("ingest", "../broken.zip")[0] == 3
    assert run_command("ingest", checksum="md5:" + "0" * 32)[0] == 3


def test_a_file_name_that_is_not_utf_8_is_refused(run_command: RunCommand) -> None:
    latin = os.fsdecode(b"../caf\xe9.zip")
    zip_of(Path(latin), pictures())
    for verb in ("fetch", "ingest"):
        assert run_command(verb, latin) == (3, "landuse: '../caf\\udce9.zip' is not valid UTF-8: rename it\n")


def test_ingest_itself_prints_nothing(settled: ingest.IngestResult, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    arrive(zip_of(Path("../new.zip"), pictures(10)))
    assert capfd.readouterr() == ("", ""), "only the command prints"


def test_a_user_error_exits_with_1(run_command: RunCommand) -> None:
    for verb in ("fetch", "ingest"):
        assert run_command(verb, source="nowhere.zip")[0] == 1
        assert run_command(verb, "nowhere.zip", source="sample")[0] == 1
        assert run_command(verb, source=NOWHERE)[0] == 1
        assert run_command(verb, "") == (1, f"landuse: {NAMELESS}\n")
        assert run_command(verb, "x" * 300)[1].endswith(": File name too long: use a shorter name\n")


def test_an_arrival_an_addition_and_a_removal_are_refused_together(run_command: RunCommand) -> None:
    message = "landuse: an arrival, --add and --remove each change data/ by themselves: run one after the other\n"
    assert run_command("ingest", "--add", "a.zip", "--remove", "list.txt") == (1, message)
    assert run_command("ingest", "a.zip", "--add", "b.zip") == (1, message)
    assert run_command("ingest", "--remove", "list.txt")[1].startswith("landuse: list.txt names images of data/, but")


@pytest.mark.parametrize("name", ["data", "artifacts"])
def test_a_linked_folder_is_not_replaced(settled: ingest.IngestResult, run_command: RunCommand, name: str) -> None:
    Path(name).rename("elsewhere")
    Path(name).symlink_to("elsewhere")
    before = files_in(Path("elsewhere"))
    message = f"landuse: {name} is a link, which DVC does not version: remove it, or move the project to that disk\n"
    assert run_command("ingest") == (78, message)
    assert files_in(Path("elsewhere")) == before


def test_a_file_in_the_way_is_reported_with_the_remedy(run_command: RunCommand) -> None:
    Path(".incoming").touch()
    assert run_command("ingest") == (1, "landuse: .incoming: File exists: move away what stands there\n")


OTHER_DVC = """
import time
from dvc.repo import Repo
repo = Repo()
with repo.lock:
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_concurrent_ingest_or_dvc_command_is_a_temporary_failure(
    settled: ingest.IngestResult, run_command: RunCommand
) -> None:
    with ingest.exclusive_lock(ingest.LOCK, ingest.BUSY):
        assert run_command("fetch") == (
            75,
            "landuse: another ingest is running in this project: wait until it has finished\n",
        )
    with subprocess.Popen([sys.executable, "-c", OTHER_DVC], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(Unavailable, match="acquire lock"):
            arrive(zip_of(Path("../new.zip"), pictures(10)))
        other.kill()
    assert files_in(Path("data")) == pictures() and is_data_current()


STAGE_AT_WORK = """
import time
from dvc.repo import Repo
from dvc.rwlock import rwlock
repo = Repo()
with rwlock(repo.tmp_dir, repo.fs, "a stage", [repo.root_dir + "/data"], [], False):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_the_images_are_never_swapped_while_a_stage_reads_them(
    settled: ingest.IngestResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[Path] = []
    with (
        subprocess.Popen([sys.executable, "-c", STAGE_AT_WORK], stdout=subprocess.PIPE) as stage,
        monkeypatch.context() as patch,
    ):
        patch.setattr(ingest, "swap_in", swapped.append)
        stage.stdout.readline()
        with pytest.raises(Unavailable, match="data' is busy, it is being blocked by: .*; data/ is unchanged"):
            arrive(zip_of(Path("../new.zip"), pictures(10)))
        with pytest.raises(Unavailable, match="data' is busy, it is being blocked by: .*; data/ is unchanged"):
            ingest.add(SET, CHECKS, "../new.zip")
        stage.kill()
    assert not swapped and files_in(Path("data")) == pictures() and is_data_current()
    assert arrive("../new.zip").changed, "the lock of a killed process is released"
