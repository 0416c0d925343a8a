"""G4: one deadline for every request. Outcomes and counts are asserted, not moments: the machine may be slow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import StreamingResponse

from app.deps import extend_deadline
from local.store_proxy import StoreProxy
from tests.api.service import Api, an_api, error_of, refusal
from tests.audit import audit

CUT = (503, "DEADLINE_EXCEEDED")


@pytest.fixture
async def hasty(proxy: StoreProxy, table_name: str) -> AsyncIterator[Api]:
    """A request may take a second; its store is given half a minute to answer a call."""
    async with an_api(proxy.url, table_name, STORE_TIMEOUT_SEC="30", REQUEST_TIMEOUT_SEC="1") as running:
        await running.fill(3)
        yield running


async def test_whatever_route_waits_too_long_is_503_in_the_envelope_with_all_headers(
    hasty: Api, proxy: StoreProxy
) -> None:
    held = (await hasty.allocate("student-1")).json()["sandbox_id"]
    proxy.faults.change({"hang_next": 1000, "hang_s": 60})

    answers = await asyncio.gather(
        hasty.allocate("student-2"),
        hasty.release(held),
        hasty.view(held),
        hasty.admin("/sandboxes"),
        hasty.admin("/stats"),
        hasty.admin(f"/sandboxes/{held}"),
        hasty.operate("force-release", held),
        hasty.set_mode("drained"),
    )

    for answer in answers:
        assert refusal(answer) == CUT, answer.request.url
        assert int(answer.headers["Retry-After"]) == error_of(answer)["retry_after"] > 0
        for name in ("X-Request-ID", "X-RateLimit-Limit", "X-Content-Type-Options"):
            assert name in answer.headers


async def test_a_request_that_was_cut_is_logged_and_counted_as_such(
    hasty: Api, proxy: StoreProxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.faults.change({"hang_next": 1000, "hang_s": 60})
    with caplog.at_level("INFO", logger="app"):
        await hasty.view("2009001")
    line = next(vars(record) for record in caplog.records if record.getMessage() == "request")
    assert (line["status"], line["outcome"]) == CUT
    route = 'broker_http_requests_total{method="GET",route="/v1/sandboxes/{sandbox_id}",status="503"}'
    assert (await hasty.metrics())[route] == 1


async def test_an_allocation_that_was_cut_goes_on_and_its_repeat_gets_the_same_sandbox(
    hasty: Api, proxy: StoreProxy
) -> None:
    on_its_way, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: dict[str, Any]) -> None:
        on_its_way.set()
        await go_on.wait()

    with proxy.before("TransactWriteItems", hold):
        cut = asyncio.create_task(hasty.allocate("student-1"))
        await on_its_way.wait()
        assert refusal(await cut) == CUT
        repeat = asyncio.create_task(hasty.allocate("student-1"))
        go_on.set()
        again = await repeat

    assert again.status_code == 200, "the attempt under way was joined, not repeated"
    assert await audit(hasty.core) == {"allocated": 1, "available": 2}


@pytest.mark.parametrize("landed", [True, False], ids=["its write landed", "its write never came"])
async def test_a_release_that_was_cut_is_answered_by_its_repeat_as_if_it_were_the_first(
    hasty: Api, proxy: StoreProxy, landed: bool
) -> None:
    held = (await hasty.allocate("student-1")).json()["sandbox_id"]

    async def hang(_: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    hook = proxy.after if landed else proxy.before
    with hook("TransactWriteItems", hang):
        assert refusal(await hasty.release(held)) == CUT
    stored = await hasty.core.sandboxes.get("acme", held)
    assert stored is not None
    assert (stored.ended_at is not None) == landed

    # The transaction that hangs in the proxy is at the items still: another process goes past it.
    proxy.faults.real_conflicts = False
    again = await hasty.release(held)

    assert (again.status_code, again.json()["status"]) == (200, "pending_deletion")
    if landed:
        assert again.json()["released_at"] == stored.ended_at
    assert (await hasty.release(held)).json() == again.json()
    assert await audit(hasty.core) == {"available": 2, "pending_deletion": 1}


async def test_a_hundred_releases_over_a_store_that_hangs_all_end_before_their_deadline(
    proxy: StoreProxy, table_name: str
) -> None:
    """Sixteen connections, a second a call: three rounds get a connection, the others are told so."""
    narrow = {"STORE_CONNECTIONS": "16", "STORE_TIMEOUT_SEC": "1", "REQUEST_TIMEOUT_SEC": "5"}
    async with an_api(proxy.url, table_name, **narrow) as api:
        await api.fill(1)
        held = (await api.allocate("student-1")).json()["sandbox_id"]
        proxy.faults.change({"hang_next": 1000, "hang_s": 60})
        proxy.counts.reset()

        answers = await asyncio.gather(*(api.release(held) for _ in range(100)))

        assert {refusal(answer) for answer in answers} == {(503, "STORE_UNAVAILABLE")}
        assert all("Retry-After" in answer.headers for answer in answers)
        assert sum(proxy.counts.calls.values()) <= 4 * 16, "who waited in vain for a connection did not ask twice"

        proxy.faults.hang_next = 0
        assert (await api.release(held)).status_code == 200, "every connection came back"


async def test_three_hundred_allocations_over_a_store_that_hangs_end_together(
    proxy: StoreProxy, table_name: str
) -> None:
    """Whatever they all need first is asked once, and its failure is everyone's."""
    narrow = {"STORE_CONNECTIONS": "16", "STORE_TIMEOUT_SEC": "1", "REQUEST_TIMEOUT_SEC": "14"}
    async with an_api(proxy.url, table_name, **narrow) as api:
        await api.fill(1)
        proxy.faults.change({"hang_next": 1000, "hang_s": 60})

        answers = await asyncio.gather(*(api.allocate(f"student-{n}") for n in range(300)))

        assert {refusal(answer) for answer in answers} <= {
            (503, "STORE_UNAVAILABLE"), (503, "ALLOCATION_IN_PROGRESS"),
        }  # fmt: skip


async def test_a_route_may_ask_for_more_time_and_gets_no_less_than_it_had(hasty: Api) -> None:
    @hasty.app.get("/patient")
    async def patient(request: Request) -> str:
        extend_deadline(request, 30)
        extend_deadline(request, 0.01)
        await asyncio.sleep(1.5)
        return "done"

    @hasty.app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(60)
        return "never"

    patient_answer, slow_answer = await asyncio.gather(hasty.http.get("/patient"), hasty.http.get("/slow"))
    assert patient_answer.json() == "done"
    assert refusal(slow_answer) == CUT


async def test_an_answer_that_has_begun_is_not_cut(hasty: Api) -> None:
    @hasty.app.get("/stream")
    async def stream() -> StreamingResponse:
        async def rows() -> AsyncIterator[bytes]:
            yield b"one "
            await asyncio.sleep(1.5)
            yield b"two"

        return StreamingResponse(rows())

    assert (await hasty.http.get("/stream")).text == "one two"


async def test_a_timeout_of_our_own_making_is_a_bug_and_no_deadline(hasty: Api) -> None:
    @hasty.app.get("/bug")
    async def bug() -> None:
        raise TimeoutError("not caught where it should be")

    assert refusal(await hasty.http.get("/bug")) == (500, "INTERNAL_ERROR")


async def test_the_default_leaves_an_allocation_its_own_deadline(api: Api) -> None:
    configuration: dict[str, Any] = (await api.http.get("/v1/meta")).json()["configuration"]
    assert configuration["REQUEST_TIMEOUT_SEC"] == 15
