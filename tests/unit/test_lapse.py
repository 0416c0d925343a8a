"""A lease lapses before the observer's own eyes, whatever any clock on any wall says."""

from broker.lapse import MAX_WATCHED, Lapses
from tests.store.conftest import Clock


def test_a_stamp_that_stands_still_for_the_whole_lease_has_lapsed() -> None:
    clock = Clock(100.0)
    lapses = Lapses(lapse_s=15, monotonic=clock)

    assert not lapses.lapsed("lease", 1)
    clock.now += 14.9
    assert not lapses.lapsed("lease", 1)
    clock.now += 0.1
    assert lapses.lapsed("lease", 1)


def test_a_stamp_that_moves_begins_the_wait_anew() -> None:
    clock = Clock(100.0)
    lapses = Lapses(lapse_s=15, monotonic=clock)
    lapses.lapsed("lease", 1)
    clock.now += 14
    lapses.lapsed("lease", 2)
    clock.now += 14

    assert not lapses.lapsed("lease", 2)


def test_a_lease_that_was_never_seen_before_has_not_lapsed_however_late_it_is() -> None:
    clock = Clock(1e9)

    assert not Lapses(lapse_s=15, monotonic=clock).lapsed("lease", None)


def test_a_forgotten_lease_is_watched_anew() -> None:
    clock = Clock(100.0)
    lapses = Lapses(lapse_s=15, monotonic=clock)
    lapses.lapsed("lease", 1)
    clock.now += 20
    lapses.forget("lease")

    assert not lapses.lapsed("lease", 1)


def test_a_flood_of_leases_is_forgotten_oldest_first() -> None:
    clock = Clock(100.0)
    lapses = Lapses(lapse_s=15, monotonic=clock)
    for number in range(MAX_WATCHED + 1):
        lapses.lapsed(number, 1)
    clock.now += 15

    assert not lapses.lapsed(0, 1)
    assert lapses.lapsed(MAX_WATCHED, 1)
