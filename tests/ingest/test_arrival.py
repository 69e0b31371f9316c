"""An arrival is taken in instead of `data.source`, and stays until that holds something else."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import yaml
from archives import CHECKS, bring_in, files_in, folder_of, in_step, picture, pictures, zip_of
from dvc.repo import Repo
from PIL import Image

from landuse import ingest as room
from landuse.cli import main
from landuse.core.errors import LanduseError, Refused, Unavailable
from landuse.params import DataParams
from landuse.project.lineage import data_record
from landuse.sample.png import png

SET = DataParams(source="../set.zip", checksum=None)
NAMELESS = "what arrived has no name: name an archive or a folder, or nothing for data.source"
NOWHERE = "http://127.0.0.1:9/set.zip"  # the port of the discard service, which no machine runs any more


def arrive(path: Path | str, data: DataParams = SET) -> room.Ingested:
    return room.ingest(data, CHECKS, str(path))


@pytest.fixture
def arrived(settled: room.Ingested, project: Path, tmp_path_factory: pytest.TempPathFactory) -> room.Ingested:
    """The project after new.zip took the place of set.zip, which data.source still names; done once, then copied."""
    template = tmp_path_factory.getbasetemp() / "arrived"
    archive = zip_of(Path("../new.zip"), pictures(10))
    if template.exists():
        rmtree("data")
        copytree(template, project, dirs_exist_ok=True)
    else:
        arrive(archive)
        copytree(project, template)
    return room.outcome(room.recorded(), changed=True)


def test_an_arrival_takes_the_place_of_the_source_and_a_plain_ingest_leaves_it_there(
    settled: room.Ingested, arrived: room.Ingested
) -> None:
    assert (arrived.source, arrived.changed) == ("new.zip", True) and arrived.version != settled.version
    assert files_in(Path("data")) == pictures(10) and in_step()
    assert data_record()["supersedes"] == settled.digest
    assert bring_in("../set.zip") == replace(arrived, changed=False)
    assert files_in(Path("data")) == pictures(10) and in_step()


def test_a_folder_that_is_called_like_a_known_source_is_the_folder(settled: room.Ingested) -> None:
    folder_of(Path("sample"), pictures(10))
    taken = arrive("sample")
    assert taken.source == "sample" and files_in(Path("data")) == pictures(10)


def test_a_url_is_no_arrival_and_belongs_into_the_params(settled: room.Ingested) -> None:
    with pytest.raises(LanduseError, match="http://127.0.0.1:9/set.zip: a URL is taken in as data.source, with its"):
        arrive(NOWHERE.replace("//", "//user:secret@"))


def test_a_pipe_is_no_arrival_and_data_source_is_not_blamed_for_it(settled: room.Ingested) -> None:
    os.mkfifo("../pipe.zip")
    with pytest.raises(LanduseError, match="^../pipe.zip: there is no such file or folder$"):
        arrive("../pipe.zip")


def test_what_arrived_is_not_built_twice(arrived: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    assert arrive("../new.zip") == replace(arrived, changed=False)
    assert Path("data.dvc").read_bytes() == before


def test_a_source_that_holds_something_new_comes_back(arrived: room.Ingested) -> None:
    zip_of(Path("../set.zip"), pictures(20))
    assert bring_in("../set.zip").changed
    assert files_in(Path("data")) == pictures(20) and "supersedes" not in data_record()


def test_another_source_takes_the_place_of_an_arrival(arrived: room.Ingested) -> None:
    assert bring_in(folder_of(Path("../own"), pictures(30))).source == "own"
    assert files_in(Path("data")) == pictures(30)


def test_drawn_images_are_recorded_as_drawn_whatever_they_come_in(arrived: room.Ingested) -> None:
    assert data_record()["drawn"] is False
    drawn = png(Image.effect_noise((32, 32), 64).convert("RGB"))
    arrive(zip_of(Path("../mixed.zip"), pictures(20) | {"water/drawn.png": drawn}))
    assert data_record()["drawn"] is True


def test_one_arrival_after_another_and_the_source_stays_superseded(
    settled: room.Ingested, arrived: room.Ingested
) -> None:
    second = arrive(folder_of(Path("../folder"), pictures(20)))
    assert (second.source, data_record()["supersedes"]) == ("folder", settled.digest)
    assert bring_in("../set.zip") == replace(second, changed=False)


@pytest.mark.slow
def test_where_the_source_cannot_be_looked_at_what_it_held_stays_superseded(settled: room.Ingested) -> None:
    Path("../set.zip").rename("../away.zip")
    first = arrive(zip_of(Path("../new.zip"), pictures(10)))
    second = arrive(zip_of(Path("../newer.zip"), pictures(20)))
    Path("../away.zip").rename("../set.zip")
    assert first.changed and second.changed and data_record()["supersedes"] == settled.digest
    assert bring_in("../set.zip") == replace(second, changed=False)


def test_the_first_images_of_a_project_may_arrive(project: Path) -> None:
    zip_of(Path("../set.zip"), pictures())
    arrived = arrive(zip_of(Path("../new.zip"), pictures(10)))
    assert bring_in("../set.zip") == replace(arrived, changed=False)


def test_missing_data_is_not_replaced_by_the_superseded_source(arrived: room.Ingested) -> None:
    rmtree("data")
    with pytest.raises(LanduseError) as refusal:
        bring_in("../set.zip")
    words = str(refusal.value)
    assert f"version {arrived.version}, which arrived as new.zip after data.source = set.zip" in words
    assert "dvc pull data" in words and "ingest new.zip again" in words and not Path("data").exists()
    assert arrive("../new.zip") == replace(arrived, changed=False, again=True)
    assert files_in(Path("data")) == pictures(10) and in_step()


def test_missing_data_comes_back_from_dvc_as_the_refusal_says(arrived: room.Ingested) -> None:
    rmtree("data")
    with Repo() as repo:
        repo.checkout(["data"])
    assert bring_in("../set.zip") == replace(arrived, changed=False)


def test_an_arrival_that_is_refused_changes_nothing(settled: room.Ingested, arrived: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    with pytest.raises(Refused, match=r"^\.\./bad\.zip is not let in: .*swamp"):
        arrive(zip_of(Path("../bad.zip"), pictures(20) | {"swamp/a.png": picture(1)}))
    assert Path("data.dvc").read_bytes() == before and files_in(Path("data")) == pictures(10)
    assert bring_in("../set.zip") == replace(arrived, changed=False)


def test_a_name_that_no_page_can_show_is_refused_with_the_source_and_nothing_is_left(settled: room.Ingested) -> None:
    words = r"^\.\./odd\.zip is not let in: image 'field/5\" tile\.png' has <, >, a quote .*: rename it$"
    with pytest.raises(Refused, match=words):
        arrive(zip_of(Path("../odd.zip"), pictures(20) | {'field/5" tile.png': picture(1)}))
    assert files_in(Path("data")) == pictures() and not Path("quarantine").exists()


# Fetch


def test_fetch_says_what_ingest_would_take_in_and_changes_nothing(settled: room.Ingested) -> None:
    before = Path("data.dvc").read_bytes()
    assert room.fetch(SET, CHECKS) == f"{settled.source} was taken in already; its digest is {settled.digest}"
    assert room.fetch(SET, CHECKS, str(zip_of(Path("../new.zip"), pictures(10)))).startswith("new.zip is at hand; ")
    assert Path("data.dvc").read_bytes() == before and files_in(Path("data")) == pictures()


def test_a_source_that_is_versioned_or_superseded_is_not_fetched_again(arrived: room.Ingested) -> None:
    content = yaml.safe_load(Path("data.dvc").read_text())
    for key in ("digest", "supersedes"):
        known = DataParams(source=NOWHERE, checksum=content["meta"][key])
        assert room.fetch(known, CHECKS) == f"{NOWHERE} was taken in already; its digest is {known.checksum}"
    unknown = DataParams(source=NOWHERE, checksum="md5:" + "0" * 32)
    with pytest.raises(Unavailable):
        room.fetch(unknown, CHECKS)


def test_a_source_that_ingest_would_have_to_take_in_again_is_fetched_again(settled: room.Ingested) -> None:
    known = DataParams(source=NOWHERE, checksum=settled.digest)
    with pytest.raises(Unavailable):
        room.fetch(known, replace(CHECKS, smallest=CHECKS.smallest - 1))
    rmtree("data")
    with pytest.raises(Unavailable):
        room.fetch(known, CHECKS)


# What the exit code says

Code = Callable[..., tuple[int, str]]


@pytest.fixture
def code(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Code:
    """A function from a command of `landuse`, with a data.source, to its exit code and its one line."""

    def ended(*words: str, source: str = "../set.zip", checksum: str | None = None) -> tuple[int, str]:
        params = yaml.safe_load(Path("params.yaml").read_text())
        params["data"] = {"source": source, "checksum": checksum}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        monkeypatch.setattr(sys, "argv", ["landuse", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        line = capsys.readouterr().err
        assert line.startswith("landuse: ") and line.count("\n") == 1
        return stop.value.code, line

    return ended


def test_out_of_reach_is_75(code: Code) -> None:
    for verb in ("fetch", "ingest"):
        status, line = code(verb, source=NOWHERE, checksum="md5:" + "0" * 32)
        assert status == 75 and "cannot be reached" in line


def test_not_let_in_is_3_with_the_report_and_damaged_too(code: Code) -> None:
    zip_of(Path("../set.zip"), pictures())
    status, line = code("ingest")
    assert status == 3 and "quarantine/" in line
    Path("../broken.zip").write_bytes(Path("../set.zip").read_bytes()[:100])
    assert code("ingest", "../broken.zip")[0] == 3
    assert code("ingest", checksum="md5:" + "0" * 32)[0] == 3


def test_a_name_in_another_encoding_than_utf_8_is_refused_by_name(code: Code) -> None:
    latin = os.fsdecode(b"../caf\xe9.zip")
    zip_of(Path(latin), pictures())
    for verb in ("fetch", "ingest"):
        assert code(verb, latin) == (3, "landuse: '../caf\\udce9.zip' is no name in UTF-8: rename it\n")


def test_an_ingest_says_one_line(settled: room.Ingested, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    arrive(zip_of(Path("../new.zip"), pictures(10)))
    assert capfd.readouterr() == ("", ""), "what is said is said by the command"


def test_a_mistake_is_1(code: Code) -> None:
    for verb in ("fetch", "ingest"):
        assert code(verb, source="nowhere.zip")[0] == 1
        assert code(verb, "nowhere.zip", source="sample")[0] == 1
        assert code(verb, source=NOWHERE)[0] == 1
        assert code(verb, "") == (1, f"landuse: {NAMELESS}\n")
        assert code(verb, "x" * 300)[1].endswith(": File name too long: use a shorter name\n")


@pytest.mark.parametrize("name", ["data", "artifacts"])
def test_a_folder_that_is_a_link_is_not_replaced(settled: room.Ingested, code: Code, name: str) -> None:
    Path(name).rename("elsewhere")
    Path(name).symlink_to("elsewhere")
    before = files_in(Path("elsewhere"))
    said = f"landuse: {name} is a link, which DVC does not version: remove it; the project may lie on that disk\n"
    assert code("ingest") == (78, said)
    assert files_in(Path("elsewhere")) == before


def test_a_file_in_the_way_is_named_with_the_remedy(code: Code) -> None:
    Path(".incoming").touch()
    assert code("ingest") == (1, "landuse: .incoming: File exists: move away what stands there\n")


OTHER_DVC = """
import time
from dvc.repo import Repo
repo = Repo()
with repo.lock:
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_another_ingest_and_another_dvc_at_work_may_pass(settled: room.Ingested, code: Code) -> None:
    with room.alone(room.LOCK, room.BUSY):
        assert code("fetch") == (75, "landuse: another ingest is at work in this project: wait until it has ended\n")
    with subprocess.Popen([sys.executable, "-c", OTHER_DVC], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(Unavailable, match="acquire lock"):
            arrive(zip_of(Path("../new.zip"), pictures(10)))
        other.kill()
    assert files_in(Path("data")) == pictures() and in_step()


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
def test_a_stage_that_reads_the_images_never_has_others_put_below_it(
    settled: room.Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped: list[Path] = []
    with (
        subprocess.Popen([sys.executable, "-c", STAGE_AT_WORK], stdout=subprocess.PIPE) as stage,
        monkeypatch.context() as patch,
    ):
        patch.setattr(room, "swap_in", swapped.append)
        stage.stdout.readline()
        with pytest.raises(Unavailable, match="data' is busy, it is being blocked by: .*; data/ is as it was"):
            arrive(zip_of(Path("../new.zip"), pictures(10)))
        stage.kill()
    assert not swapped and files_in(Path("data")) == pictures() and in_step()
    assert arrive("../new.zip").changed, "the lock of a killed process is none"
