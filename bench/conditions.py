"""Where and with what something was measured: a figure without that is none."""

import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from broker.version import VERSION
from local.engine import ROOT, engine_python

PACKAGES = ("aiobotocore", "aioboto3", "fastapi", "uvicorn", "uvloop", "httptools")


def conditions(command: str) -> dict[str, str]:
    """Hardware, versions, date, the load before, and the command to repeat it with."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": command,
        "processor": f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "broker": f"{VERSION}, commit {_commit()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "engine": f"ministack {_engine_version()}",
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def _commit() -> str:
    """The commit, and whether the code differs from it."""
    commit = _said("git", "rev-parse", "--short", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return (commit or "unknown") + (" with changes" if changed else "")


def _engine_version() -> str:
    asked = "from importlib.metadata import version; print(version('ministack'))"
    return _said(str(engine_python()), "-c", asked) or "unknown"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
