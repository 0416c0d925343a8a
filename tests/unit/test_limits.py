"""D2, D5: the ceiling comes first, and a flood of keys costs no memory without bound."""

import time
from typing import Any

import pytest
from limits import parse
from limits.strategies import FixedWindowRateLimiter

from app.auth import Credential
from app.limits import MAX_KEYS, LruStorage, RateLimits
from broker.role import Role

TRACK = Credential("bootstrap-track", "acme", Role.TRACK)
OTHER = Credential("other", "umbrella", Role.TRACK)
HOME = "203.0.113.7"
OPEN = "999999999/day"


def rate_limits(*, student: str = OPEN, credential: str = OPEN, address: str = OPEN) -> RateLimits:
    return RateLimits(per_student=student, per_credential=credential, per_address=address)


def stored(limited: RateLimits) -> LruStorage:
    storage: LruStorage = limited._strategy.storage
    return storage


def passed(limited: RateLimits, credential: Credential | None = TRACK, *, student: str | None = None,
           address: str = HOME) -> bool:  # fmt: skip
    return limited.check(credential, student=student, address=address).refused is None


@pytest.mark.timeout(600)  # some seconds of work, on a machine that does nothing else
def test_a_million_distinct_header_values_keep_at_most_the_bounded_number_of_entries() -> None:
    """By the whole way until it is full and forgets; the rest where they are counted, for a tenth of the time."""
    limited = rate_limits()
    most = 0
    for n in range(1_000_000):
        if n < 1.2 * MAX_KEYS:
            limited.check(TRACK, student=f"student-{n}", address=HOME)
        else:
            stored(limited).incr(f"student-{n}", 60)
        if n % 10_000 == 0:
            most = max(most, len(stored(limited)))
    assert most <= MAX_KEYS
    assert len(stored(limited)) == MAX_KEYS, "the flood did fill it"


@pytest.mark.parametrize("credential", [TRACK, None])
def test_a_flood_of_addresses_is_bounded_too(credential: Any) -> None:
    limited = rate_limits()
    stored(limited).max_keys = 500
    for n in range(5_000):
        limited.check(credential, student=None, address=f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}")
    assert len(stored(limited)) == 500


def test_whoever_rotates_headers_makes_no_more_keys_once_the_ceiling_is_hit() -> None:
    limited = rate_limits(credential="1000/day")
    for n in range(1_000):
        assert passed(limited, student=f"student-{n}")
    keys = len(stored(limited))
    for n in range(1_000, 50_000):
        assert not passed(limited, student=f"student-{n}")
    assert len(stored(limited)) == keys == 1_001


def test_the_ceiling_survives_the_flood_that_it_stands_against() -> None:
    """The least recently used goes, and the flooding credential's own count is used by every request."""
    limited = rate_limits(credential="1000/day")
    stored(limited).max_keys = 100
    outcome = [passed(limited, student=f"student-{n}") for n in range(1_500)]
    assert outcome == [True] * 1_000 + [False] * 500


def test_the_least_recently_used_is_forgotten_first() -> None:
    storage = LruStorage()
    storage.max_keys = 3
    for key in ("a", "b", "c", "a", "d"):
        storage.incr(key, 60)
    assert [storage.get(key) for key in "abcd"] == [2, 0, 1, 1]


def test_a_window_begins_with_the_first_request_and_starts_anew_after_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limiter = FixedWindowRateLimiter(LruStorage())
    limit = parse("2/10 seconds")
    assert [limiter.hit(limit, "k") for _ in range(3)] == [True, True, False]
    now = 1009.9
    assert not limiter.hit(limit, "k")
    assert limiter.get_window_stats(limit, "k").reset_time == 1010
    now = 1010.1
    assert limiter.hit(limit, "k")


def test_the_answer_says_how_many_are_left_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    limited = rate_limits(student="2/10 seconds")
    headers = [limited.check(TRACK, student="s", address=HOME).headers for _ in range(3)]
    assert [h["X-RateLimit-Remaining"] for h in headers] == ["1", "0", "0"]
    assert {h["X-RateLimit-Limit"] for h in headers} == {"2"}
    refused = limited.check(TRACK, student="s", address=HOME).refused
    assert refused is not None
    assert 10 <= (refused.retry_after_s or 0) <= 11, "a repeat after that long is let in"
    now = 1000.0 + (refused.retry_after_s or 0)
    assert passed(limited, student="s")


def test_students_credentials_and_addresses_do_not_share_counts() -> None:
    limited = rate_limits(student="1/day", address="1/day")
    assert passed(limited, student="x")
    assert not passed(limited, student="x")
    assert passed(limited, student="y")
    assert passed(limited, OTHER, student="x"), "another tenant's student of the same name"
    assert passed(limited, address="198.51.100.1"), "no student: by address"
    assert passed(limited, None, address="198.51.100.1"), "no credential: another count"
    assert not passed(limited, None, address="198.51.100.1")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("203.0.113.1", "203.0.113.1", True),
        ("203.0.113.1", "203.0.113.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("unix:", "testclient", True),
    ],
)
def test_an_address_is_one_caller_or_an_ipv6_network_is(one: str, other: str, shared: bool) -> None:
    limited = rate_limits(address="1/day")
    assert passed(limited, None, address=one)
    assert passed(limited, None, address=other) is not shared


def test_a_student_cannot_be_spelled_so_that_it_shares_an_addresss_count() -> None:
    limited = rate_limits(student="1/day")
    assert passed(limited, address=HOME)
    for name in (HOME, f"address:{HOME}", f"address.{HOME}"):
        assert passed(limited, student=name)


def test_the_storage_forgets_when_told_to() -> None:
    storage = LruStorage()
    storage.incr("a", 60)
    storage.incr("b", 60)
    storage.clear("a")
    assert (storage.get("a"), storage.get("b")) == (0, 1)
    assert storage.reset() == 1
    assert len(storage) == 0
    assert storage.check()


def test_an_operator_has_the_ceiling_alone() -> None:
    """Who follows a job's progress asks more often than any student."""
    limits = RateLimits(per_student="2/minute", per_credential="5/minute", per_address="1/minute")
    operator = Credential("op", "acme", Role.OPERATOR)

    passed = [limits.check(operator, student=None, address="203.0.113.7").refused is None for _ in range(6)]

    assert passed == [True] * 5 + [False]


def test_a_refusal_says_the_limit_in_good_english() -> None:
    limits = RateLimits(per_student="1/10 seconds", per_credential="1/10 seconds", per_address="1/10 seconds")
    limits.check(None, student=None, address="203.0.113.7")

    refused = limits.check(None, student=None, address="203.0.113.7").refused

    assert refused is not None
    assert "(limit 1 per 10 seconds)" in refused.message
