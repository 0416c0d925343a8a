"""`status`, `reconcile`, `dead-letters` and `mode`: what somebody woken at three o'clock looks at first."""

import re
import time
from contextlib import suppress
from typing import Any

import pytest

from broker.job import JobState
from broker.policy import Explained, Suspicion
from broker.sandbox import State
from broker.store.gauges import PoolGauges
from broker.store.leader import LEADER_SCOPE
from broker.store.reports import WorkerReport
from broker.store.sync_state import SyncState
from broker.tenant import Tenant
from local.store_proxy import StoreProxy
from tests.api.service import Api
from tests.api.test_admin_lists import put
from tests.api.test_jobs import put_jobs
from tests.builders import NOW, TEST_CAUSE, a_job, a_running_job, a_sandbox
from tests.cli.conftest import served
from tests.cli.shell import Done, Shell
from tests.worker.conftest import RUN, a_leader, a_provider, a_worker, until
from worker.duties import Worker
from worker.provider.client import ProviderError


def facts(done: Done) -> dict[str, str]:
    """The rows of a piped screen by their names."""
    rows = [re.split(r"  +", line, maxsplit=1) for line in done.out.splitlines() if not line.startswith(" ")]
    return {row[0]: row[-1].strip() for row in rows}


async def reconciled(api: Api, **changes: object) -> None:
    """A sync has kept this."""
    values = {
        "at": int(time.time()) - 125,
        "accounts": {Explained.AVAILABLE: 180, Explained.HELD: 20, Explained.NO_SANDBOX: 3},
        "expected": 200,
    }
    async with a_leader(api.core) as leadership:
        before = await api.core.sync_states.read("acme")
        await api.core.sync_states.write(
            "acme", SyncState(**values | changes), after=before, fence=leadership.fence
        )


async def until_synced(worker: Worker) -> None:
    """The breaker may be open for a moment."""

    async def synced() -> bool:
        with suppress(ProviderError):
            await worker.sync(RUN)
            return True
        return False

    await until(synced)


async def a_worker_reported(api: Api, ago_s: int, **changes: Any) -> None:
    """One leads and has counted the pool; that is so long ago."""
    at = int(time.time()) - ago_s
    await api.core.gauges.write("acme", PoolGauges(at=at, states=dict.fromkeys(State, 0)))
    facts: dict[str, Any] = {"provider": {"list": "closed"}, "alerts": {}} | changes
    await api.core.leader.take(None, scope=LEADER_SCOPE, holder="host/1", now=at)
    report = WorkerReport(at=at, holder="host/1", fence=1, version="1", **facts)
    await api.core.reports.write("acme", report)


async def test_the_screen_of_a_broker_that_is_well(shell: Shell, api: Api) -> None:
    await api.fill(3)
    await reconciled(api)
    await a_worker_reported(api, 20)

    seen = await shell.run("status")

    told = facts(seen)
    assert (seen.code, seen.err) == (0, "")
    assert told["mode"] == "open"
    assert told["API"] == "ready (store ok)"
    assert re.fullmatch(r"host/1 leads, release 1, heard 2\ds ago, counted the pool 2\ds ago", told["worker"])
    assert told["provider list"] == "closed"
    assert not {"ALERT", "TO DO"} & set(told)
    assert re.fullmatch(
        r"2m\d\ds ago, 203 accounts, 0 unexplained\. Believed; 0 of 200 expected were missing\.", told["last sync"]
    )
    assert (told["jobs running"], told["jobs queued"]) == ("0", "0")
    assert told["dead letters"] == "0 sandboxes, 0 jobs"
    assert (told["available"], told["total"], told["deleted"]) == ("3", "3", "0")


async def test_the_screen_of_a_broker_that_is_not_well_says_what_to_do(shell: Shell, api: Api) -> None:
    await api.fill(2, state=State.DELETION_FAILED)
    await api.set_mode("maintenance", "INC-4711")
    await put_jobs(
        api,
        a_running_job(number=1, done=120, failed=3, total=500, progress_at=NOW + 60),
        a_job(number=2),
        a_job(number=3, state=JobState.DEAD, finished_at=int(time.time()), error="HTTP_500"),
    )
    now = int(time.time())
    doubt = Suspicion(sketch=frozenset({1}), times=2, since=now - 600, counted_at=now)
    await reconciled(
        api, missing=120, suspicion=doubt, accounts={Explained.UNKNOWN: 2}, unexplained={"1: x": NOW, "2: y": NOW}
    )
    alerts = {"DeletionStuck": "see last_error"}
    await a_worker_reported(api, 3965, provider={"delete": "open, probe in 9 s"}, alerts=alerts)

    seen = await shell.run("status")

    told = facts(seen)
    assert seen.code == 1, "nobody seems to lead"
    assert (
        "maintenance by bootstrap-admin: INC-4711. Back: sandbox-broker mode open --reason '...'" in told["mode"]
    )
    assert told["worker"].startswith("NO LEADER: host/1 led, not heard for 1h06m, and no standby took over.")
    assert told["provider delete"] == "open, probe in 9 s"
    assert told["ALERT"] == "DeletionStuck: see last_error"
    assert "2 unexplained. NOT believed for 10m" in told["last sync"]
    assert "120 of 200 expected were missing, 2 time(s) in a row" in told["last sync"]
    assert told["last sync"].endswith("sandbox-broker sync --confirm --reason '...'. sandbox-broker reconcile")
    assert told["dead letters"] == "2 sandboxes, 1 jobs: sandbox-broker dead-letters"
    assert (told["jobs running"], told["jobs queued"]) == ("1", "1")
    assert f"sync {NOW}000-000000000001 123/500 25% 3 failed" in seen.out
    assert told["deletion_failed"] == "2  sandbox-broker dead-letters"


async def test_a_broker_without_a_worker_says_so(shell: Shell) -> None:
    told = facts(await shell.run("status"))

    assert told["worker"] == "NO LEADER: none runs, or none reaches the store. Never counted the pool"
    assert told["last sync"] == "none has read a listing yet"


async def test_a_token_that_the_provider_refuses_is_named_on_the_screen_and_it_is_1(
    shell: Shell, api: Api
) -> None:
    wrong = {"scope": LEADER_SCOPE, "CSP_API_TOKEN": "a-former-token"}
    async with a_provider() as provider, a_worker(api.core, provider, time.time, **wrong) as worker:
        for _ in range(2):
            with pytest.raises(ProviderError, match="HTTP_401"):
                await worker.sync(RUN)
        await worker.report(RUN)
        seen = await shell.run("status")
        failed = (await api.admin("/worker")).json()["sync_failure"]

    told, todo = facts(seen), "rotate CSP_API_TOKEN in the workers' environment, and restart them"
    assert seen.code == 1
    assert re.fullmatch(rf"FAILED \d+s ago, 2 in a row, for \d+s: HTTP_401\. To do: {todo}", told["last sync"])
    assert told["last listing"] == "none has read a listing yet"
    assert told["ALERT"] == f"SyncNeverSucceeded: HTTP_401: {todo}"
    assert told["provider list"] == "closed", "as somebody answers"
    assert (failed["kind"], failed["times"], failed["todo"]) == ("HTTP_401", 2, todo)
    assert time.time() - 60 < failed["since"] <= failed["at"] <= time.time()


async def test_a_sync_that_succeeds_again_ends_the_failure_and_the_alert(shell: Shell, api: Api) -> None:
    async with a_provider() as provider, a_worker(api.core, provider, time.time, scope=LEADER_SCOPE) as worker:
        await provider.faults(list_500_rate=1)
        with pytest.raises(ProviderError):
            await worker.sync(RUN)
        await worker.report(RUN)
        failing = facts(await shell.run("status"))
        await provider.faults(list_500_rate=0)
        failure = worker._watch.failure
        assert failure is not None
        await until_synced(worker)
        await worker.report(RUN)
        seen = await shell.run("status")

    told = facts(seen)
    assert ("HTTP_500" in failing["last sync"], "ALERT" in failing) == (True, False), "it may pass"
    assert (seen.code, "last listing" in told) == (0, False)
    assert "ago, 13 accounts, 0 unexplained. Believed" in told["last sync"]


async def test_a_tenant_that_is_new_is_not_without_a_leader(shell: Shell, api: Api) -> None:
    await a_worker_reported(api, 90)  # so long it leads
    now = int(time.time())
    report = WorkerReport(at=now, holder="host/1", fence=1, version="1", provider={}, alerts={})
    await api.core.reports.write("acme", report)
    await api.core.tenants.create(Tenant(name="north"), TEST_CAUSE, now=time.time())
    await api.core.tenants.create(Tenant(name="old"), TEST_CAUSE, now=time.time() - 90)

    new, old = await shell.run_each(["status", "--tenant", "north"], ["status", "--tenant", "old"])

    assert new.code == 0, new.out
    assert facts(new)["worker"].startswith("host/1 leads, has not taken this tenant up yet (within 15 s), ")
    assert old.code == 1
    assert facts(old)["worker"] == "host/1 leads, and does not serve this tenant (never heard of it): see its log"


async def test_prefixes_that_name_nothing_of_the_listing_are_said(shell: Shell, api: Api) -> None:
    north = Tenant(name="acme", prefixes=("nope-", "non-"))
    await api.core.tenants.change(
        "acme", lambda t: t.supplied(provider=None, prefixes=north.prefixes), TEST_CAUSE, now=NOW
    )
    await a_worker_reported(api, 2)
    await reconciled(api, accounts={Explained.OTHER_TENANTS: 200, Explained.NO_SANDBOX: 1}, expected=0)
    nothing = facts(await shell.run("status"))["last sync"]
    await reconciled(api, at=int(time.time()), accounts={Explained.OTHER_TENANTS: 200, Explained.AVAILABLE: 1})
    some = facts(await shell.run("status"))["last sync"]

    assert "201 accounts, 200 other tenants', 0 unexplained." in nothing
    assert nothing.endswith("none of 201 listed begins with nope- or non- and is an active sandbox")
    assert "begins with" not in some


async def test_what_cannot_be_shown_says_why_and_the_rest_is_shown_and_it_is_1(
    proxied: Api, proxy: StoreProxy
) -> None:
    async with served(proxied.app) as url:
        await proxied.admin("/mode")
        proxy.faults.down = True
        seen = await Shell(url).run("status")
        as_json = await Shell(url).run("status", "--json")

    told = facts(seen)
    assert (seen.code, as_json.code) == (1, 1)
    assert re.search(r"\(STORE_UNAVAILABLE, request cli-\w+\)$", told["stats"])
    assert told["API"].startswith("degraded (store ")
    assert told["TO DO"].startswith("docs/runbooks/store-throttled.md")
    assert told["mode"] == "open", "the last one known holds"
    assert as_json.json["stats"]["error"]["code"] == "STORE_UNAVAILABLE"
    assert as_json.json["ready"]["status"] == "degraded"


async def test_an_api_that_drains_is_shown_as_that(shell: Shell, api: Api) -> None:
    api.app.state.readiness.draining = True

    assert facts(await shell.run("status"))["API"] == "draining"


async def test_reconcile_explains_every_account_and_names_what_is_unexplained(shell: Shell, api: Api) -> None:
    now = int(time.time())
    unexplained = {"4711: names another account than before": now - 7265, "4712: no name": now - 65}
    await reconciled(api, accounts={Explained.AVAILABLE: 190, Explained.UNKNOWN: 60}, unexplained=unexplained)

    seen = await shell.run("reconcile")

    assert seen.code == 0
    assert re.match(r"Listed 2m\d\ds ago: 250 accounts\. Believed; 0 of 200 expected were missing\.", seen.out)
    rows = {row[0]: row for row in seen.rows if row}
    assert [rows[kind.value][1] for kind in Explained] == ["190", *["0"] * 7, "60"]
    assert re.search(r"2h01m +4711: names another account than before\n *1m\d\ds +4712: no name\n", seen.out)
    assert "... and 58 more" in seen.out


async def test_reconcile_says_when_a_listing_is_not_believed_and_what_to_do(shell: Shell, api: Api) -> None:
    now = int(time.time())
    doubt = Suspicion(sketch=frozenset({1}), times=2, since=now - 600, counted_at=now)
    await reconciled(api, missing=120, suspicion=doubt)

    seen = await shell.run("reconcile")

    assert "NOT believed for 10m" in seen.out
    assert "120 of 200 expected were missing, 2 time(s) in a row." in seen.out
    assert "until the third time, or until sandbox-broker sync --confirm --reason '...'." in seen.out


async def test_reconcile_before_the_first_sync_says_so(shell: Shell) -> None:
    seen = await shell.run("reconcile")
    assert (seen.code, "No sync has read a listing yet." in seen.out) == (0, True)


async def test_dead_letters_begin_with_the_most_frequent_reasons(shell: Shell, api: Api) -> None:
    errors = ["HTTP_500: account 2009521"] * 3 + ["TIMEOUT"] * 5 + ["HTML"]
    await put(
        api,
        [
            a_sandbox(number=n, state=State.DELETION_FAILED, attempt=8, last_error=error)
            for n, error in enumerate(errors)
        ],
    )
    ended = {"state": JobState.DEAD, "finished_at": int(time.time()), "error": "KILLED_ITS_WORKER: 5"}
    await put_jobs(api, a_job(number=1, **ended))

    seen = await shell.run("dead-letters")

    assert seen.code == 0
    lines = seen.out.splitlines()
    assert lines[0] == "9 sandboxes whose deletion failed for good"
    assert [line.split() for line in lines[1:5]] == [
        ["COUNT", "REASON"], ["5", "TIMEOUT"], ["3", "HTTP_500:", "account", "*"], ["1", "HTML"],
    ]  # fmt: skip
    assert "sandbox-broker bulk retry --reason '...'" in seen.out
    assert "1 jobs that died or timed out" in seen.out
    assert "KILLED_ITS_WORKER: 5" in seen.out
    assert "sandbox-broker jobs requeue ID" in seen.out


@pytest.mark.parametrize(
    ("word", "mode"), [("drain", "drained"), ("maintenance", "maintenance"), ("open", "open")]
)
async def test_the_mode_is_set_with_a_reason_and_shown_with_who_set_it(
    shell: Shell, api: Api, word: str, mode: str
) -> None:
    done = await shell.run("mode", word, "--reason", "INC-4711: no network")
    shown, bare = await shell.run_each(["mode", "show"], ["mode"])

    stored = (await api.admin("/mode")).json()
    assert done.code == 0, done.err
    assert (stored["mode"], stored["reason"]) == (mode, "INC-4711: no network")
    assert done.out.startswith(f"{mode}, everywhere within about 2 s: ")
    assert ("Back: sandbox-broker mode open" in done.out) == (word != "open")
    assert facts(shown)["mode"].startswith(f"{mode}: ")
    assert (facts(shown)["reason"], facts(shown)["by"]) == ("INC-4711: no network", "bootstrap-admin")
    assert facts(bare) | {"since": "?"} == facts(shown) | {"since": "?"}
