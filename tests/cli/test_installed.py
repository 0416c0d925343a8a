"""How it is started: the script of a clone, the module, the entry point; and the table's creation."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from broker.version import VERSION
from tests.cli.shell import ROOT

SCRIPT = ROOT / "bin" / "sandbox-broker"


def run(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    variables = kept | {"LANG": "C.UTF-8", "HOME": "/nonexistent"} | environment
    return subprocess.run(
        list(command), cwd=cwd or ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_script_of_a_clone_works_from_any_folder_and_through_a_link(tmp_path: Path) -> None:
    """Also where a folder of that place is called like one of ours."""
    for name in ("cli", "broker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "sb").symlink_to(SCRIPT)

    for command in (str(SCRIPT), str(tmp_path / "sb")):
        done = run(command, "--version", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"sandbox-broker {VERSION}\n"), done.stderr


def test_the_script_of_a_clone_without_an_installation_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    copy = tmp_path / "bin" / "sandbox-broker"
    copy.write_text(SCRIPT.read_text())
    copy.chmod(0o755)

    done = run(str(copy), "status")

    assert done.returncode == 1
    assert done.stderr == f"sandbox-broker: nothing is installed yet: make -C {tmp_path} install\n"


def test_the_entry_point_is_the_main_function() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"sandbox-broker": "cli.main:main"}
    assert "cli*" in project["tool"]["setuptools"]["packages"]["find"]["include"]


def test_the_shells_completion_completes_commands() -> None:
    variables = {
        "_SANDBOX_BROKER_COMPLETE": "complete_bash",
        "COMP_WORDS": "sandbox-broker dead",
        "COMP_CWORD": "1",
    }
    assert run(str(SCRIPT), **variables).stdout.split() == ["dead-letters"]


@pytest.mark.parametrize("command", [[str(SCRIPT)], [sys.executable, "-m", "broker.cli"]], ids=["cli", "core"])
def test_create_table_makes_the_table_and_says_so_again(
    ministack: str, table_name: str, command: list[str]
) -> None:
    settings = {"BROKER_ENV": "development", "DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}

    first = run(*command, "create-table", **settings)
    second = run(*command, "create-table", **settings)

    assert (first.returncode, first.stdout) == (0, f"table {table_name} created\n"), first.stderr
    assert (second.returncode, second.stdout) == (0, f"table {table_name} exists already\n")


@pytest.mark.parametrize("command", [[str(SCRIPT)], [sys.executable, "-m", "broker.cli"]], ids=["cli", "core"])
def test_create_table_with_wrong_settings_is_78_and_lists_all_of_them(command: list[str]) -> None:
    done = run(*command, "create-table", DDB_TABLE_NAME="no good!", DDB_SHARDS="many")

    assert done.returncode == 78
    assert len([line for line in done.stderr.splitlines() if line.startswith("configuration: ")]) >= 2
    assert "Traceback" not in done.stderr


def test_create_table_without_a_store_is_1_and_a_sentence() -> None:
    settings = {"BROKER_ENV": "development", "DDB_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_REGION": "us-east-1"}

    done = run(str(SCRIPT), "create-table", **settings)

    assert done.returncode == 1
    assert "was not created" in done.stderr
    assert "Traceback" not in done.stderr
