"""The policy for environment variables and user-wide settings: each row, and its effect on the libraries."""

import os
import shlex
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import copy, copytree, which
from threading import Thread
from unittest.mock import patch

import pytest

from landuse.core import environment
from landuse.core.environment import (
    FIXED,
    OBEYED,
    PYTHON_STARTUP,
    VARIABLES,
    Row,
    find_row,
    sanitize_environment,
    without_optimization,
)
from landuse.core.errors import LanduseError
from landuse.core.paths import FEATURES
from landuse.tracking.backend_store import prepare_connection

ROOT = Path(__file__).parents[1]
LANDUSE = Path(sys.executable).with_name("landuse")
SANITIZE = "from landuse.core.environment import sanitize_environment; sanitize_environment()\n"
KERAS = """
from landuse.core.streams import quiet_tensorflow_import
with quiet_tensorflow_import():
    import keras
from keras import config
print(config.backend(), config.floatx(), config.epsilon(), config.image_data_format(), config.max_epochs())
"""
FIGURE = """
import hashlib, sys
import pandas as pd
from pathlib import Path
from landuse.report.charts import curves
from landuse.report.style import save_png
columns = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
rows = dict.fromkeys(columns, [1, 2])
save_png(curves(pd.DataFrame(rows)), Path("figure.png"))
print(hashlib.sha256(Path("figure.png").read_bytes()).hexdigest())
"""
STUDY = """
import hashlib, warnings
import optuna
from pathlib import Path
from landuse.tune.plots import plot_study
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
study.optimize(lambda trial: trial.suggest_float("x", 0, 1) * 0, 2)  # no importances, which take long
plot_study(study, Path())
print(hashlib.sha256(Path("parallel_coordinates.png").read_bytes()).hexdigest())
"""


def example(name: str) -> str:
    """Return a variable that matches a pattern."""
    return name.replace("*", "ANY")


def sanitized(variables: dict[str, str]) -> dict[str, str]:
    """Return the environment that one of our programs makes of the given variables."""
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]} | variables, clear=True), patch.object(os, "execv"):
        sanitize_environment()
        return dict(os.environ)


def output_of(code: str, folder: Path, **more: str) -> str:
    """Return the output of code in a fresh Python that applies the policy to these variables."""
    command = [sys.executable, "-c", SANITIZE + code]
    done = subprocess.run(command, cwd=folder, env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("row", VARIABLES, ids=lambda row: f"{row.library}: {row.names[0]}")
def test_a_variable_becomes_what_its_row_says(row: Row) -> None:
    for name in map(example, row.names):
        found = sanitized({name: "/nowhere"})
        if row.rule != OBEYED:
            assert found.get(name) == dict(row.values).get(name)
        elif row.library not in ("certificates", "proxies"):  # their values are checked, too
            assert found[name] == "/nowhere"


def test_the_home_of_keras_is_not_the_users() -> None:
    found = sanitized({"KERAS_HOME": "/nowhere", "XDG_CACHE_HOME": "/cache"})
    assert found["KERAS_HOME"] == "/cache/landuse/keras"


def test_fixed_variables_are_removed_whatever_their_case() -> None:
    assert "prefect_api_url" not in sanitized({"prefect_api_url": "http://127.0.0.1:1/api"})
    assert "prometheus_multiproc_dir" not in sanitized({"prometheus_multiproc_dir": "/nowhere"})


def test_applying_the_policy_twice_changes_nothing() -> None:
    once = sanitized({"PYTHONWARNINGS": "error", "ALL_PROXY": "socks5://127.0.0.1:1", "KERAS_HOME": "/nowhere"})
    assert sanitized(once) == once


def test_every_mlflow_variable_has_a_row() -> None:
    from mlflow import environment_variables

    names = [getattr(found, "name", None) for found in vars(environment_variables).values()]
    known = [name for name in names if isinstance(name, str) and name.isupper() and "MLFLOW" in name]
    assert len(known) > 200 and {name for name in known if find_row(name) is None} == {"DISABLE_MLFLOWDBFS"}


def test_a_user_without_a_name_goes_by_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1001")

    monkeypatch.setattr(environment, "getuser", nameless)
    assert sanitized({"USER": ""})["USER"] == str(os.getuid())


# Python itself


@pytest.mark.parametrize(
    "more",
    [{name: "1"} for name in PYTHON_STARTUP if "ENCODING" not in name] + [{"PYTHONUTF8": "0", "LC_ALL": "C"}],
    ids=str,
)
def test_startup_settings_of_python_are_undone(more: dict[str, str], tmp_path: Path) -> None:
    code = "import sys; print(sys.flags.optimize, sys.flags.safe_path, sys.flags.inspect, sys.stdout.encoding.lower())"
    assert output_of(code, tmp_path, **{"PYTHONIOENCODING": "ascii"} | more) == "0 False 0 utf-8\n"


@pytest.mark.parametrize("value", ["ascii", "latin-1", "utf-16"])
def test_every_name_can_be_printed_whatever_encoding_is_configured(value: str, project: Path) -> None:
    env = os.environ | {"PYTHONIOENCODING": value}
    done = subprocess.run([LANDUSE, "fetch", "b\u00e4ume \u6811.zip"], env=env, capture_output=True)
    assert done.returncode == 1 and "b\u00e4ume \u6811.zip: there is no such file" in done.stderr.decode("utf-8")


@pytest.mark.parametrize("more", [{"PYTHONWARNINGS": "error"}, {"PYTHONOPTIMIZE": "2"}], ids=str)
def test_the_real_command_works_whatever_the_python_settings(more: dict[str, str], project: Path) -> None:
    done = subprocess.run([LANDUSE, "--help"], env=os.environ | more, capture_output=True, text=True)
    assert done.returncode == 0 and "Fine-tune and export the model" in done.stdout and done.stderr == ""


def test_the_command_works_without_asserts_and_docstrings(project: Path) -> None:
    command = [sys.executable, "-OO", "-m", "landuse", "export", "--help", "-O"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "No such option: -O" in done.stderr, "options of the command itself are passed on"
    done = subprocess.run(command[:-1], capture_output=True, text=True)
    assert done.returncode == 0 and "Write a model as plain files" in " ".join(done.stdout.split())


def test_the_flows_of_the_current_folder_are_found_whatever_the_python_settings(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "__main__.py").write_text(SANITIZE + "print('those of this folder')")
    env = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-m", "pipelines", "status"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout == "those of this folder\n"


# Libraries


@pytest.mark.slow
def test_keras_ignores_the_settings_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(
        '{"backend": "jax", "floatx": "float16", "epsilon": 1, "image_data_format": "channels_first"}'
    )
    (tmp_path / ".keras").mkdir()
    copy(tmp_path / "keras.json", tmp_path / ".keras")
    more = {
        "KERAS_BACKEND": "torch",
        "KERAS_MAX_EPOCHS": "1",
        "TF_USE_LEGACY_KERAS": "1",
        "XLA_FLAGS": "--no_such_flag",
    }
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "KERAS_HOME": str(tmp_path)}
    assert output_of(KERAS, tmp_path, **home, **more) == "tensorflow float32 1e-07 channels_last None\n"


@pytest.mark.slow
def test_features_are_the_same_whatever_the_settings_of_the_user(finished: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    copytree(finished, project, symlinks=True)
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "image_data_format": "channels_first"}')
    more = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax", "NPY_DISABLE_CPU_FEATURES": "SSE"}
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "XDG_CACHE_HOME": str(tmp_path)} | more
    done = subprocess.run([LANDUSE, "extract"], cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (seen,), (expected,) = ((folder / FEATURES / "embeddings").iterdir() for folder in (project, finished))
    assert seen.name == expected.name and seen.read_bytes() == expected.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("code", [FIGURE, STUDY], ids=["a figure", "pictures of a search"])
def test_figures_are_the_same_whatever_the_matplotlibrc(code: str, tmp_path: Path) -> None:
    expected = output_of(code, tmp_path)
    rc = (
        "text.usetex: True\nsavefig.transparent: True\nfigure.facecolor: red\naxes.prop_cycle: cycler('color', ['k'])\n"
    )
    for folder in (tmp_path, tmp_path / "config" / "matplotlib"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "matplotlibrc").write_text(rc)
    more = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert output_of(code, tmp_path, MATPLOTLIBRC=str(tmp_path / "matplotlibrc"), **more) == expected


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("import numpy", "NPY_ENABLE_CPU_FEATURES", "NO_SUCH"),
        ("import prometheus_client as p; p.Counter('a', 'b').inc()", "PROMETHEUS_MULTIPROC_DIR", "/nowhere"),
        ("import PIL.Image; PIL.Image.new('L', (1, 1))", "PILLOW_ALIGNMENT", "three"),
        ("import uvicorn; assert uvicorn.Config(print).workers == 1", "WEB_CONCURRENCY", "2"),
        ("import uvicorn; assert uvicorn.Config(print).forwarded_allow_ips != '*'", "FORWARDED_ALLOW_IPS", "*"),
        ("import sqlalchemy", "SQLALCHEMY_WARN_20", "1"),
    ],
    ids=["NumPy", "Prometheus", "Pillow", "uvicorn's workers", "uvicorn's proxies", "SQLAlchemy"],
)
def test_a_library_starts_with_its_defaults(code: str, name: str, value: str, tmp_path: Path) -> None:
    assert output_of("import warnings; warnings.simplefilter('error')\n" + code, tmp_path, **{name: value}) == ""


def test_the_dvc_config_of_the_project_precedes_that_of_the_user(project: Path, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[core]\n    autostage = true\n    no_scm = true\n")
    code = "from dvc.config import Config; core = Config('.dvc')['core']; print(core['autostage'], core['no_scm'])"
    assert output_of(code, project, DVC_GLOBAL_CONFIG_DIR=str(tmp_path)) == "False False\n"


# The store of runs


def test_a_registry_apart_from_the_store_of_runs_is_refused() -> None:
    with pytest.raises(LanduseError, match="^MLFLOW_REGISTRY_URI: [^\n]*$"):
        sanitized({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_REGISTRY_URI": "http://127.0.0.1:2"})
    same = sanitized({"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_REGISTRY_URI": "http://127.0.0.1:1/"})
    assert "MLFLOW_REGISTRY_URI" not in same | sanitized({"MLFLOW_REGISTRY_URI": "databricks-uc"})


def test_a_local_server_is_sent_no_login_meant_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.end_headers()

        log_message: Callable = print

    import requests

    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        requests.get(address, timeout=5)
        prepare_connection(address)
        requests.get(address, timeout=5)
        server.shutdown()
    assert b64decode(headers[0].split()[1]) == b"me:secret" and headers[1:] == [None]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("-OO -m landuse -O", "-m landuse -O"),
        ("-O script.py -OO", "script.py -OO"),
        ("-X utf8 -OO -m landuse", "-X utf8 -m landuse"),
        ("-Xutf8 -W default -BOO script.py", "-Xutf8 -W default -B script.py"),
        ("-OOB -m landuse", "-B -m landuse"),
        ("-OOm landuse info", "-m landuse info"),
        ("-WO -c O -O", "-WO -c O -O"),
        ("--check-hash-based-pycs always -OO -mlanduse", "--check-hash-based-pycs always -mlanduse"),
        ("-OO -", "-"),
    ],
)
def test_optimization_is_removed_from_the_command_line_of_python(given: str, kept: str) -> None:
    assert without_optimization(given.split()) == kept.split()


@pytest.mark.parametrize("flags", [["-OO", "-m"], ["-X", "utf8", "-BOO", "-m"], ["-OOm"]], ids=" ".join)
def test_an_optimizing_python_runs_the_command_line_all_the_same(flags: list[str]) -> None:
    command = [sys.executable, *flags, "landuse", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "promote" in done.stdout, done.stderr


# make


PRINT_INSTALL = '[ "$1" = -c ] || echo .venv "$@" $PYTHONSAFEPATH $PIP_REQUIRE_HASHES $PIP_CONSTRAINT $PIP_DRY_RUN'
MAKE_ENVIRONMENT = """
case "$1" in
  -c) case "$2" in *ensurepip*) exit ${WITHOUT_VENV:-0};; esac;;
  -m) [ "$2" != pip ] || exit ${WITHOUT_PACKAGES:-0}
      [ "$2" = venv ] || exit 0
      mkdir -p "$3/bin"; echo "$(basename "$0")" > "$3/made"; cp "$0" "$3/bin/python";;
esac"""


def fake_program(path: Path, script: str) -> None:
    """Write a shell script in place of a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def copy_makefile(folder: Path) -> None:
    """Copy what `make .venv/run` needs, without requirements."""
    (folder / "requirements").mkdir(parents=True, exist_ok=True)
    copy(ROOT / "Makefile", folder)
    copy(ROOT / "requirements" / "install.sh", folder / "requirements")
    for name in ("requirements/run.txt", "requirements/dev.txt", "pyproject.toml"):
        (folder / name).touch()


def make_without_environment(
    folder: Path, *pythons: str, arguments: tuple[str, ...] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `make .venv/run` where only these Pythons, and git if it is among them, are on the path."""
    copy_makefile(project := folder / "project")
    for name in ("make", "sh", "mkdir", "chmod", "rm", "basename", "cp", "touch"):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).symlink_to(str(which(name)))
    for name in pythons:
        fake_program(folder / "bin" / name, MAKE_ENVIRONMENT)
    env = {"PATH": str(folder / "bin")} | more
    command = ["make", "--silent", ".venv/run", *arguments]
    return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)


def test_make_takes_the_newest_python_that_works(tmp_path: Path) -> None:
    fake_program(tmp_path / "bin" / "python3.13", "echo no such version; exit 127")
    done = make_without_environment(tmp_path, "git", "python3.11", "python3.12", "python3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "project" / ".venv" / "made").read_text() == "python3.12\n"


def test_make_takes_the_python_that_is_named(tmp_path: Path) -> None:
    done = make_without_environment(tmp_path, "git", "python3.11", "python3.13", arguments=("PYTHON=python3.11",))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "project" / ".venv" / "made").read_text() == "python3.11\n"


def test_a_failed_installation_names_the_compiler_that_it_may_need(tmp_path: Path) -> None:
    done = make_without_environment(tmp_path, "git", "python3.13", WITHOUT_PACKAGES="1")
    assert done.returncode == 2 and "the packages could not be installed" in done.stderr
    assert "a C compiler is needed" in done.stderr and not (tmp_path / "project" / ".venv" / "run").exists()


@pytest.mark.parametrize(
    ("programs", "more", "line"),
    [
        (["git"], {}, "no Python 3.11, 3.12 or 3.13 is on the path: install one, or name it"),
        (["git", "python3.12"], {"WITHOUT_VENV": "1"}, "python3.12 has no venv module: install it"),
        (["python3.12"], {}, "git is not on the path: install it"),
    ],
    ids=["python", "venv", "git"],
)
def test_make_says_in_one_line_what_is_missing(
    tmp_path: Path, programs: list[str], more: dict[str, str], line: str
) -> None:
    done = make_without_environment(tmp_path, *programs, **more)
    first, *others = done.stderr.splitlines()
    assert done.returncode != 0 and first.startswith(line)
    assert len(others) == 1 and others[0].startswith("make: ***")
    assert not (tmp_path / "project" / ".venv").exists()


def make(folder: Path, target: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `make` in a folder with a `.venv` whose Python prints how it is called to install something."""
    fake_program(folder / ".venv" / "bin" / "python", PRINT_INSTALL)
    copy_makefile(folder)
    env = {"PATH": os.environ["PATH"]} | more
    return subprocess.run(["make", "--silent", target], cwd=folder, env=env, capture_output=True, text=True)


def test_make_installs_into_the_environment_of_the_project_only(tmp_path: Path) -> None:
    more = {"PIP_USER": "1", "PIP_DRY_RUN": "1", "PIP_CONSTRAINT": "/nowhere", "PYTHON": "/bin/false", "MAKEFLAGS": "e"}
    more |= {"PIP_REQUIRE_HASHES": "1"}
    folder = tmp_path / "a b"
    folder.mkdir()
    done = make(folder, ".venv/run", **more)
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2
    assert last.startswith(".venv -m landuse.project.plots_page")
    for text in lines:
        assert text.startswith(".venv -m pip install") and text.endswith(" 0")
        assert f" --no-user --target= --prefix={folder}/.venv --root=/ " in text


def test_make_gives_dvc_a_shell_that_runs_commands(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("landuse", "dvc"):
        (program := tmp_path / ".venv" / "bin" / name).write_text(f"#!/bin/sh\necho {name} $SHELL\n")
        program.chmod(0o755)
    lines = make(tmp_path, "run", SHELL="/usr/sbin/nologin").stdout.splitlines()
    assert "dvc /bin/sh" in lines and "landuse /bin/sh" in lines


def test_make_refuses_a_project_path_with_a_colon(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    done = make(tmp_path / "a:b", "status")
    assert done.returncode == 2 and "a:b has a colon" in done.stderr and done.stdout == ""


def test_make_starts_the_flows_whatever_the_python_settings(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    assert make(tmp_path, "status", PYTHONSAFEPATH="1").stdout.splitlines()[-1] == ".venv -m pipelines status"


def test_the_python_that_creates_the_environment_is_set_on_the_command_line(tmp_path: Path) -> None:
    copy_makefile(tmp_path)
    done = subprocess.run(shlex.split("make .venv/dev PYTHON=another"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "PYTHON=another is not Python 3.11, 3.12 or 3.13" in done.stderr
    assert find_row("PYTHON").rule == FIXED
