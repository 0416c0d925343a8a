import pytest

from simulator.accounts import new_account
from simulator.faults import CHECKS, Fault, Faults
from simulator.fields import InvalidInput

ACCOUNT = new_account(seed=1, csp_id=2009001, name="lab-adventure-0001", created_at=0)
OTHER = new_account(seed=1, csp_id=2009002, name="lab-adventure-0002", created_at=0)

BOUNDS = [
    ("delete_latency_s", [0, 0.5, 600], [-0.001, 600.1]),
    ("delete_latency_jitter_s", [0, 600], [-1, 601]),
    ("list_latency_s", [0, 600], [-1, 601]),
    ("listing_lag_s", [0, 5_184_000], [-1, 5_184_001]),
    ("delete_500_rate", [0, 0.5, 1], [-0.1, 1.1]),
    ("list_500_rate", [0, 1], [-0.1, 1.1]),
    ("fail_next_deletes", [0, 1_000_000], [-1, 1_000_001, 1.0, 0.5]),
    ("fail_next_lists", [0, 1_000_000], [-1, 1_000_001, 1.0]),
    (
        "failing_accounts",
        [[], [1, "x"]],
        [[0], [""], [1.0], [True], [None], [["x"]], ["\ud800"], ["x" * 201]],
    ),
    ("html_accounts", [[], [2**53]], [[2**53 + 1], ["a\nb"]]),
    ("hidden_accounts", [[], ["x" * 200]], [[-1], ["x", {}]]),
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
@pytest.mark.parametrize("value", [None, True, "1", {}, float("nan"), float("inf"), -float("inf")])
def test_no_switch_takes_a_value_of_a_wrong_kind(name, value):
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
    first, faults = Faults(fail_next_lists=2).on_list(roll=0.5)
    second, faults = faults.on_list(roll=0.5)
    assert first is second is Fault.SERVER_ERROR
    assert faults.on_list(roll=0.5) == (None, Faults())


@pytest.mark.parametrize(
    ("rate", "roll", "fails"), [(0, 0, False), (0.3, 0.29, True), (0.3, 0.3, False), (1, 0.999, True)]
)
def test_a_rate_decides_by_the_roll(rate, roll, fails):
    expected = Fault.SERVER_ERROR if fails else None
    assert Faults(delete_500_rate=rate).on_delete(ACCOUNT, roll=roll)[0] is expected
    assert Faults(list_500_rate=rate).on_list(roll=roll)[0] is expected


@pytest.mark.parametrize("ref", [ACCOUNT.csp_id, ACCOUNT.name])
@pytest.mark.parametrize(
    ("switch", "fault"), [("failing_accounts", Fault.SERVER_ERROR), ("html_accounts", Fault.HTML)]
)
def test_a_named_account_always_fails_and_another_does_not(switch, fault, ref):
    faults = Faults().changed({switch: [ref]})
    assert faults.on_delete(ACCOUNT, roll=0.5) == (fault, faults)
    assert faults.on_delete(OTHER, roll=0.5) == (None, faults)
    assert faults.on_delete(None, roll=0.5) == (None, faults)
