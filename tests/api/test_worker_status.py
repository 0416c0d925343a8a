"""Who leads, and how it is: as operators ask for it, without reaching the worker."""

import time
from typing import Any

import pytest

from broker.errors import WriteConflict
from broker.sandbox import State
from broker.store.gauges import PoolGauges
from broker.store.leader import LEADER_SCOPE
from broker.store.reports import SILENT_S, WorkerReport
from broker.version import VERSION
from tests.api.service import Api
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, a_leader, a_provider, a_worker
from worker.provider.client import ProviderError


async def asked(api: Api) -> dict[str, Any]:
    answer = await api.admin("/worker")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def a_report(*, at: int, fence: int, **changes: Any) -> WorkerReport:
    facts: dict[str, Any] = {"holder": "test", "version": VERSION, "provider": {"list": "closed"}, "alerts": {}}
    return WorkerReport(at=at, fence=fence, **(facts | changes))


async def test_where_no_worker_ever_ran_nobody_leads(api: Api) -> None:
    body = await asked(api)

    assert (body.pop("status"), body.pop("alerts")) == ("none", [])
    assert set(body.values()) == {None}


async def test_a_worker_that_leads_is_shown_with_its_provider_and_its_count(api: Api) -> None:
    async with a_provider() as provider, a_worker(api.core, provider, time.time, scope=LEADER_SCOPE) as worker:
        await worker.sync(RUN)
        await worker.report(RUN)

        body = await asked(api)

    assert (body["status"], body["holder"], body["term"], body["version"]) == ("leading", "test", 1, VERSION)
    assert body["heard_s_ago"] < 30
    assert body["counted_s_ago"] < 30
    assert abs(body["leading_since"] - time.time()) < 60
    assert body["provider"]["list"] == "closed"
    assert body["provider"]["delete"] == "closed"
    assert "a second" in body["provider"]["pacing"]
    assert body["alerts"] == []


async def test_an_open_breaker_and_the_alerts_that_are_on_say_what_to_do(api: Api) -> None:
    async with a_provider() as provider, a_worker(api.core, provider, time.time, scope=LEADER_SCOPE) as worker:
        for _ in range(20):
            worker.alerts.tried("HTTP_500")
        worker.alerts.evaluate(depth=3, oldest_pending_s=0)
        await provider.faults(fail_next_lists=100)
        for _ in range(3):
            with pytest.raises(ProviderError):
                await worker.sync(RUN)
        await worker.report(RUN)

        body = await asked(api)

    assert body["provider"]["list"].startswith("open, probe ")
    assert [alert["alert"] for alert in body["alerts"]] == ["DeletionFailures"]
    assert "sandbox-broker dead-letters" in body["alerts"][0]["todo"]


async def test_a_worker_that_was_not_heard_for_a_minute_is_silent(api: Api) -> None:
    now = int(time.time())
    async with a_leader(api.core, scope=LEADER_SCOPE):
        await api.core.reports.write("acme", a_report(at=now - SILENT_S + 20, fence=1))
        heard = await asked(api)
        await api.core.reports.write("acme", a_report(at=now - SILENT_S - 1, fence=1))
        silent = await asked(api)

    assert (heard["status"], silent["status"]) == ("leading", "silent")
    assert silent["heard_s_ago"] > SILENT_S


async def test_a_worker_that_handed_the_lead_back_leaves_nobody_leading(api: Api) -> None:
    async with a_leader(api.core, scope=LEADER_SCOPE) as leadership:
        await api.core.reports.write("acme", a_report(at=int(time.time()), fence=1))
        await leadership.step_down()
        body = await asked(api)

    assert (body["status"], body["leading_since"], body["term"]) == ("none", None, 1)


async def test_the_report_of_the_leader_before_says_nothing_of_this_one(api: Api) -> None:
    for holder in ("first", "second"):
        async with a_leader(api.core, scope=LEADER_SCOPE, holder=holder) as leadership:
            if holder == "first":
                stuck = {"alerts": {"DeletionStuck": "look"}}
                await api.core.reports.write(
                    "acme", a_report(at=int(time.time()), fence=1, holder="first", **stuck)
                )
                await leadership.step_down()
            else:
                body = await asked(api)

    assert (body["status"], body["holder"], body["term"]) == ("leading", "second", 2)
    assert (body["alerts"], body["provider"], body["heard_s_ago"]) == ([], None, None)


async def test_a_leader_of_the_past_does_not_overwrite_the_report_of_the_present_one(api: Api) -> None:
    now = int(time.time())
    await api.core.reports.write("acme", a_report(at=now, fence=2, holder="second"))
    with pytest.raises(WriteConflict):
        await api.core.reports.write("acme", a_report(at=now + 5, fence=1, holder="first"))

    report = await api.core.reports.read("acme")
    assert report is not None
    assert (report.holder, report.at) == ("second", now)


async def test_the_last_report_of_an_election_that_is_over_gives_way_whatever_its_fence(api: Api) -> None:
    """A release that elected otherwise counted its leaders by another lease, maybe far above this one's."""
    now = int(time.time())
    await api.core.reports.write("acme", a_report(at=now - SILENT_S - 1, fence=40, holder="of the old release"))
    await api.core.reports.write("acme", a_report(at=now, fence=1, holder="first"))

    report = await api.core.reports.read("acme")
    assert report is not None
    assert report.holder == "first"


async def test_a_count_without_a_worker_is_shown_with_its_age(api: Api) -> None:
    counted = PoolGauges(at=int(time.time()) - 300, states=dict.fromkeys(State, 0))
    await api.core.gauges.write("acme", counted)

    body = await asked(api)
    assert body["status"] == "none"
    assert 300 <= body["counted_s_ago"] < 360


async def test_a_worker_under_maintenance_still_reports(api: Api) -> None:
    await api.set_mode("maintenance", "a rehearsal")
    async with (
        a_provider() as provider,
        a_worker(api.core, provider, Clock(time.time()), scope=LEADER_SCOPE) as worker,
    ):
        assert [await worker.may_run(job) for job in worker.jobs() if job.name == "report"] == [True]
