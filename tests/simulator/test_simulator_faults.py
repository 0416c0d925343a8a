from collections import Counter

import pytest

from simulator.accounts import new_account
from simulator.faults import CHECKS, Faults
from simulator.fields import InvalidInput
from simulator.kinds import DeleteGarbage, Fault, ListGarbage

ACCOUNT = new_account(seed=1, csp_id=2009001, name="lab-adventure-0001", created_at=0)
OTHER = new_account(seed=1, csp_id=2009002, name="lab-adventure-0002", created_at=0)

KINDS = ("500", "429", "html", "hang", "reset", "slow")
FLAGS = (
    "hang_deletes",
    "reset_deletes",
    "empty_listing",
    "shuffled_listing",
    "ignore_offset",
    "services_html",
    "sign_in_rejects",
)
BOUNDS = [
    ("delete_latency_s", [0, 0.5, 600], [-0.001, 600.1]),
    ("delete_latency_jitter_s", [0, 600], [-1, 601]),
    ("delete_slow_s", [0, 600], [-1, 601]),
    ("list_latency_s", [0, 600], [-1, 601]),
    ("list_latency_jitter_s", [0, 600], [-1, 601]),
    ("list_slow_s", [0, 600], [-1, 601]),
    ("listing_lag_s", [0, 5_184_000], [-1, 5_184_001]),
    *((f"{call}_{kind}_rate", [0, 0.5, 1], [-0.1, 1.1]) for call in ("delete", "list") for kind in KINDS),
    ("services_500_rate", [0, 1], [-0.1, 1.1]),
    ("services_hang_rate", [0, 1], [-0.1, 1.1]),
    ("listing_fraction", [0, 0.5, 1], [-0.1, 1.1]),
    ("fail_next_deletes", [0, 1_000_000], [-1, 1_000_001, 1.0, 0.5]),
    ("fail_next_lists", [0, 1_000_000], [-1, 1_000_001, 1.0]),
    ("fail_list_page", [0, 1_000_000], [-1, 1_000_001, 1.0]),
    ("fail_with", list(Fault), ["", "none", "HANG", 500]),
    ("html_status", [200, 404, 500, 502, 503, 504], [201, 204, 302, 200.0, "200"]),
    ("retry_after_s", [0, 86_400], [-1, 86_401, 1.5]),
    ("max_deletes_per_s", [0, 0.1, 10_000], [-1, 10_001]),
    ("max_concurrent_deletes", [0, 10_000], [-1, 10_001, 1.5]),
    ("delete_garbage", list(DeleteGarbage), ["", "not_json", 0]),
    ("list_garbage", list(ListGarbage), ["", "html200", "\ud800", []]),
    ("garbage_every", [1, 1_000_000], [0, 1_000_001, 1.5]),
    ("huge_body_mb", [1, 1000], [0, 1001, 1.5]),
    ("duplicate_entries", [0, 1_000_000], [-1, 1_000_001, 1.5]),
    ("page_cap", [0, 1000], [-1, 1001, 1.5]),
    ("services_per_account", [0, 100], [-1, 101, 1.5]),
    *((name, [True, False], [0, 1, "true"]) for name in FLAGS),
    (
        "failing_accounts",
        [[], [1, "x"]],
        [[0], [""], [1.0], [True], [None], [["x"]], ["\ud800"], ["x" * 201]],
    ),
    ("html_accounts", [[], [2**53]], [[2**53 + 1], ["a\nb"]]),
    ("hidden_accounts", [[], ["x" * 200]], [[-1], ["x", {}]]),
    ("hanging_accounts", [[], [1]], [[0]]),
    ("resetting_accounts", [[], ["x"]], [[""]]),
]


def test_the_bounds_of_every_switch_are_tested():
    assert {name for name, _, _ in BOUNDS} == set(CHECKS)


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, good, _ in BOUNDS for v in good])
def test_a_switch_accepts_a_value_within_its_bounds(name, value):
    assert Faults().changed({name: value}).shown()[name] == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, _, bad in BOUNDS for v in bad])
def test_a_switch_refuses_a_value_out_of_bounds_and_is_named(name, value):
    with pytest.raises(InvalidInput, match=f"{name} must be"):
        Faults().changed({name: value})


@pytest.mark.parametrize("name", sorted(CHECKS))
@pytest.mark.parametrize("value", [None, "1", {}, float("nan"), float("inf"), -float("inf")])
def test_no_switch_takes_a_value_of_a_wrong_kind(name, value):
    with pytest.raises(InvalidInput, match=f"{name} must be"):
        Faults().changed({name: value})


@pytest.mark.parametrize(("name", "value"), [(n, n not in FLAGS or 1) for n in sorted(CHECKS)])
def test_true_is_no_number_and_one_is_not_true(name, value):
    with pytest.raises(InvalidInput, match=f"{name} must be"):
        Faults().changed({name: value})


def test_all_problems_are_told_at_once():
    with pytest.raises(InvalidInput) as refused:
        Faults().changed({"delete_500_rate": 2, "no_such_switch": 1, "listing_lag_s": 5})
    first, second = refused.value.problems
    assert first == "delete_500_rate must be a number from 0 to 1"
    assert second.startswith("'no_such_switch' is not known")


@pytest.mark.parametrize("body", [None, [], "x", 3])
def test_changes_must_be_an_object(body):
    with pytest.raises(InvalidInput, match="object"):
        Faults().changed(body)


def test_the_next_two_deletes_fail_and_the_third_does_not():
    faults = Faults(fail_next_deletes=2)
    seen = []
    for account in (ACCOUNT, None, ACCOUNT):
        fault, faults = faults.on_delete(account, roll=0.5)
        seen.append(fault)
    assert seen == [Fault.SERVER_ERROR, Fault.SERVER_ERROR, None]
    assert faults.fail_next_deletes == 0


def test_the_next_two_listings_fail_and_the_third_does_not():
    first, faults = Faults(fail_next_lists=2).on_list(page=1, roll=0.5)
    second, faults = faults.on_list(page=1, roll=0.5)
    assert first is second is Fault.SERVER_ERROR
    assert faults.on_list(page=1, roll=0.5) == (None, Faults())


@pytest.mark.parametrize(
    ("rate", "roll", "fails"), [(0, 0, False), (0.3, 0.29, True), (0.3, 0.3, False), (1, 0.999, True)]
)
def test_a_rate_decides_by_the_roll(rate, roll, fails):
    expected = Fault.SERVER_ERROR if fails else None
    assert Faults(delete_500_rate=rate).on_delete(ACCOUNT, roll=roll)[0] is expected
    assert Faults(list_500_rate=rate).on_list(page=1, roll=roll)[0] is expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "slow"])
def test_each_rate_makes_its_own_fault(kind):
    assert Faults().changed({f"delete_{kind}_rate": 1}).on_delete(ACCOUNT, roll=0.999)[0] == Fault(kind)
    assert Faults().changed({f"list_{kind}_rate": 1}).on_list(page=1, roll=0.999)[0] == Fault(kind)


def test_rates_lie_side_by_side_so_that_each_is_hit_as_often_as_it_says():
    faults = Faults(delete_500_rate=0.25, delete_429_rate=0.125, delete_hang_rate=0.5)
    faced = Counter(faults.on_delete(ACCOUNT, roll=n / 1000)[0] for n in range(1000))
    assert faced == {Fault.SERVER_ERROR: 250, Fault.TOO_MANY: 125, Fault.HANG: 500, None: 125}
    assert faults.on_services(roll=0.1) is None


def test_a_slow_deletion_takes_its_own_time_and_no_jitter():
    faults = Faults(
        delete_latency_s=1, delete_latency_jitter_s=2, delete_slow_rate=0.5, delete_slow_s=40, list_latency_s=3
    )
    assert faults.delete_wait_s(roll=0.5, slow_roll=0.499) == 40
    assert faults.delete_wait_s(roll=0.5, slow_roll=0.5) == 2
    assert faults.list_wait_s(roll=0.5, slow_roll=0) == 3


@pytest.mark.parametrize("fault", list(Fault))
def test_only_behind_a_hang_or_a_reset_a_deletion_can_happen(fault):
    assert Faults(hang_deletes=True).deletes_behind(fault) == (fault is Fault.HANG)
    assert Faults(reset_deletes=True).deletes_behind(fault) == (fault is Fault.RESET)
    assert not Faults().deletes_behind(fault)


@pytest.mark.parametrize("ref", [ACCOUNT.csp_id, ACCOUNT.name])
@pytest.mark.parametrize(
    ("switch", "fault"),
    [
        ("failing_accounts", Fault.SERVER_ERROR),
        ("html_accounts", Fault.HTML),
        ("hanging_accounts", Fault.HANG),
        ("resetting_accounts", Fault.RESET),
    ],
)
def test_a_named_account_always_fails_and_another_does_not(switch, fault, ref):
    faults = Faults().changed({switch: [ref]})
    assert faults.on_delete(ACCOUNT, roll=0.5) == (fault, faults)
    assert faults.on_delete(OTHER, roll=0.5) == (None, faults)
    assert faults.on_delete(None, roll=0.5) == (None, faults)
