"""Whatever comes from outside is printed on one line that neither a terminal nor a console library takes for more."""

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

from landuse.core.errors import LONGEST_LINE, LanduseError, Refused, escaped, in_one_line, one_line, printable

LANDUSE = str(Path(sys.executable).with_name("landuse"))
COMMANDS = (
    "\x1b]8;;http://evil\x07\x1b[99999999999999999999;;mclick\x1b[2J"  # a link, a colour there is not, a clean screen
)
HOSTILE = {
    "escape sequences": COMMANDS,
    "control characters": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "turned text": "\u202egpj.exe\u2066\u200f\u061c",
    "unseen characters": "\u200b\ufeff\u00ad\U000e0041",
    "line ends": "a\u2028b\u2029c\x85d\x0be\r\nf",
    "half a character": "a\udcff\ud800",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_visible_character_is_escaped_in_every_line(kind: str) -> None:
    for said in (printable(HOSTILE[kind]), str(LanduseError(HOSTILE[kind])), one_line(HOSTILE[kind])):
        assert said.isprintable() and said.encode()
    assert printable(printable(HOSTILE[kind])) == printable(HOSTILE[kind])


def test_letters_of_every_language_signs_and_spaces_stay_as_they_are() -> None:
    said = "Bl\u00e4tter \u6811 \u05e2\u05e5 … → 10\u202f% \U0001f333 [/red]"
    assert printable(said) == escaped(said) == said


def test_what_is_long_is_shortened_in_the_middle() -> None:
    said = printable(f"set.zip is refused: {'x' * 5000} lies in no class folder; use <class>/<image>")
    assert len(said) < 300 and said.startswith("set.zip is refused: xxx") and said.endswith("use <class>/<image>")
    said = printable("a name with spaces " * 300 + "; rename it")
    assert len(said) <= LONGEST_LINE + 1 and said.endswith("; rename it")
    assert escaped("x" * 5000) == "x" * 5000, "data are not shortened"


def test_an_error_that_nobody_foresaw_is_told_without_control_characters(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, in_one_line():
        raise KeyError(f"https://user:word@host/{COMMANDS}")
    told = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" in told and "word@" not in told
    assert all(line.isprintable() for line in told.split("\n"))


def test_a_file_whose_name_is_hostile_is_named_in_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, in_one_line():
        raise PermissionError(13, "Permission denied", f"{COMMANDS}\n{'y' * 5000}")
    told = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert end.value.code == 1 and told.isprintable() and len(told) < 600


class Reason(BaseHTTPRequestHandler):
    """Answers with a status whose reason is hostile."""

    def do_GET(self) -> None:
        self.wfile.write(f"HTTP/1.0 404 {COMMANDS}{'z' * 5000}\r\n\r\n".encode("latin-1"))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Reason) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fails(*command: str) -> tuple[int, str]:
    """Exit code and the one line that the real command prints."""
    done = subprocess.run([LANDUSE, *command], capture_output=True, text=True, errors="surrogateescape")
    assert done.stderr.startswith("landuse: ") and done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr.rstrip("\n")


def test_a_hostile_reason_of_a_web_server_is_one_short_line_of_the_real_command(project: Path, site: str) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["data"] = {"source": f"{site}/a.zip", "checksum": "md5:" + "0" * 32}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    code, said = fails("fetch")
    assert code == 1 and said.isprintable() and len(said) < 400 and "check data.source" in said


@pytest.mark.parametrize(
    "name", [f"field/{COMMANDS}{'n' * 5000}.png", f"{COMMANDS}{'n' * 5000}/a.png", f"{COMMANDS}.png"]
)
def test_a_hostile_name_in_an_archive_is_one_short_line_of_the_real_command(project: Path, name: str) -> None:
    with ZipFile("set.zip", "w") as archive:
        archive.writestr(name, b"no image")
    code, said = fails("ingest", "set.zip")
    assert code == Refused.exit_code and said.isprintable() and len(said) < 800
    assert "\x1b" not in said and "set.zip" in said


def test_an_archive_whose_own_name_is_hostile_is_named_in_one_line(project: Path) -> None:
    path = project / os.fsdecode(b"\x1b[2J\xe2\x80\xae\n.zip")
    path.write_bytes(b"no archive")
    code, said = fails("ingest", str(path))
    assert code == Refused.exit_code and said.isprintable() and "is no zip or tar" in said
