"""How a process of the broker begins: its options, its settings, its port. What is wrong is told in sentences."""

import argparse
import importlib
import json
import socket
import sys
from collections.abc import Callable
from typing import Final, TypeVar

from pydantic import ValidationError

from broker import exits, tracing
from broker.metrics import Metrics
from broker.settings import CoreSettings, problems_of

S = TypeVar("S", bound=CoreSettings)

LAST_SPANS_S: Final = 2.0
LAST_SPANS_SHARE: Final = 0.05
"""Of the drain's time, at the most, for delivering the last spans at its end."""


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


def start_tracing(settings: CoreSettings, metrics: Metrics) -> Callable[[float], None] | int:
    """What ends it, within the seconds that are left of a drain; or the exit code where it is not to start.

    Where it is off nothing of OpenTelemetry is imported by us.
    """
    if not settings.traced:
        return lambda _: None
    otlp = importlib.import_module("broker.otlp")
    try:
        tracer = otlp.Otlp(settings, metrics)
    except ValueError as error:
        sys.stderr.write(f"configuration: TRACING: a variable of OpenTelemetry's makes no sense: {error}\n")
        return exits.CONFIG
    tracing.tracer = tracer

    def stop(left_s: float) -> None:
        tracing.tracer = None
        tracer.close(min(LAST_SPANS_S, LAST_SPANS_SHARE * settings.drain_timeout_s, left_s))

    return stop


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
