"""Tests of predicting many images: every format, bad files among good ones, and resuming interrupted work."""

import csv
import fcntl
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from resource import RLIMIT_FSIZE, setrlimit
from shlex import quote
from shutil import copytree
from signal import SIGKILL
from time import sleep

import pandas as pd
import pyarrow.parquet
import pytest
import tiny

from landuse.core.errors import LanduseError
from landuse.core.paths import MODEL
from landuse.ml.classifier import Classifier
from landuse.ml.image_file import ImageFile
from landuse.ml.pool import ThisProcess
from landuse.predict import path_text, predict
from landuse.predict.tally import Tally

LANDUSE = Path(sys.executable).with_name("landuse")
FORMATS = ["csv", "jsonl", "parquet"]


@pytest.fixture
def images(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with `images/` and a trained `model/`."""
    copytree(trained / "data", tmp_path / "images")
    copytree(trained / MODEL, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def rows(path: Path) -> dict[str, dict]:
    """Return the rows of an output by path, asserting that each path occurs once."""
    if path.suffix == ".parquet":
        found = pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        found = list(csv.DictReader(path.read_text().splitlines()))
    else:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["path"] for row in found}) == len(found)
    return {row["path"]: row for row in found}


def run(output: Path, *paths: str) -> Tally:
    return predict(list(paths) or ["images"], "model", output)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_image_has_a_row_with_its_prediction(images: Path, suffix: str) -> None:
    output, classifier = Path(f"out.{suffix}"), Classifier(Path("model"))
    tally = run(output)
    found = rows(output)
    assert len(found) == tally.images == 36 and tally.bad == 0
    for path, row in found.items():
        expected = classifier.predict(Path(path)).model_dump()
        if suffix == "csv":
            columns = {f"p_{label}": f"{value:.6f}" for label, value in expected["probabilities"].items()}
            plain = {"label": expected["label"], "confidence": f"{expected['confidence']:.6f}"}
            assert plain.items() | columns.items() <= row.items() and row["error"] == ""
            assert row["unsure"] == str(expected["unsure"]).lower()
        else:
            assert {key: row[key] for key in expected} == expected and row["error"] is None
        assert row["model"] == f"sha256:{classifier.digest[:16]}"
    assert [path.name for path in Path().glob("out*")] == [output.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_bad_files_become_rows_with_a_reason_among_the_others(images: Path, suffix: str) -> None:
    (images / "field" / "00.png").write_bytes(b"")
    (images / "out.png").symlink_to(__file__)
    tally = run(output := Path(f"out.{suffix}"))
    bad = {path: row["error"] for path, row in rows(output).items() if row["error"]}
    assert bad == {
        "images/field/00.png": "cannot be decoded: not a TIFF, JPEG, PNG or WebP image",
        "images/out.png": "it is a link that leads out of the folder: name the file itself",
    }
    assert (tally.images, tally.bad) == (37, 2)
    assert sorted(tally.first_bad) == sorted(f"{path}: {reason}" for path, reason in bad.items())


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_second_run_predicts_only_new_images_and_counts_all(
    images: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(f"out.{suffix}")
    (images / "field" / "00.png").write_bytes(b"")
    run(output, "images/field", "images/water/*1.png")
    before, predicted = rows(output), []

    def recorded(self: ThisProcess, task: object, files: Iterable[ImageFile]) -> Iterator:
        return original(self, task, (predicted.append(file.path) or file for file in files))

    monkeypatch.setattr(ThisProcess, "map", recorded)
    tally = run(output)
    after = rows(output)
    assert {str(path) for path in predicted} == set(after) - set(before) and len(after) == 36
    assert {path: after[path] for path in before} == before and (tally.images, tally.bad) == (36, 1)


original = ThisProcess.map


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_truncated_row_is_written_again(images: Path, suffix: str) -> None:
    run(output := Path(f"out.{suffix}"))
    whole = rows(output)
    for size in (0, 7, output.stat().st_size // 2, output.stat().st_size - 1):
        output.write_bytes(output.read_bytes()[:size])
        assert run(output).images == 36
        assert rows(output) == whole


def test_unfinished_parquet_resumes_from_its_json_lines(images: Path) -> None:
    run(Path("out.jsonl"), "images/field")
    Path("out.jsonl").rename("out.parquet.jsonl")
    with Path("out.parquet.jsonl").open("a") as file:
        file.write('{"path": "images/for')
    run(Path("out.parquet"))
    assert len(rows(Path("out.parquet"))) == 36 and not Path("out.parquet.jsonl").exists()
    assert pd.read_parquet("out.parquet")["confidence"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_after_kill_9_at_any_time_every_image_gets_exactly_one_row(images: Path, suffix: str) -> None:
    for number in range(200):
        copytree(images / "field", images / f"more{number}")
    command = [LANDUSE, "predict", "images", "--model", "model", "--output", f"out.{suffix}"]
    growing = Path("out.parquet.jsonl" if suffix == "parquet" else f"out.{suffix}")
    for size in (1, 20_000, 100_000):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not growing.exists() or growing.stat().st_size < size):
            sleep(0.005)
        process.kill()
        assert process.wait() == -SIGKILL, "it was done before it could be killed"
    subprocess.run(command, check=True, capture_output=True)
    assert len(rows(Path(f"out.{suffix}"))) == 36 + 200 * 12


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_of_different_models_are_not_mixed(images: Path, suffix: str) -> None:
    output = Path(f"out.{suffix}")
    run(output, "images/field")
    before = output.read_bytes()
    with Path("model/model.tflite").open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(LanduseError, match=r"holds predictions of sha256:.*, and now sha256:.* would answer: name"):
        run(output)
    assert output.read_bytes() == before and [path.name for path in Path().glob("out*")] == [output.name]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out.csv", b"a,b\n1,2\n"),
        ("out.csv", b"just a line\n"),
        ("out.csv", b"no line end"),
        ("out.jsonl", b"[1]\n"),
        ("out.jsonl", b"3\n"),
        ("out.jsonl", b'{"path": 1}\n'),
        ("out.jsonl", b"\xff\xfe\n"),
        ("out.parquet", b"PAR1 no more"),
    ],
)
def test_a_file_with_other_content_is_refused_and_unchanged(images: Path, name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(LanduseError, match=f"--output {name} .*name another file") as caught:
        run(Path(name))
    assert Path(name).read_bytes() == content and "\n" not in str(caught.value)
    assert [path.name for path in Path().glob("out*")] == [name]


@pytest.mark.parametrize("value", [1, pd.Timestamp("2026-01-01")])
def test_parquet_with_other_content_is_refused_and_unchanged(images: Path, value: object) -> None:
    pd.DataFrame({"a": [value]}).to_parquet("out.parquet")
    before = Path("out.parquet").read_bytes()
    with pytest.raises(LanduseError, match="--output out.parquet has the column a of somebody else: name another file"):
        run(Path("out.parquet"))
    assert Path("out.parquet").read_bytes() == before and len(list(Path().glob("out*"))) == 1


def test_two_processes_do_not_write_the_same_file(images: Path) -> None:
    with Path("out.csv").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LanduseError, match="--output out.csv: another landuse predict is writing it"):
            run(Path("out.csv"))
    assert run(Path("out.csv")).images == 36


@pytest.mark.parametrize(
    ("output", "paths", "words"),
    [
        ("out.txt", ["images"], "--output out.txt: name a file that ends with .csv, .jsonl, .parquet"),
        ("no/out.csv", ["images"], "--output no/out.csv: there is no folder no"),
        ("out.csv", ["images/*.gif"], r"images/\*.gif: there is no image"),
        ("out.csv", ["imges"], "imges: there is no such image, folder or pattern"),
    ],
)
def test_work_that_cannot_start_is_refused_and_leaves_no_output(
    images: Path, output: str, paths: list[str], words: str
) -> None:
    with pytest.raises(LanduseError, match=words):
        run(Path(output), *paths)
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_reported_in_one_line_and_work_resumes_later(images: Path, suffix: str) -> None:
    command = [LANDUSE, "predict", "images", "--model", "model", "--output", f"out.{suffix}"]
    limit = (3000, 3000)  # bytes per file, to simulate a full disk
    limited = subprocess.run(
        command, capture_output=True, text=True, env=tiny.WITHOUT_BYTECODE,
        preexec_fn=lambda: setrlimit(RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert limited.returncode == 1 and "Traceback" not in limited.stderr
    assert limited.stderr.splitlines()[-1] == f"landuse: --output out.{suffix}: File too large"
    subprocess.run(command, check=True, capture_output=True)
    assert len(rows(Path(f"out.{suffix}"))) == 36


def test_an_output_that_cannot_be_opened_is_refused(images: Path) -> None:
    Path("out.csv").mkdir()
    with pytest.raises(LanduseError, match="--output out.csv: Is a directory"):
        run(Path("out.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_does_not_grow_with_the_number_of_images(images: Path, suffix: str) -> None:
    many = images / "many"
    many.mkdir()
    for number in range(20_000):
        (many / f"{number}.png").hardlink_to(images / "field" / "00.png")
    peaks = [
        peak_megabytes(folder, f"{number}.{suffix}") for number, folder in enumerate(["images/field", "images/many"])
    ]
    repeated = peak_megabytes("images/many", f"1.{suffix}")
    assert max(peaks[1], repeated) - peaks[0] < 30 and len(rows(Path(f"1.{suffix}"))) == 20_000


def peak_megabytes(folder: str, output: str) -> float:
    """Measure the peak memory of a prediction in a process of its own."""
    call = f"landuse.predict.predict([{folder!r}], 'model', pathlib.Path({output!r}))"
    cores = "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])"  # each core adds an interpreter
    code = f"import os, pathlib, resource; {cores}; import landuse.predict; {call}; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) / 1024


def test_without_an_output_the_rows_are_csv_on_standard_output(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(["images/field"], "model", None)
    run(Path("out.csv"), "images/field")
    assert capsys.readouterr().out == Path("out.csv").read_text()


def test_a_name_that_is_not_valid_text_is_escaped(images: Path) -> None:
    name = b'caf\xe9\nx,"y".png'
    Path("images/field/00.png").rename(Path("images") / name.decode("utf-8", "surrogateescape"))
    for suffix in FORMATS:
        run(output := Path(f"name.{suffix}"))
        assert run(output).images == 36 and 'images/caf\\udce9\\nx,"y".png' in rows(output)
    assert path_text(Path("plain/é.png")) == "plain/é.png"


def test_control_characters_in_a_name_are_escaped_in_rows_and_errors(images: Path) -> None:
    name = "\x1b]8;;x\x07\x1b[2J\u202egnp\u2028\x9b31m"
    Path("images/field/00.png").rename(Path("images") / f"{name}.png")
    (Path("images") / f"{name}-bad.png").write_bytes(b"no image")
    command = [LANDUSE, "predict", "images", "--model", "model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    for printed, lines in ((done.stdout, 38), (done.stderr, 2)):
        assert all(line.isprintable() for line in printed.split("\n"))
        assert len([line for line in printed.splitlines() if not line.startswith("predict ")]) == lines
    bad = next(line for line in done.stdout.splitlines() if "-bad.png" in line)
    assert "cannot be decoded" in bad and bad.count("-bad.png") == 1, "the reason does not repeat the name"
    assert r"\x1b[2J\u202egnp\u2028\x9b31m-bad.png: cannot be decoded" in done.stderr


@pytest.mark.parametrize(("bad", "code"), [(False, 0), (True, 4)])
def test_the_exit_code_says_whether_all_images_could_be_read(images: Path, bad: bool, code: int) -> None:
    if bad:
        (images / "field" / "00.png").write_bytes(b"")
    command = [LANDUSE, "predict", "images/field", "--model", "model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and len(done.stdout.splitlines()) == 13
    assert done.stderr.splitlines()[-1].startswith("images 12: ") and "Traceback" not in done.stderr


def test_a_closed_pipe_ends_the_work_quietly(images: Path) -> None:
    command = f"{quote(str(LANDUSE))} predict images --model model | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("path,label") and "Traceback" not in done.stderr and "Exception" not in done.stderr
