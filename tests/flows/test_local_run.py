"""`landuse flow` runs a flow in this process: settings become parameters, and a mistake is reported in one line."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import is_valid_schema, validate
from processes import ROOT

from landuse.core.errors import LanduseError
from landuse.core.paths import SERVICES
from landuse.core.process import is_alive
from pipelines.promotion import promotion
from pipelines.retraining import retraining
from pipelines.steps.local_run import (
    EPHEMERAL,
    OWNER,
    kill_orphaned_servers,
    parse_settings,
    prepare_environment,
    refuse_unwritable,
)
from pipelines.training import training

NOBODY = 65534
LANDUSE = str(Path(sys.executable).with_name("landuse"))


@pytest.mark.parametrize(
    ("flow", "settings", "expected"),
    [
        (retraining, [], {}),
        (retraining, ["force=true"], {"force": True}),
        (retraining, ["source=inbox/a=b.zip", "force=no"], {"source": "inbox/a=b.zip", "force": False}),
        (promotion, ["version=7", "dry_run=true"], {"version": "7", "dry_run": True}),
        (promotion, ["force=true", "reason=it: is {biased"], {"force": True, "reason": "it: is {biased"}),
        (
            training,
            ["train.learning_rate=0.001", "train.unfreeze_from=head", "validate.modes=[RGB, L]"],
            {
                "overrides": {
                    "train.learning_rate": 0.001,
                    "train.unfreeze_from": "head",
                    "validate.modes": ["RGB", "L"],
                }
            },
        ),
    ],
)
def test_settings_are_parsed_as_parameters_of_the_flow(flow, settings: list[str], expected: dict) -> None:
    assert parse_settings(flow.fn, settings) == expected


@pytest.mark.parametrize(
    ("flow", "setting", "words"),
    [
        (retraining, "forc=true", "no parameter of this flow; give source=<value>, force=<value>"),
        (retraining, "force", "no parameter of this flow"),
        (retraining, "train.epochs=3", "no parameter of this flow"),
        (retraining, "force=maybe", "Input should be a valid boolean"),
        (training, "train.epochs", "no parameter of this flow; give <section>.<key>=<value>"),
        (training, "train.epochs=[3", "not valid YAML"),
        (training, "overrides=3", "no parameter of this flow"),
    ],
)
def test_an_invalid_setting_is_refused_in_one_line(flow, setting: str, words: str) -> None:
    with pytest.raises(LanduseError) as refusal:
        parse_settings(flow.fn, [setting])
    assert str(refusal.value).startswith(f"{setting}: {words}") and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("flow", "setting"),
    [
        (retraining, "source=https://user:planted@host/a.zip"),
        (retraining, "source=https://host/a.zip"),
        (retraining, "source=https:/user:planted@host/a.zip"),
        (retraining, "source=host/a.zip?token=planted"),
        (training, "data.source=https://user:planted@host/a.zip"),
        (training, "register.model=ftp://user:planted@host"),
        (retraining, "sorce=https://user:planted@host/a.zip?token=planted"),
    ],
)
def test_a_url_is_refused_since_prefect_would_store_it(flow, setting: str) -> None:
    with pytest.raises(LanduseError) as refused:
        parse_settings(flow.fn, [setting])
    assert setting.partition("=")[0] in str(refused.value) and "planted" not in str(refused.value)


def test_the_parameter_schema_makes_the_server_reject_urls() -> None:
    bad = "https://user:planted@host/a.zip"
    for flow, key, value in ((retraining, "source", bad), (training, "overrides", {"data.source": bad})):
        schema = parameter_schema(flow).model_dump()
        assert is_valid_schema(schema) is None and list(validate({key: value}, schema))
    assert not validate({"source": "inbox/a.zip"}, parameter_schema(retraining).model_dump())
    fine = {"overrides": {"train.epochs": 3, "split.test": 0.1, "validate.modes": ["RGB"], "train.seed": None}}
    assert not validate(fine, parameter_schema(training).model_dump())


def test_without_servers_a_flow_ignores_the_server_variables_of_the_shell(work_dir: Path) -> None:
    with patch.dict(os.environ, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        prepare_environment()
        assert "PREFECT_API_URL" not in os.environ and "MLFLOW_TRACKING_URI" not in os.environ
        assert os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "true"
        assert os.environ["PREFECT_HOME"] == str(work_dir / ".services" / "prefect")


def test_a_store_set_by_the_user_is_kept(work_dir: Path) -> None:
    for store in (f"sqlite:///{work_dir}/own.db", "http://127.0.0.1:1"):
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": store}):
            prepare_environment()
            assert os.environ["MLFLOW_TRACKING_URI"] == store


def test_the_command_reports_an_unknown_parameter_in_one_line(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run([LANDUSE, "flow", "retraining", "froce=true"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("landuse: froce=true: no parameter of this flow; give source=<value>, force=<value>")
    assert done.stderr.count("\n") == 1


def test_the_command_offers_exactly_the_four_flows(project: Path) -> None:
    done = subprocess.run(
        [LANDUSE, "flow", "cooking"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("ingestion", "training", "retraining", "promotion"))


@pytest.mark.slow
def test_the_command_runs_a_flow_without_a_server_and_reports_its_failure(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run([LANDUSE, "flow", "ingestion", "source=nowhere.zip"], capture_output=True, text=True)
    complaint = "nowhere.zip: there is no such file or folder"
    assert done.returncode == 1 and f"landuse: {complaint}" in done.stderr.splitlines()
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda flow: flow.terminate(), 128 + signal.SIGTERM),
        (lambda flow: os.killpg(flow.pid, signal.SIGINT), 128 + signal.SIGINT),
        (lambda flow: flow.send_signal(signal.SIGHUP), 128 + signal.SIGHUP),
    ],
    ids=["SIGTERM", "Ctrl-C in a terminal", "a closed terminal"],
)
def test_a_stopped_flow_also_ends_its_temporary_server(
    project: Path, stop: Callable[[subprocess.Popen], None], code: int
) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    command = [LANDUSE, "flow", "ingestion"]
    reset_sighup = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # even if the tests run under nohup
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=reset_sighup
    ) as flow:
        next(line for line in flow.stderr if "Flow run 'ingest'" in line)
        started = psutil.Process(flow.pid).children(recursive=True)
        assert any("uvicorn" in process.cmdline() for process in started)
        stop(flow)
        errors = flow.stderr.read()
    assert flow.returncode == code and "Traceback" not in errors
    assert not any(process.is_running() for process in started)


@pytest.mark.slow
def test_a_startup_timeout_of_the_temporary_server_is_reported_in_one_line(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    hurried = "from pipelines.services import processes; processes.START_SECONDS = 1"
    script = f"{hurried}; import sys; from landuse.cli import main; sys.argv = ['landuse', 'flow', 'ingestion']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert "landuse: Prefect's temporary server did not start within 1 s: try again, or start one" in done.stderr


@pytest.mark.parametrize("owner", ["me", "3", "{}", '{"process.host": 1}'])
def test_a_process_with_an_invalid_owner_is_left_alone(owner: str) -> None:
    with subprocess.Popen(["sleep", "100"], env=os.environ | {EPHEMERAL: "1", OWNER: owner}) as stranger:
        kill_orphaned_servers()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_the_next_flow_kills_the_temporary_server_of_a_killed_flow(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    with subprocess.Popen([LANDUSE, "flow", "ingestion"], stderr=subprocess.PIPE, text=True) as flow:
        next(line for line in flow.stderr if "Flow run 'ingest'" in line)
        started = psutil.Process(flow.pid).children(recursive=True)
        server = next(process for process in started if "uvicorn" in process.cmdline())
        flow.kill()
    assert server.is_running()
    with patch.dict(os.environ):
        prepare_environment()
    assert not is_alive(server)


def test_a_prefect_folder_of_another_user_is_reported_in_one_line(work_dir: Path) -> None:
    home = SERVICES / "prefect"
    home.mkdir()
    for path in (work_dir, SERVICES, home):
        path.chmod(0o755)
    assert error_as_nobody(refuse_unwritable) == ".services/prefect: Permission denied"
    home.chmod(0o777)
    (home / "prefect.db").touch(mode=0o644)
    assert error_as_nobody(refuse_unwritable) == ".services/prefect/prefect.db: Permission denied"


def error_as_nobody(work: Callable[[], object]) -> str:
    """Run a function as another Unix user and return its OSError as a text."""
    if os.getuid():
        pytest.skip("only root can be another user")
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as answer:
            return answer.read()
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        work()
    except OSError as error:
        os.write(write, f"{error.filename}: {error.strerror}".encode())
    finally:
        os._exit(0)
