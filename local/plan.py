"""The plan of `make run`: ports, tokens and the environment of each child, from the caller's environment."""

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from local.children import StartFailed
from local.engine import free_port

MAX_API_PROCESSES: Final = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first child starts."""

    api_ports: list[int]
    sim_port: int
    worker_ports: list[int]  # one leads, the others stand by
    sandboxes: int
    api_token: str
    admin_token: str
    store_url: str
    store_port: int | None  # of the engine to start; None where the caller brought a store
    generated: frozenset[str]  # tokens that were made here

    def environment(self, caller: Mapping[str, str]) -> dict[str, str]:
        """What every child shares; the caller's own values win where they are settings."""
        ours = {
            "BROKER_ENV": "development",
            "BROKER_API_TOKEN": self.api_token,
            "BROKER_ADMIN_TOKEN": self.admin_token,
            "DDB_ENDPOINT_URL": self.store_url,
            "CSP_BASE_URL": f"http://127.0.0.1:{self.sim_port}",
            "SIM_PORT": str(self.sim_port),
            "SIM_SANDBOXES": str(self.sandboxes),
        }
        defaults = {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "CSP_API_TOKEN": secrets.token_hex(16),
            "API_KEY_PEPPER": secrets.token_hex(32),
            "API_HOST": "127.0.0.1",
            "WORKER_HOST": "127.0.0.1",
            "DRAIN_NOTICE_SEC": "0",
            "BOOT_TIMEOUT_SEC": "60",  # a slow laptop compiles everything first
            "SYNC_INTERVAL_SEC": "30",
            "GAUGES_INTERVAL_SEC": "10",
            "LEADER_LEASE_SEC": "5",
            "PYTHONUNBUFFERED": "1",
        }
        return {**defaults, **caller, **ours}


def make_plan(environment: Mapping[str, str]) -> Plan:
    """Read the environment, and make sure that what it asks for can be had.

    Raises:
        StartFailed: a bad number, or a port that is taken.
    """
    first = _number(environment, "API_PORT", 8080, 1, 65535)
    count = _number(environment, "API_PROCESSES", 1, 1, MAX_API_PROCESSES)
    api_ports = list(range(first, first + count))
    sim_port = _number(environment, "SIM_PORT", 9100, 1, 65535)
    worker_port = _number(environment, "WORKER_PORT", 9090, 1, 65535)
    ports = [("API_PORT", port) for port in api_ports] + [("SIM_PORT", sim_port), ("WORKER_PORT", worker_port)]
    _must_differ([port for _, port in ports])
    for name, port in ports:
        _must_be_free(name, port)
    given = environment.get("DDB_ENDPOINT_URL")
    store_port = None if given else free_port()
    generated = {n for n in ("BROKER_API_TOKEN", "BROKER_ADMIN_TOKEN") if not environment.get(n)}
    return Plan(
        api_ports=api_ports,
        sim_port=sim_port,
        worker_ports=[worker_port, free_port()],
        sandboxes=_number(environment, "SIM_SANDBOXES", 200, 0, 1_000_000),
        api_token=environment.get("BROKER_API_TOKEN") or f"track-{secrets.token_hex(16)}",
        admin_token=environment.get("BROKER_ADMIN_TOKEN") or f"admin-{secrets.token_hex(16)}",
        store_url=given or f"http://127.0.0.1:{store_port}",
        store_port=store_port,
        generated=frozenset(generated),
    )


def _number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise StartFailed(f"{name} must be a number from {low} to {high}, not '{text}'.")
    return int(text)


def _must_differ(ports: list[int]) -> None:
    for port in ports:
        if ports.count(port) > 1:
            raise StartFailed(
                f"Two processes were given port {port}: set API_PORT, SIM_PORT and WORKER_PORT apart."
            )
        if port > 65535:
            raise StartFailed(f"API_PROCESSES needs ports up to {port}: set a lower API_PORT.")


def _must_be_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "is in use" if error.errno in (48, 98) else f"cannot be had ({os.strerror(error.errno or 0)})"
            raise StartFailed(f"Port {port} {why}: stop what holds it, or set {name} to another.") from None
