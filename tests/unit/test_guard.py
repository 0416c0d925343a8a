"""E4, the decision alone: which listings are believed."""

import pytest

from broker.policy import CONFIRMATIONS, Missing, Suspicion, suspect

NOW = 1_760_000_000


A, B = frozenset(range(100)), frozenset(range(50, 150))


def a_listing(missing: int, expected: int = 10, sketch: frozenset[int] = A, unreadable: int = 0) -> Missing:
    return Missing(expected=expected, missing=missing, sketch=sketch, unreadable=unreadable)


@pytest.mark.parametrize(("missing", "expected", "alarming"), [
    (0, 0, False), (0, 10, False), (4, 10, False), (5, 10, True), (10, 10, True), (1, 1, True), (1, 3, False),
    (2, 3, True),
])  # fmt: skip
def test_half_or_more_missing_is_alarming_and_less_is_not(missing: int, expected: int, alarming: bool) -> None:
    assert a_listing(missing, expected).alarming is alarming


def test_an_alarming_listing_is_believed_when_it_has_come_three_times_in_a_row() -> None:
    suspicion: Suspicion | None = None
    for number in range(1, CONFIRMATIONS):
        suspicion = suspect(a_listing(5), suspicion, confirmed=False, now=NOW + number)
        assert suspicion == Suspicion(sketch=A, times=number, since=NOW + 1, counted_at=NOW + number)

    assert suspect(a_listing(5), suspicion, confirmed=False, now=NOW + 9) is None


def test_another_alarming_listing_begins_the_count_anew() -> None:
    twice = Suspicion(sketch=A, times=2, since=NOW, counted_at=NOW)

    assert suspect(a_listing(6, sketch=B), twice, confirmed=False, now=NOW + 9) == Suspicion(
        sketch=B, times=1, since=NOW, counted_at=NOW + 9
    )


def test_an_operator_confirms_at_once() -> None:
    assert suspect(a_listing(10), None, confirmed=True, now=NOW) is None


def test_a_listing_that_is_whole_again_ends_the_suspicion() -> None:
    once = Suspicion(sketch=A, times=1, since=NOW, counted_at=NOW)

    assert suspect(a_listing(0), once, confirmed=False, now=NOW) is None


def test_a_lie_that_is_asked_for_often_is_counted_once() -> None:
    """Three syncs in a second, by hand and by the schedule, are one listing."""
    suspicion = suspect(a_listing(10), None, confirmed=False, now=NOW, apart_s=300)
    for _ in range(5):
        suspicion = suspect(a_listing(10), suspicion, confirmed=False, now=NOW + 299, apart_s=300)

    assert suspicion is not None
    assert suspicion.times == 1
    again = suspect(a_listing(10), suspicion, confirmed=False, now=NOW + 300, apart_s=300)
    assert again is not None
    assert again.times == 2


def test_a_missing_set_that_our_own_releases_shrank_is_the_same_and_another_half_is_not() -> None:
    once = Suspicion(sketch=frozenset(range(20)), times=1, since=NOW, counted_at=NOW)

    shrunk = suspect(a_listing(19, 20, frozenset(range(1, 20))), once, confirmed=False, now=NOW + 9)
    other = suspect(a_listing(20, 40, frozenset(range(10, 30))), once, confirmed=False, now=NOW + 9)

    assert shrunk is not None
    assert other is not None
    assert (shrunk.times, other.times) == (2, 1)


def test_one_unreadable_entry_is_enough_to_doubt_that_anybody_is_missing() -> None:
    assert a_listing(1, 10, unreadable=1).alarming
    assert not a_listing(0, 10, unreadable=1).alarming
