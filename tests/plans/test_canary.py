"""bin/canary, before it moves anything: what it is, and what it lacks. The rest is in test_plans_run.py."""

import os
import subprocess
from pathlib import Path

import pytest

from local.engine import ROOT


def canary(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """In a shell that has no region and no broker."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [ROOT / "bin" / "canary", *arguments], env=environment | more, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_the_canary_says_how_it_is_used(asked: str) -> None:
    done = canary(asked)

    assert (done.returncode, done.stderr) == (0, "")
    assert "bin/canary back" in done.stdout
    assert "set -eu" not in done.stdout


def test_what_the_canary_does_not_know_moves_nothing() -> None:
    done = canary("forward", AWS_REGION="eu-central-1")

    assert done.returncode == 2
    assert "bin/canary --help" in done.stderr


def test_a_clone_without_a_state_is_told_what_it_lacks(tmp_path: Path) -> None:
    """terraform itself ends well there, with a warning in the place of the value."""
    done = canary("back", CANARY_TERRAFORM=str(tmp_path))

    assert done.returncode == 1
    assert "export AWS_REGION=" in done.stderr
    assert len(done.stderr.splitlines()) == 1
