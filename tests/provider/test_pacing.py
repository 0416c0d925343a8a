"""E6: pressure halves the pace, once a burst; success brings it back; what the provider asks for is honoured."""

import logging

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broker.metrics import Metrics
from tests.provider.conftest import Clock
from worker.provider.pacing import BURST_S, COOL_DOWN_S, LONGEST_REST_S, RECOVERY_STEPS, Pacing, Slot, Span


def a_pacing(clock: Clock, metrics: Metrics) -> Pacing:
    return Pacing(tenant="acme", concurrency=Span(2, 20), rate=Span(0.5, 10), metrics=metrics, clock=clock)


@pytest.fixture
def pacing(metrics: Metrics, clock: Clock) -> Pacing:
    return a_pacing(clock, metrics)


def taken(pacing: Pacing, account: str = "a") -> Slot:
    slot = pacing.take(account)
    assert slot is not None, pacing.describe()
    return slot


def one(pacing: Pacing, clock: Clock, kind: str | None, account: str = "a", **more: float) -> None:
    """A call that begins as soon as it may, and ends so."""
    clock.now += pacing.wait_s()
    taken(pacing, account).ended(kind, **more)


def pace(pacing: Pacing) -> tuple[int, float]:
    return pacing.concurrency, pacing.rate


def test_it_begins_at_full_speed(pacing: Pacing) -> None:
    assert pace(pacing) == (20, 10)
    assert len([taken(pacing) for _ in range(20)]) == 20
    assert pacing.take("b") is None


def test_no_more_at_once_than_allowed_and_an_end_makes_room(pacing: Pacing, clock: Clock) -> None:
    slots = [taken(pacing) for _ in range(20)]
    clock.now += 60
    assert pacing.take("b") is None
    assert pacing.wait_s() == 1

    slots[0].ended(None)

    assert pacing.take("b") is not None
    assert pacing.take("c") is None


def test_no_more_in_a_second_than_allowed(pacing: Pacing, clock: Clock) -> None:
    """Also for whoever asks every other second alone: what was not used in between is kept."""
    started = 0
    for _ in range(30):
        while (slot := pacing.take("a")) is not None:
            slot.ended(None)
            started += 1
        clock.now += BURST_S
    assert started == 30 * 10 * BURST_S


def test_the_wait_that_it_names_is_the_wait_that_it_takes(pacing: Pacing, clock: Clock) -> None:
    for _ in range(20):
        taken(pacing).ended(None)
    wait_s = pacing.wait_s()
    clock.now += wait_s * 0.99
    assert pacing.take("a") is None
    clock.now += wait_s * 0.02
    assert pacing.take("a") is not None


@pytest.mark.parametrize("kind", ["HTTP_429", "HTTP_500", "HTTP_503", "TIMEOUT", "RESET", "HTML_ANSWER"])
def test_pressure_halves_rate_and_number(pacing: Pacing, clock: Clock, metrics: Metrics, kind: str) -> None:
    one(pacing, clock, kind)

    assert pace(pacing) == (10, 5)
    assert metrics.registry.get_sample_value("worker_pacing_concurrency", {"tenant": "acme"}) == 10
    assert metrics.registry.get_sample_value("worker_pacing_rate", {"tenant": "acme"}) == 5


@pytest.mark.parametrize("kind", ["HTTP_403", "HTTP_409", "SECRET_UNREADABLE"])
def test_what_is_no_pressure_changes_nothing(pacing: Pacing, clock: Clock, kind: str) -> None:
    one(pacing, clock, kind)
    assert pace(pacing) == (20, 10)


def test_a_burst_of_failures_counts_once_however_long_it_lasts(pacing: Pacing, clock: Clock) -> None:
    slots = [taken(pacing, f"a{n}") for n in range(20)]
    for slot in slots:
        slot.ended("TIMEOUT")
        clock.now += COOL_DOWN_S + 1

    assert pace(pacing) == (10, 5)


def test_within_the_cool_down_nothing_is_halved_again(pacing: Pacing, clock: Clock) -> None:
    one(pacing, clock, "HTTP_500", "a")
    began = clock.now
    for account in "bcd":
        one(pacing, clock, "HTTP_500", account)
    assert clock.now - began < COOL_DOWN_S
    assert pace(pacing) == (10, 5)

    clock.now = began + COOL_DOWN_S
    one(pacing, clock, "HTTP_500", "g")
    assert pace(pacing) == (5, 2.5)


def test_it_never_falls_below_the_floor(pacing: Pacing, clock: Clock) -> None:
    for n in range(20):
        clock.now += COOL_DOWN_S
        one(pacing, clock, "HTTP_500", f"a{n}")
    assert pace(pacing) == (2, 0.5)


def test_success_brings_it_back_from_the_floor_in_a_known_number_of_steps(pacing: Pacing, clock: Clock) -> None:
    for n in range(20):
        clock.now += COOL_DOWN_S
        one(pacing, clock, "HTTP_500", f"a{n}")
    before = pace(pacing)
    began = clock.now
    for n in range(RECOVERY_STEPS):
        one(pacing, clock, None, f"b{n}")
        after = pace(pacing)
        assert after[0] >= before[0]
        assert after[1] > before[1], "each success is a step"
        before = after

    assert pace(pacing) == (20, pytest.approx(10))
    assert clock.now - began < 15, "recovery is quick"


def test_successes_of_before_a_slowing_down_do_not_undo_it(pacing: Pacing) -> None:
    slots = [taken(pacing, f"a{n}") for n in range(20)]
    slots[0].ended("HTTP_503")
    for slot in slots[1:]:
        slot.ended(None)

    assert pace(pacing) == (10, 5)


def test_one_bad_account_does_not_slow_everybody_for_ever(pacing: Pacing, clock: Clock) -> None:
    """It fails again and again while others succeed: it has slowed things down once, and no more."""
    for n in range(20):
        clock.now += COOL_DOWN_S
        one(pacing, clock, "HTTP_500", "bad")
        one(pacing, clock, None, f"good-{n}")

    assert pace(pacing) == (20, pytest.approx(10))


def test_one_bad_account_alone_does_not_bring_the_pace_to_the_floor(pacing: Pacing, clock: Clock) -> None:
    for _ in range(20):
        clock.now += COOL_DOWN_S
        one(pacing, clock, "HTTP_500", "bad")
    assert pace(pacing) == (10, 5)


def test_a_bad_account_that_succeeded_counts_again(pacing: Pacing, clock: Clock) -> None:
    one(pacing, clock, "HTTP_500", "mended")
    one(pacing, clock, None, "mended")
    before = pacing.rate
    clock.now += COOL_DOWN_S
    one(pacing, clock, "HTTP_500", "mended")

    assert pacing.rate == before / 2


def test_what_was_saved_at_the_old_pace_is_not_spent_at_the_new_one(pacing: Pacing, clock: Clock) -> None:
    """Else twenty more would go out in the moment in which the provider says that it is too much."""
    one(pacing, clock, "HTTP_503")

    assert pacing.wait_s() == pytest.approx(1 / 5)


def test_a_429_counts_whoever_it_was_said_to(pacing: Pacing, clock: Clock) -> None:
    for _ in range(2):
        clock.now += COOL_DOWN_S
        one(pacing, clock, "HTTP_429", "the-same")
    assert pace(pacing) == (5, 2.5)


@pytest.mark.parametrize(("asked_s", "rests_s"), [(7, 7), (300, 300), (86_400, LONGEST_REST_S)])
def test_no_call_goes_out_before_the_provider_wants_one(
    pacing: Pacing, clock: Clock, asked_s: float, rests_s: float
) -> None:
    one(pacing, clock, "HTTP_429", retry_after_s=asked_s)

    assert pacing.wait_s() == rests_s
    clock.now += rests_s - 0.01
    assert pacing.take("b") is None
    assert "resting for 0 s as the provider asked" in pacing.describe()
    clock.now += 0.01
    assert pacing.take("b") is not None


def test_the_latest_wish_of_a_burst_holds(pacing: Pacing, clock: Clock) -> None:
    slots = [taken(pacing, f"a{n}") for n in range(3)]
    for slot, asked_s in zip(slots, (5, 60, 10), strict=True):
        slot.ended("HTTP_429", retry_after_s=asked_s)
    assert pacing.wait_s() == 60


def test_a_slot_that_was_not_used_costs_nothing(pacing: Pacing) -> None:
    for _ in range(100):
        taken(pacing).give_back()
    assert len([taken(pacing) for _ in range(20)]) == 20


def test_only_the_first_word_of_a_slot_counts(pacing: Pacing) -> None:
    slot = taken(pacing)
    slot.ended(None)
    slot.ended("HTTP_500")
    slot.give_back()
    assert pacing.running == 0
    assert pace(pacing) == (20, 10)


def test_an_operator_reads_why_and_when_it_is_over(
    pacing: Pacing, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "worker")
    one(pacing, clock, "HTTP_503")
    for n in range(RECOVERY_STEPS):
        one(pacing, clock, None, f"b{n}")

    assert [r.message for r in caplog.records] == [
        "deletions slow down: the provider has trouble",
        "deletions are at full speed again",
    ]
    said = vars(caplog.records[0])
    assert (said["why"], said["at_once"], said["per_s"]) == ("HTTP_503", 10, 5)


class AnyDeletions(RuleBasedStateMachine):
    """Whatever happens: bounds hold, nothing leaks, no more starts than the fastest rate allows."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.pacing = a_pacing(self.clock, Metrics())
        self.slots: list[Slot] = []
        self.began = self.clock.now
        self.started = 0
        self.rest_until = 0.0

    @rule(account=st.sampled_from("abcdef"))
    def ask(self, account: str) -> None:
        wait_s = self.pacing.wait_s()
        slot = self.pacing.take(account)
        assert (slot is not None) == (wait_s == 0)
        if slot is not None:
            assert self.clock.now >= self.rest_until
            self.slots.append(slot)
            self.started += 1

    @precondition(lambda self: self.slots)
    @rule(
        data=st.data(),
        kind=st.sampled_from([None, None, "HTTP_500", "HTTP_429", "TIMEOUT", "HTTP_403"]),
        asked_s=st.sampled_from([None, None, 0.0, 3.0, 1000.0]),
    )
    def end(self, data: st.DataObject, kind: str | None, asked_s: float | None) -> None:
        before = self.pacing.rate, self.pacing.concurrency
        slot = self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1)))
        slot.ended(kind, retry_after_s=asked_s)
        if asked_s is not None:
            self.rest_until = max(self.rest_until, self.clock.now + min(asked_s, LONGEST_REST_S))
        if kind is None:
            assert self.pacing.rate >= before[0]
        else:
            assert self.pacing.rate in (before[0], max(0.5, before[0] / 2))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1))).give_back()
        self.started -= 1

    @rule(seconds=st.sampled_from([0.05, 0.4, 2, 5, 100]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def holds_its_bounds(self) -> None:
        assert 2 <= self.pacing.concurrency <= 20
        assert 0.5 <= self.pacing.rate <= 10
        assert self.pacing.running == len(self.slots) <= 20
        assert self.started <= (self.clock.now - self.began) * 10 + 10 * BURST_S


TestAnyDeletions = AnyDeletions.TestCase
TestAnyDeletions.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
