"""Predictions of many images: every format, bad files among good ones, and going on where the work stopped."""

import csv
import fcntl
import json
import subprocess
import sys
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
from landuse.predict import predict, text
from landuse.predict.tally import Tally

LANDUSE = Path(sys.executable).with_name("landuse")
KINDS = ["csv", "jsonl", "parquet"]


@pytest.fixture
def images(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to work in, with `images/` and the finished `model/`."""
    copytree(trained / "data", tmp_path / "images")
    copytree(trained / MODEL, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def rows(path: Path) -> dict[str, dict]:
    """The rows of an output by path, each of which must be there once."""
    if path.suffix == ".parquet":
        found = pyarrow.parquet.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        found = list(csv.DictReader(path.read_text().splitlines()))
    else:
        found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["path"] for row in found}) == len(found)
    return {row["path"]: row for row in found}


def ask(output: Path, *paths: str) -> Tally:
    return predict(list(paths) or ["images"], "model", output)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_has_a_row_with_what_the_classifier_says(images: Path, kind: str) -> None:
    output, classifier = Path(f"out.{kind}"), Classifier(Path("model"))
    tally = ask(output)
    found = rows(output)
    assert len(found) == tally.images == 36 and tally.bad == 0
    for path, row in found.items():
        expected = classifier.predict(Path(path)).model_dump()
        if kind == "csv":
            columns = {f"p_{label}": f"{value:.6f}" for label, value in expected["probabilities"].items()}
            plain = {"label": expected["label"], "confidence": f"{expected['confidence']:.6f}"}
            assert plain.items() | columns.items() <= row.items() and row["error"] == ""
            assert row["unsure"] == str(expected["unsure"]).lower()
        else:
            assert {key: row[key] for key in expected} == expected and row["error"] is None
        assert row["model"] == f"sha256:{classifier.digest[:16]}"
    assert [path.name for path in Path().glob("out*")] == [output.name]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_files_are_rows_with_their_reason_and_the_rest_goes_on(images: Path, kind: str) -> None:
    (images / "field" / "00.png").write_bytes(b"")
    (images / "out.png").symlink_to(__file__)
    tally = ask(output := Path(f"out.{kind}"))
    bad = {path: row["error"] for path, row in rows(output).items() if row["error"]}
    assert bad == {
        "images/field/00.png": "cannot be decoded: not a TIFF, JPEG, PNG or WebP image",
        "images/out.png": "it is a link that leads out of the folder: name the file itself",
    }
    assert (tally.images, tally.bad) == (37, 2)
    assert sorted(tally.first_bad) == sorted(f"{path}: {reason}" for path, reason in bad.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_call_answers_only_what_is_new_and_counts_everything(
    images: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path(f"out.{kind}")
    (images / "field" / "00.png").write_bytes(b"")
    ask(output, "images/field", "images/water/*1.png")
    before, asked = rows(output), []
    monkeypatch.setattr(Classifier, "predict", lambda self, image: asked.append(image) or original(self, image))
    tally = ask(output)
    after = rows(output)
    assert {str(path) for path in asked} == set(after) - set(before) and len(after) == 36
    assert {path: after[path] for path in before} == before and (tally.images, tally.bad) == (36, 1)


original = Classifier.predict


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_cut_in_half_is_written_again(images: Path, kind: str) -> None:
    ask(output := Path(f"out.{kind}"))
    whole = rows(output)
    for kept in (0, 7, output.stat().st_size // 2, output.stat().st_size - 1):
        output.write_bytes(output.read_bytes()[:kept])
        assert ask(output).images == 36
        assert rows(output) == whole


def test_parquet_that_was_not_finished_goes_on_from_the_lines_beside_it(images: Path) -> None:
    ask(Path("out.jsonl"), "images/field")
    Path("out.jsonl").rename("out.parquet.jsonl")
    with Path("out.parquet.jsonl").open("a") as file:
        file.write('{"path": "images/for')
    ask(Path("out.parquet"))
    assert len(rows(Path("out.parquet"))) == 36 and not Path("out.parquet.jsonl").exists()
    assert pd.read_parquet("out.parquet")["confidence"].between(0, 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_after_kill_9_at_any_time_every_image_has_its_row_once(images: Path, kind: str) -> None:
    for number in range(200):
        copytree(images / "field", images / f"more{number}")
    command = [LANDUSE, "predict", "images", "--model", "model", "--output", f"out.{kind}"]
    growing = Path("out.parquet.jsonl" if kind == "parquet" else f"out.{kind}")
    for size in (1, 20_000, 100_000):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not growing.exists() or growing.stat().st_size < size):
            sleep(0.005)
        process.kill()
        assert process.wait() == -SIGKILL, "it was done before it could be killed"
    subprocess.run(command, check=True, capture_output=True)
    assert len(rows(Path(f"out.{kind}"))) == 36 + 200 * 12


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_of_another_model_are_not_mixed_with_those_of_this_one(images: Path, kind: str) -> None:
    output = Path(f"out.{kind}")
    ask(output, "images/field")
    before = output.read_bytes()
    with Path("model/model.tflite").open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(LanduseError, match=r"holds predictions of sha256:.*, and now sha256:.* would answer: name"):
        ask(output)
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
def test_a_file_of_something_else_is_refused_and_left_alone(images: Path, name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(LanduseError, match=f"--output {name} .*name another file") as caught:
        ask(Path(name))
    assert Path(name).read_bytes() == content and "\n" not in str(caught.value)
    assert [path.name for path in Path().glob("out*")] == [name]


@pytest.mark.parametrize("value", [1, pd.Timestamp("2026-01-01")])
def test_parquet_of_something_else_is_refused_and_left_alone(images: Path, value: object) -> None:
    pd.DataFrame({"a": [value]}).to_parquet("out.parquet")
    before = Path("out.parquet").read_bytes()
    with pytest.raises(LanduseError, match="--output out.parquet has the column a of somebody else: name another file"):
        ask(Path("out.parquet"))
    assert Path("out.parquet").read_bytes() == before and len(list(Path().glob("out*"))) == 1


def test_two_at_once_do_not_write_the_same_file(images: Path) -> None:
    with Path("out.csv").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LanduseError, match="--output out.csv: another landuse predict is writing it"):
            ask(Path("out.csv"))
    assert ask(Path("out.csv")).images == 36


@pytest.mark.parametrize(
    ("output", "paths", "words"),
    [
        ("out.txt", ["images"], "--output out.txt: name a file that ends with .csv, .jsonl, .parquet"),
        ("no/out.csv", ["images"], "--output no/out.csv: there is no folder no"),
        ("out.csv", ["images/*.gif"], r"images/\*.gif: there is no image"),
        ("out.csv", ["imges"], "imges: there is no such image, folder or pattern"),
    ],
)
def test_what_cannot_be_begun_is_refused_and_leaves_nothing(
    images: Path, output: str, paths: list[str], words: str
) -> None:
    with pytest.raises(LanduseError, match=words):
        ask(Path(output), *paths)
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_line_and_afterwards_it_goes_on(images: Path, kind: str) -> None:
    command = [LANDUSE, "predict", "images", "--model", "model", "--output", f"out.{kind}"]
    limit = (3000, 3000)  # bytes a file may have, as if the disk were full
    short = subprocess.run(
        command, capture_output=True, text=True, env=tiny.WITHOUT_BYTECODE,
        preexec_fn=lambda: setrlimit(RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert short.returncode == 1 and short.stderr.splitlines()[-1] == f"landuse: --output out.{kind}: File too large"
    assert "Traceback" not in short.stderr
    subprocess.run(command, check=True, capture_output=True)
    assert len(rows(Path(f"out.{kind}"))) == 36


def test_an_output_that_cannot_be_opened_is_refused(images: Path) -> None:
    Path("out.csv").mkdir()
    with pytest.raises(LanduseError, match="--output out.csv: Is a directory"):
        ask(Path("out.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_number_of_images(images: Path, kind: str) -> None:
    many = images / "many"
    many.mkdir()
    for number in range(20_000):
        (many / f"{number}.png").hardlink_to(images / "field" / "00.png")
    peaks = [
        peak_megabytes(folder, f"{number}.{kind}") for number, folder in enumerate(["images/field", "images/many"])
    ]
    again = peak_megabytes("images/many", f"1.{kind}")
    assert max(peaks[1], again) - peaks[0] < 30 and len(rows(Path(f"1.{kind}"))) == 20_000


def peak_megabytes(folder: str, output: str) -> float:
    """The most memory that `landuse predict` held at any time."""
    ask = f"landuse.predict.predict([{folder!r}], 'model', pathlib.Path({output!r}))"
    cores = "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])"  # each has an interpreter of its own
    code = f"import os, pathlib, resource; {cores}; import landuse.predict; {ask}; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) / 1024


def test_without_an_output_the_rows_are_csv_on_standard_output(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(["images/field"], "model", None)
    ask(Path("out.csv"), "images/field")
    assert capsys.readouterr().out == Path("out.csv").read_text()


def test_a_name_that_is_no_text_is_written_so_that_it_can_be_read(images: Path) -> None:
    name = b'caf\xe9\nx,"y".png'
    Path("images/field/00.png").rename(Path("images") / name.decode("utf-8", "surrogateescape"))
    for kind in KINDS:
        ask(output := Path(f"name.{kind}"))
        assert ask(output).images == 36 and 'images/caf\\udce9\\nx,"y".png' in rows(output)
    assert text(Path("plain/é.png")) == "plain/é.png"


def test_a_hostile_name_is_printed_without_its_control_characters_as_row_and_as_bad_file(images: Path) -> None:
    name = "\x1b]8;;x\x07\x1b[2J\u202egnp\u2028\x9b31m"
    Path("images/field/00.png").rename(Path("images") / f"{name}.png")
    (Path("images") / f"{name}-bad.png").write_bytes(b"no image")
    command = [LANDUSE, "predict", "images", "--model", "model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4
    for text_of_it, lines in ((done.stdout, 38), (done.stderr, 2)):
        assert all(line.isprintable() for line in text_of_it.split("\n"))
        assert len([line for line in text_of_it.splitlines() if not line.startswith("predict ")]) == lines
    bad = next(line for line in done.stdout.splitlines() if "-bad.png" in line)
    assert "cannot be decoded" in bad and bad.count("-bad.png") == 1, "the reason does not repeat the name"
    assert r"\x1b[2J\u202egnp\u2028\x9b31m-bad.png: cannot be decoded" in done.stderr


@pytest.mark.parametrize(("bad", "code"), [(False, 0), (True, 4)])
def test_the_exit_code_tells_whether_all_could_be_read(images: Path, bad: bool, code: int) -> None:
    if bad:
        (images / "field" / "00.png").write_bytes(b"")
    command = [LANDUSE, "predict", "images/field", "--model", "model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code and len(done.stdout.splitlines()) == 13
    assert done.stderr.splitlines()[-1].startswith("images 12: ") and "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_the_work_quietly(images: Path) -> None:
    command = f"{quote(str(LANDUSE))} predict images --model model | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("path,label") and "Traceback" not in done.stderr and "Exception" not in done.stderr
