"""What stands between the socket and the routes that many call at once. Counted, as times are noise here."""

from fastapi.routing import RouteContext, iter_route_contexts

from app.access import admitted
from app.main import create_app
from tests.api.service import api_settings


def contexts() -> list[RouteContext]:
    """In the order in which they are looked through."""
    return list(iter_route_contexts(create_app(api_settings("http://127.0.0.1:1", "nowhere")).routes))


def test_what_a_classroom_calls_at_once_leaves_fastapi_nothing_to_solve() -> None:
    """Five declared headers cost as much as the allocation's own logic: these routes read theirs themselves."""
    found = {context.path: context for context in contexts()}
    for path in ("/v1/allocate", "/v1/sandboxes/{sandbox_id}", "/v1/sandboxes/{sandbox_id}/mark-for-deletion"):
        solved = found[path].dependant
        assert [dependency.call for dependency in solved.dependencies] == [admitted], path
        assert not solved.header_params + solved.query_params + solved.body_params, path


def test_probes_and_what_a_classroom_calls_are_found_first() -> None:
    """Routes are tried one after the other: behind forty of an operator's a probe cost twice as much."""
    first = {context.path for context in contexts()[:7]}
    assert first == {
        "/v1/openapi.json", "/v1/allocate",
        "/v1/sandboxes/{sandbox_id}", "/v1/sandboxes/{sandbox_id}/mark-for-deletion",
        "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
