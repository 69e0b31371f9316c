"""A flow run here and now by `landuse flow`: settings become parameters, and a mistake is one line."""

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
from pipelines.steps.local_run import EPHEMERAL, OWNER, end_orphans, parameters, prepare, refuse_unwritable
from pipelines.training import training

NOBODY = 65534
LANDUSE = str(Path(sys.executable).with_name("landuse"))


@pytest.mark.parametrize(
    ("flow", "settings", "found"),
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
def test_settings_are_the_parameters_of_the_flow(flow, settings: list[str], found: dict) -> None:
    assert parameters(flow.fn, settings) == found


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
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(flow, setting: str, words: str) -> None:
    with pytest.raises(LanduseError) as refusal:
        parameters(flow.fn, [setting])
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
def test_a_flow_takes_no_address_since_prefect_would_keep_it(flow, setting: str) -> None:
    with pytest.raises(LanduseError) as refused:
        parameters(flow.fn, [setting])
    assert setting.partition("=")[0] in str(refused.value) and "planted" not in str(refused.value)


def test_the_server_is_told_to_refuse_an_address_before_it_keeps_it() -> None:
    bad = "https://user:planted@host/a.zip"
    for flow, key, value in ((retraining, "source", bad), (training, "overrides", {"data.source": bad})):
        schema = parameter_schema(flow).model_dump()
        assert is_valid_schema(schema) is None and list(validate({key: value}, schema))
    assert not validate({"source": "inbox/a.zip"}, parameter_schema(retraining).model_dump())
    fine = {"overrides": {"train.epochs": 3, "split.test": 0.1, "validate.modes": ["RGB"], "train.seed": None}}
    assert not validate(fine, parameter_schema(training).model_dump())


def test_without_servers_a_flow_speaks_to_none_whatever_the_shell_says(place: Path) -> None:
    with patch.dict(os.environ, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        prepare()
        assert "PREFECT_API_URL" not in os.environ and "MLFLOW_TRACKING_URI" not in os.environ
        assert os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "true"
        assert os.environ["PREFECT_HOME"] == str(place / ".services" / "prefect")


def test_a_store_that_the_user_named_is_kept(place: Path) -> None:
    for store in (f"sqlite:///{place}/own.db", "http://127.0.0.1:1"):
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": store}):
            prepare()
            assert os.environ["MLFLOW_TRACKING_URI"] == store


def test_the_real_command_says_what_is_wrong_in_one_line(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    done = subprocess.run([LANDUSE, "flow", "retraining", "froce=true"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("landuse: froce=true: no parameter of this flow; give source=<value>, force=<value>")
    assert done.stderr.count("\n") == 1


def test_the_real_command_knows_its_flows_and_no_other(project: Path) -> None:
    done = subprocess.run(
        [LANDUSE, "flow", "cooking"], capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert all(name in done.stderr for name in ("ingestion", "training", "retraining", "promotion"))


@pytest.mark.slow
def test_the_real_command_runs_a_flow_without_a_server_and_says_why_it_failed(project: Path) -> None:
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
def test_a_flow_that_is_stopped_takes_its_temporary_server_with_it(
    project: Path, stop: Callable[[subprocess.Popen], None], code: int
) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    command = [LANDUSE, "flow", "ingestion"]
    heard = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard) as flow:
        next(line for line in flow.stderr if "Flow run 'ingest'" in line)
        started = psutil.Process(flow.pid).children(recursive=True)
        assert any("uvicorn" in process.cmdline() for process in started)
        stop(flow)
        said = flow.stderr.read()
    assert flow.returncode == code and "Traceback" not in said
    assert not any(process.is_running() for process in started)


@pytest.mark.slow
def test_a_temporary_server_that_does_not_start_in_time_is_one_line(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    hurried = "from pipelines import services; services.START_SECONDS = 1"
    script = f"{hurried}; import sys; from landuse.cli import main; sys.argv = ['landuse', 'flow', 'ingestion']; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert "landuse: Prefect's temporary server did not start within 1 s: try again, or start one" in done.stderr


@pytest.mark.parametrize("owner", ["me", "3", "{}", '{"process.host": 1}'])
def test_a_process_that_somebody_else_calls_so_is_left_alone(owner: str) -> None:
    with subprocess.Popen(["sleep", "100"], env=os.environ | {EPHEMERAL: "1", OWNER: owner}) as stranger:
        end_orphans()
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.slow
def test_the_temporary_server_of_a_flow_that_was_killed_is_ended_by_the_next_flow(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    with subprocess.Popen([LANDUSE, "flow", "ingestion"], stderr=subprocess.PIPE, text=True) as flow:
        next(line for line in flow.stderr if "Flow run 'ingest'" in line)
        started = psutil.Process(flow.pid).children(recursive=True)
        server = next(process for process in started if "uvicorn" in process.cmdline())
        flow.kill()
    assert server.is_running()
    with patch.dict(os.environ):
        prepare()
    assert not is_alive(server)


def test_where_another_user_made_the_folder_of_prefect_a_flow_says_so_in_one_line(place: Path) -> None:
    home = SERVICES / "prefect"
    home.mkdir()
    for path in (place, SERVICES, home):
        path.chmod(0o755)
    assert answer_of_nobody(refuse_unwritable) == ".services/prefect: Permission denied"
    home.chmod(0o777)
    (home / "prefect.db").touch(mode=0o644)
    assert answer_of_nobody(refuse_unwritable) == ".services/prefect/prefect.db: Permission denied"


def answer_of_nobody(work: Callable[[], object]) -> str:
    """The error that some work, done as another Unix user, ends with."""
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
