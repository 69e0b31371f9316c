"""Untrusted text is printed as one line without anything that a terminal or console library would interpret."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from landuse.core.errors import MAX_LINE, LanduseError, Refused, escape, one_line, printable, report_errors

LANDUSE = str(Path(sys.executable).with_name("landuse"))
ESCAPES = (
    "\x1b]8;;http://evil\x07\x1b[99999999999999999999;;mclick\x1b[2J"  # a link, an invalid colour, a cleared screen
)
HOSTILE = {
    "escape sequences": ESCAPES,
    "control characters": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "text direction": "\u202egpj.exe\u2066\u200f\u061c",
    "invisible characters": "\u200b\ufeff\u00ad\U000e0041",
    "line breaks": "a\u2028b\u2029c\x85d\x0be\r\nf",
    "lone surrogates": "a\udcff\ud800",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_invisible_characters_are_escaped_in_every_message(kind: str) -> None:
    for line in (printable(HOSTILE[kind]), str(LanduseError(HOSTILE[kind])), one_line(HOSTILE[kind])):
        assert line.isprintable() and line.encode()
    assert printable(printable(HOSTILE[kind])) == printable(HOSTILE[kind])


def test_letters_of_all_languages_symbols_and_spaces_are_kept() -> None:
    line = "Bl\u00e4tter \u6811 \u05e2\u05e5 … → 10\u202f% \U0001f333 [/red]"
    assert printable(line) == escape(line) == line


def test_long_text_is_shortened_in_the_middle() -> None:
    line = printable(f"set.zip is refused: {'x' * 5000} lies in no class folder; use <class>/<image>")
    assert len(line) < 300 and line.startswith("set.zip is refused: xxx") and line.endswith("use <class>/<image>")
    line = printable("a name with spaces " * 300 + "; rename it")
    assert len(line) <= MAX_LINE + 1 and line.endswith("; rename it")
    assert escape("x" * 5000) == "x" * 5000, "data are not shortened"


def test_an_unexpected_error_is_printed_without_secrets_and_control_characters(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, report_errors():
        raise KeyError(f"https://user:word@host/{ESCAPES}")
    printed = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" in printed and "word@" not in printed
    assert all(line.isprintable() for line in printed.split("\n"))


def test_a_package_that_is_not_installed_is_reported_in_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended, report_errors():
        raise ModuleNotFoundError("No module named 'tensorflow.keras'", name="tensorflow.keras")
    assert ended.value.code == 1
    line = "landuse: tensorflow is not installed, which this command needs: install landuse[work], the whole pipeline\n"
    assert capsys.readouterr().err == line


def test_a_missing_module_of_our_own_keeps_its_traceback(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit), report_errors():
        raise ModuleNotFoundError("No module named 'landuse.lost'", name="landuse.lost")
    assert "Traceback" in capsys.readouterr().err


def test_a_hostile_file_name_is_printed_on_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, report_errors():
        raise PermissionError(13, "Permission denied", f"{ESCAPES}\n{'y' * 5000}")
    printed = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert end.value.code == 1 and printed.isprintable() and len(printed) < 600


class Reason(BaseHTTPRequestHandler):
    """Respond with a hostile reason phrase."""

    def do_GET(self) -> None:
        self.wfile.write(f"HTTP/1.0 404 {ESCAPES}{'z' * 5000}\r\n\r\n".encode("latin-1"))

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Reason) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run_failing(*command: str) -> tuple[int, str]:
    """Return the exit code and the one line that the real command prints."""
    done = subprocess.run([LANDUSE, *command], capture_output=True, text=True, errors="surrogateescape")
    assert done.stderr.startswith("landuse: ") and done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr.rstrip("\n")


def test_a_hostile_reason_of_a_web_server_becomes_one_short_line(project: Path, site: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["data"] = {"source": f"{site}/a.zip", "checksum": "md5:" + "0" * 32}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    code, line = run_failing("fetch")
    assert code == 1 and line.isprintable() and len(line) < 400 and "check data.source" in line


@pytest.mark.parametrize("name", [f"field/{ESCAPES}{'n' * 5000}.png", f"{ESCAPES}{'n' * 5000}/a.png", f"{ESCAPES}.png"])
def test_a_hostile_name_in_an_archive_becomes_one_short_line(project: Path, name: str) -> None:
    with ZipFile("set.zip", "w") as archive:
        archive.writestr(name, b"no image")
    code, line = run_failing("ingest", "set.zip")
    assert code == Refused.exit_code and line.isprintable() and len(line) < 800
    assert "\x1b" not in line and "set.zip" in line


def test_an_archive_with_a_hostile_name_is_reported_on_one_line(project: Path) -> None:
    path = project / os.fsdecode(b"\x1b[2J\xe2\x80\xae\n.zip")
    path.write_bytes(b"no archive")
    code, line = run_failing("ingest", str(path))
    assert code == Refused.exit_code and line.isprintable() and "is no zip or tar" in line
