"""How syncs that fail are remembered, told and alerted on, until one succeeds."""

import logging

import pytest

from broker.errors import LeadershipLost, StoreUnavailable
from broker.metrics import Metrics
from broker.tenant import Provider
from broker.wiring import Broker
from tests.builders import NOW
from tests.store.conftest import Clock
from tests.worker.conftest import RUN, TOKEN, a_leader, a_provider, worker_settings
from worker.duties import Worker
from worker.provider.connection import Connection, connection_of
from worker.provider.door import open_provider
from worker.provider.errors import ProviderError
from worker.sync_watch import SyncWatch

REFUSED = ProviderError("HTTP_401")
DEAD = ProviderError("UNREACHABLE", "ConnectError")


def own_connection(base_url: str = "https://csp.example.org") -> Connection:
    provider = Provider(base_url=base_url, secret="env:CSP_API_TOKEN_TEAM")
    settings = worker_settings(CSP_BASE_URL="https://csp.example.net")
    return connection_of(provider, settings, environment={"CSP_API_TOKEN_TEAM": "a-former-token"})


@pytest.fixture
def watch(clock: Clock) -> SyncWatch:
    return SyncWatch(own_connection(), tenant="team", interval_s=600, clock=clock)


def ends(watch: SyncWatch, error: Exception | None = None) -> None:
    if error is None:
        with watch.watching():
            pass
        return
    with pytest.raises(type(error)), watch.watching():
        raise error


def test_a_refused_token_is_an_alert_at_once_until_a_sync_succeeds(watch: SyncWatch) -> None:
    ends(watch, REFUSED)
    never = watch.alerts()
    ends(watch)
    well = (watch.failure, watch.alerts())
    ends(watch, REFUSED)

    rotate = "HTTP_401: rotate CSP_API_TOKEN_TEAM in the workers' environment, and restart them"
    assert never == {"SyncNeverSucceeded": rotate}
    assert well == (None, {})
    assert watch.alerts() == {"SyncOverdue": rotate}


def test_what_may_pass_is_an_alert_after_three_intervals(watch: SyncWatch, clock: Clock) -> None:
    began = int(clock())
    for _ in range(4):
        ends(watch, DEAD)
        assert watch.alerts() == {}
        clock.now += 600
    ends(watch, DEAD)

    failure = watch.failure
    assert failure is not None
    assert (failure.since, failure.at, failure.times) == (began, began + 2400, 5)
    assert watch.alerts()["SyncNeverSucceeded"].startswith("UNREACHABLE: ConnectError: is its address right? ")


def test_a_breaker_that_lets_nobody_ask_does_not_hide_why(watch: SyncWatch) -> None:
    ends(watch, DEAD)
    ends(watch, ProviderError("BREAKER_OPEN", "ask again in 9 s"))

    assert watch.failure is not None
    assert (watch.failure.why, watch.failure.times) == ("UNREACHABLE: ConnectError", 2)


def test_a_store_that_fails_counts_and_a_lead_that_is_lost_does_not(watch: SyncWatch) -> None:
    ends(watch, LeadershipLost())
    assert watch.failure is None
    ends(watch, StoreUnavailable("no answer"))
    assert watch.failure is not None
    assert watch.failure.kind == "STORE_UNAVAILABLE"


async def test_a_tenants_own_refused_token_is_named_in_the_log_of_its_listing(
    core: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = worker_settings(BROKER_TENANT="team", CSP_BASE_URL="https://csp.example.net")
    async with (
        a_provider(token=TOKEN) as theirs,
        open_provider(settings, Metrics(), connection=own_connection(theirs.url)) as door,
        a_leader(core) as leadership,
    ):
        worker = Worker(settings, core, door, leadership, clock=lambda: NOW)
        with caplog.at_level(logging.ERROR, logger="worker"), pytest.raises(ProviderError):
            await worker.sync(RUN)

    (told,) = [record.__dict__ for record in caplog.records if record.message.startswith("not listed")]
    assert (told["tenant"], told["why"]) == ("team", "HTTP_401")
    assert told["todo"] == "rotate CSP_API_TOKEN_TEAM in the workers' environment, and restart them"
