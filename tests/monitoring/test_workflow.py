"""The workflow for GitHub is one that GitHub takes, asks for nothing it does not need, and calls what exists."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.monitoring.promtool import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
ACTION = re.compile(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})")
OF_STEPS_ALONE = ("hashFiles", "steps.", "env.", "runner.", "matrix.")


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def workflow(request: pytest.FixtureRequest) -> dict[Any, Any]:
    return dict(yaml.safe_load(request.param.read_text()))


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def lines(workflow: dict[Any, Any]) -> list[str]:
    return [line for step in steps(workflow) for line in step.get("run", "").splitlines()]


def test_there_is_one() -> None:
    assert [file.name for file in FILES] == ["ci.yml"]


def test_it_has_what_github_asks_for(workflow: dict[Any, Any]) -> None:
    assert set(workflow) == {"name", True, "permissions", "concurrency", "jobs"}, "YAML reads `on` as true"
    for name, job in workflow["jobs"].items():
        assert set(job) <= {"name", "runs-on", "timeout-minutes", "strategy", "steps", "if", "needs"}, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert set(step) <= {"name", "uses", "run", "with", "if", "env"}, step


def test_it_may_read_the_code_and_nothing_else(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert "secrets." not in str(workflow)
    assert "pull_request_target" not in workflow[True]
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_nothing_that_a_stranger_wrote_is_put_into_a_shell(workflow: dict[Any, Any]) -> None:
    """A pull request's title or branch in a `run:` is a command of its author."""
    for line in lines(workflow):
        for asked in re.findall(r"\$\{\{\s*(.*?)\s*\}\}", line):
            assert re.fullmatch(r"matrix\.\w+|github\.sha", asked), line


def test_every_job_ends_and_an_older_run_of_a_pull_request_gives_way(workflow: dict[Any, Any]) -> None:
    assert all(0 < job["timeout-minutes"] <= 60 for job in workflow["jobs"].values())
    assert "github.ref" in workflow["concurrency"]["group"]
    assert "cancel-in-progress" in workflow["concurrency"]


def test_actions_and_machines_have_a_version(workflow: dict[Any, Any]) -> None:
    for step in steps(workflow):
        assert "uses" not in step or ACTION.fullmatch(step["uses"]), step
    assert not any(job["runs-on"].endswith("latest") for job in workflow["jobs"].values())


def test_a_jobs_condition_asks_for_nothing_that_only_steps_know(workflow: dict[Any, Any]) -> None:
    for name, job in workflow["jobs"].items():
        assert not any(word in job.get("if", "") for word in OF_STEPS_ALONE), name
        for needed in job.get("needs", []):
            assert needed in workflow["jobs"]


def test_it_calls_only_what_make_can_do_and_files_that_are_there(workflow: dict[Any, Any]) -> None:
    called = [shlex.split(line)[1:] for line in lines(workflow) if line.startswith("make ")]
    files = {entry["file"] for job in workflow["jobs"].values() for entry in _matrix(job).get("include", [])}

    assert {target for targets in called for target in targets} == {"check", "test"}
    assert {"check", "test"} <= TARGETS
    assert files == {"Dockerfile", "Dockerfile.worker"}
    assert all((ROOT / file).exists() for file in files)


def test_it_runs_on_the_oldest_python_that_is_promised_and_on_that_of_the_images(workflow: dict[Any, Any]) -> None:
    promised = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    shipped = re.search(r"^ARG PYTHON_IMAGE=python:([\d.]+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert promised is not None
    assert shipped is not None

    assert _matrix(workflow["jobs"]["test"])["python"] == [promised[1], shipped[1]]


def _matrix(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job.get("strategy", {}).get("matrix", {}))


def test_a_name_that_can_be_moved_to_other_code_is_recognised() -> None:
    for bad in ("actions/checkout@main", "actions/checkout", "./local"):
        assert not ACTION.fullmatch(bad)
