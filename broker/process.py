"""How a process of the broker begins: its options, its settings, its port. What is wrong is told in sentences."""

import argparse
import json
import socket
import sys
from typing import TypeVar

from pydantic import ValidationError

from broker import exits
from broker.settings import CoreSettings, problems_of

S = TypeVar("S", bound=CoreSettings)


def begin(kind: type[S], *, module: str, what: str, arguments: list[str] | None = None) -> S | int:
    """The settings of this process, or the exit code where it is not to start."""
    parser = argparse.ArgumentParser(
        f"python -m {module}",
        description=f"{what} Settings come from environment variables; the README lists them.",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the settings, say what is wrong, start nothing"
    )
    parser.add_argument(
        "--show", action="store_true", help="print the settings in force as JSON, secrets left out; start nothing"
    )
    wanted = parser.parse_args(arguments)
    try:
        settings = kind()
    except ValidationError as error:
        for problem in problems_of(error):
            sys.stderr.write(f"configuration: {problem}\n")
        return exits.CONFIG
    if wanted.show:
        sys.stdout.write(json.dumps(settings.effective()) + "\n")
    return 0 if wanted.check or wanted.show else settings


def port_is_free(host: str, port: int, *, variable: str) -> bool:
    """Whether the port can be had; where it cannot, says so in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = error.strerror or str(error)
            sys.stderr.write(f"cannot listen on {host}:{port} ({why}): set {variable} to another port\n")
            return False
    return True
