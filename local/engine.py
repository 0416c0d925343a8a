"""Starts a local DynamoDB engine as a process: ministack for work, single-threaded moto as a second opinion.

ministack pins its own botocore, so it lives in its own virtual environment (`make engine`).
moto is served by one thread: its threaded server hands one item to two winners.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
START_S = 30.0

_MOTO = """
import sys
from werkzeug.serving import run_simple
from moto.server import DomainDispatcherApplication, create_backend_app
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


class EngineFailed(Exception):
    """The engine did not come up; the text is one sentence for a person."""


def engine_python() -> Path:
    """The interpreter of the engine's own environment.

    Raises:
        EngineFailed: the environment is not installed.
    """
    path = Path(os.environ.get("BROKER_ENGINE_PYTHON", ROOT / ".engine" / "bin" / "python"))
    if not path.exists():
        raise EngineFailed(f"The local DynamoDB engine is not installed at {path}: run 'make engine'.")
    return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ministack_command(port: int) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that serve ministack on loopback."""
    command = [str(engine_python()), "-m", "uvicorn", "ministack.app:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    environment = {
        **os.environ,
        "SERVICES": "dynamodb",
        "LOG_LEVEL": "WARNING",
        "MINISTACK_HOST": "127.0.0.1",
    }
    return command, environment


def moto_command(port: int) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-W", "ignore", "-c", _MOTO, str(port)], dict(os.environ)


def answers(port: int) -> bool:
    """Whether something speaks HTTP there, whatever it says."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=1):
            return True
    except URLError as error:
        return hasattr(error, "code")
    except OSError:
        return False


@contextmanager
def engine(kind: str = "ministack") -> Iterator[str]:
    """Run an engine on a free port; yields its URL.

    Raises:
        EngineFailed: not installed, or not up within 30 s.
    """
    port = free_port()
    command, environment = (ministack_command if kind == "ministack" else moto_command)(port)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        began = time.monotonic()
        while not answers(port):
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise EngineFailed(f"The {kind} engine did not come up on port {port}.")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
