"""The proxy's own routes, for benchmarks and people who run it as a process."""

import json
from collections.abc import Callable
from typing import Any

from local.store_proxy.answers import Answer
from local.store_proxy.counts import Counts
from local.store_proxy.faults import Faults

PREFIX = "/_proxy/"


class Control:
    def __init__(self, faults: Faults, counts: Counts) -> None:
        self._faults = faults
        self._counts = counts
        self._routes: dict[tuple[str, str], Callable[[bytes], Answer]] = {
            ("GET", "/_proxy/faults"): lambda _: _json(200, faults.as_json()),
            ("PATCH", "/_proxy/faults"): self._change_faults,
            ("GET", "/_proxy/counts"): lambda _: _json(200, counts.as_json()),
            ("POST", "/_proxy/counts/reset"): self._reset_counts,
        }

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        route = self._routes.get((method, path))
        if route is None:
            routes = sorted(f"{verb} {known}" for verb, known in self._routes)
            return _json(404, {"error": f"no such route; there are {', '.join(routes)}"})
        return route(body)

    def _change_faults(self, body: bytes) -> Answer:
        try:
            changes = json.loads(body)
        except ValueError:
            changes = None
        if not isinstance(changes, dict):
            return _json(400, {"error": "the body must be a JSON object of faults"})
        try:
            self._faults.change(changes)
        except ValueError as problem:
            return _json(400, {"error": str(problem)})
        return _json(200, self._faults.as_json())

    def _reset_counts(self, body: bytes) -> Answer:
        self._counts.reset()
        return _json(200, self._counts.as_json())


def _json(status: int, content: Any) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())
