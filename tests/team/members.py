"""Two clones of one project, each a process, that use one registry at the same moment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from shutil import copytree
from time import perf_counter
from unittest import mock

import gallery
from compose import BIN, ROOT, Machine
from gallery import NAME
from mlflow import MlflowClient
from stores import postgresql, s3

from landuse import registry, tracking
from landuse.registry import CHAMPION, PREVIOUS, audit_log
from landuse.tracking import MODEL_TAG
from landuse.tracking.names import facts_of

DAY = 86400
MODULES = (ROOT / "src", ROOT, ROOT / "tests", ROOT / "tests" / "team")


@contextmanager
def shared_registry(machine: Machine) -> Iterator[dict[str, str]]:
    """Run MLflow's server of compose.yaml on PostgreSQL and an S3 store; yield the variables of a member."""
    with ExitStack() as running:
        running.enter_context(postgresql(machine))
        running.enter_context(s3(machine))
        running.enter_context(machine.run("mlflow", machine.folder))
        yield member_environment(machine)


def member_environment(machine: Machine) -> dict[str, str]:
    """Return the variables of a member's shell."""
    names = {name: value for name, value in machine.environment("worker").items() if name.startswith("MLFLOW_")}
    modules = os.pathsep.join(map(str, MODULES))
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(machine.folder), "PYTHONPATH": modules} | names


class Member:
    """A clone in a process of its own; its clock is wrong by some seconds."""

    def __init__(self, project: Path, folder: Path, env: Mapping[str, str], clock: float) -> None:
        copytree(project, folder)
        command = (sys.executable, "-W", "ignore", ROOT / "tests" / "team" / "member.py", str(clock))
        with folder.with_suffix(".log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def ask(self, *words: object) -> None:
        """Give it a command."""
        print(json.dumps(words), file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, str]:
        """Wait for its answer: a version, or an error."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError(f"a member has ended with {self.process.wait()}")


@contextmanager
def two_members(project: Path, folder: Path, env: Mapping[str, str]) -> Iterator[list[Member]]:
    """Run two members, one of which is a day ahead."""
    members = [Member(project, folder / name, env, clock) for name, clock in (("ada", 0), ("bob", DAY))]
    try:
        yield members
    finally:
        for member in members:
            member.process.stdin.close()
            member.process.stdout.close()
            member.process.wait(60)


def at_once(members: list[Member], *commands: tuple[object, ...]) -> list[dict[str, str]]:
    """Give each member its command at the same moment; return their answers."""
    for member, command in zip(members, commands, strict=True):
        member.ask(*command)
    return [member.answer() for member in members]


def play_round(members: list[Member], number: int) -> dict[str, float]:
    """Let both register and promote at once: the same model in an even round, two in an odd one.

    Returns the seconds of both parts. Raises AssertionError if the registry contradicts itself.
    """
    same = number % 2 == 0
    start = perf_counter()
    registered = at_once(members, ("register", 2 * number + 1), ("register", 2 * number + (1 if same else 2)))
    versions = [answer.get("version") for answer in registered]
    assert None not in versions and (versions[0] == versions[1]) == same, registered
    between = perf_counter()
    expected = [answer["version"] for answer in at_once(members, ("champion",), ("champion",))]
    promoted = at_once(members, *(("promote", *pair) for pair in zip(versions, expected, strict=True)))
    assert_one_winner(promoted)
    assert_agree([answer["version"] for answer in promoted if "version" in answer], expected[0])
    return {"register": between - start, "promote": perf_counter() - between}


def assert_one_winner(promoted: list[dict[str, str]]) -> None:
    """Assert that one promotion won and the other was told why it did not."""
    errors = [answer["error"] for answer in promoted if "error" in answer]
    assert len(errors) == len(promoted) - 1, promoted
    assert all("is under way" in error or "meanwhile: try again" in error for error in errors), promoted


def assert_agree(winners: list[str], before: str | None) -> None:
    """Assert one version a model, and that aliases and ledger name the winner as the champion."""
    versions = MlflowClient().search_model_versions(f"name = '{NAME}'")
    models = [facts_of(version.tags)[MODEL_TAG] for version in versions]
    assert len(models) == len(set(models)), "a model has two versions"
    aliases = registry.aliases(NAME)
    assert [aliases[CHAMPION]] == winners and aliases.get(PREVIOUS) == before
    assert audit_log.champions(audit_log.finished_entries(NAME))[-1:] == winners
    assert audit_log.entries(NAME, audit_log.OPEN) == []


def make_project(folder: Path) -> None:
    """Make the project that the members are clones of, with a model to register, in the working directory."""
    gallery.make_project(folder)
    gallery.export(gallery.network(gallery.colour_head()), gallery.GOOD)


@contextmanager
def members_at_work(folder: Path) -> Iterator[list[Member]]:
    """Run a registry and two members of it below a folder; work in their project, with the registry open."""
    machine, project = Machine(folder / "server"), folder / "project"
    machine.folder.mkdir()
    project.mkdir()
    with ExitStack() as running:
        running.enter_context(chdir(project))
        make_project(project)
        env = running.enter_context(shared_registry(machine))
        members = running.enter_context(two_members(project, folder, env))
        running.enter_context(mock.patch.dict(os.environ, env))
        running.enter_context(tracking.store())
        yield members
