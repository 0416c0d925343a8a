"""J5: the alerts on deletions fire once, say what to do, and resolve by themselves."""

import logging

import pytest

from broker.metrics import Metrics
from tests.store.conftest import Clock
from worker.alerts import MIN_TRIES, WINDOW_S, Alert, Alerts


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def alerts(clock: Clock) -> Alerts:
    return Alerts(Metrics(), tenant="acme", monotonic=clock)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.message, record.__dict__["alert"]) for record in caplog.records]


def tries(alerts: Alerts, *, ok: int = 0, **kinds: int) -> None:
    for kind, count in {"ok": ok, **kinds}.items():
        for _ in range(count):
            alerts.tried(kind)


@pytest.mark.parametrize(
    ("outcomes", "fired"),
    [
        ({"ok": 90, "TIMEOUT": 10}, set()),
        ({"ok": 89, "TIMEOUT": 11}, {Alert.TIMEOUTS}),
        ({"ok": 80, "HTTP_500": 20}, set()),
        ({"ok": 79, "HTTP_500": 21}, {Alert.FAILURES}),
        ({"ok": 70, "TIMEOUT": 30}, {Alert.TIMEOUTS, Alert.FAILURES}),
        ({"TIMEOUT": MIN_TRIES - 1}, set()),
        ({"TIMEOUT": MIN_TRIES}, {Alert.TIMEOUTS, Alert.FAILURES}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_shares_fire_above_their_threshold_and_not_at_it(
    alerts: Alerts, outcomes: dict[str, int], fired: set[Alert]
) -> None:
    tries(alerts, **outcomes)

    alerts.evaluate(depth=0, oldest_pending_s=0)

    assert alerts.active == fired


@pytest.mark.parametrize(
    ("depth", "oldest_s", "fired"),
    [(100, 3600, set()), (101, 0, {Alert.DEPTH}), (0, 3601, {Alert.STUCK})],
)
def test_depth_and_age_fire_above_their_threshold_and_not_at_it(
    alerts: Alerts, depth: int, oldest_s: int, fired: set[Alert]
) -> None:
    alerts.evaluate(depth=depth, oldest_pending_s=oldest_s)

    assert alerts.active == fired


def test_an_alert_fires_once_and_resolves_once(alerts: Alerts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="worker")
    for depth in (101, 150, 102, 100, 50):
        alerts.evaluate(depth=depth, oldest_pending_s=0)

    assert told(caplog) == [("alert fired", "DeletionBacklog"), ("alert resolved", "DeletionBacklog")]
    assert caplog.records[0].__dict__["todo"]


def test_what_is_older_than_the_window_is_forgotten(alerts: Alerts, clock: Clock) -> None:
    tries(alerts, TIMEOUT=50)
    alerts.evaluate(depth=0, oldest_pending_s=0)
    before = set(alerts.active)
    clock.now += WINDOW_S + 1

    alerts.evaluate(depth=0, oldest_pending_s=0)

    assert (before, alerts.active) == ({Alert.TIMEOUTS, Alert.FAILURES}, set())


def test_the_gauge_follows(alerts: Alerts) -> None:
    def gauge() -> float | None:
        return alerts._metrics.registry.get_sample_value(
            "worker_alert_active", {"tenant": "acme", "alert": "DeletionStuck"}
        )

    seen = [gauge()]
    for oldest_s in (4000, 10):
        alerts.evaluate(depth=0, oldest_pending_s=oldest_s)
        seen.append(gauge())

    assert seen == [0, 1, 0]


def test_a_worker_that_no_longer_leads_is_silent(alerts: Alerts) -> None:
    alerts.evaluate(depth=500, oldest_pending_s=9000)

    alerts.clear()

    assert alerts.active == set()
    assert (
        alerts._metrics.registry.get_sample_value(
            "worker_alert_active", {"tenant": "acme", "alert": "DeletionBacklog"}
        )
        == 0
    )
