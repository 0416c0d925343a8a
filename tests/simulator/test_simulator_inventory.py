import random
import time

import pytest

from simulator.accounts import ACTIVE, DISABLED, SANDBOX, STANDARD, Account
from simulator.inventory import DuplicateAccount, Inventory

NOW = 1_800_000_000.0


def an_inventory(*, seed: int = 1, sandboxes: int = 10, noise: int = 0) -> Inventory:
    return Inventory.start(seed=seed, sandboxes=sandboxes, noise=noise)


def listed(inventory: Inventory, *, now: float = NOW, lag_s: float = 0, limit: int = 100, **options) -> list[int]:
    """The csp_ids of all pages, read as a client reads them."""
    ids: list[int] = []
    while True:
        listing = inventory.listing(now=now, lag_s=lag_s, **options)
        page = range(len(ids), min(len(ids) + limit, len(listing)))
        ids += [listing[position].csp_id for position in page]
        if len(page) < limit:
            return ids


def usable(account: Account) -> bool:
    return account.account_type == SANDBOX and account.state == ACTIVE


def test_the_same_seed_gives_the_same_accounts_and_another_seed_gives_others():
    assert list(an_inventory(seed=5, noise=3)) == list(an_inventory(seed=5, noise=3))
    ours, theirs = list(an_inventory(seed=5)), list(an_inventory(seed=6))
    assert not {a.uuid for a in ours} & {a.uuid for a in theirs}


def test_sandboxes_are_named_by_number_and_nothing_is_listed_twice():
    accounts = list(an_inventory(sandboxes=30, noise=4))
    assert [a.name for a in accounts if usable(a)] == [f"lab-adventure-{n:04d}" for n in range(1, 31)]
    for field in ("csp_id", "uuid", "name", "sfdc_account_id"):
        assert len({getattr(a, field) for a in accounts}) == 34


def test_the_noise_is_of_both_kinds_and_among_the_rest():
    accounts = list(an_inventory(sandboxes=200, noise=3))
    noise = [position for position, account in enumerate(accounts) if not usable(account)]
    assert len(noise) == 3
    assert {(accounts[n].account_type, accounts[n].state) for n in noise} == {
        (STANDARD, ACTIVE),
        (SANDBOX, DISABLED),
    }
    assert 0 < noise[0] < noise[-1] < 202
    assert noise != list(range(noise[0], noise[0] + 3))


@pytest.mark.parametrize("limit", [1, 3, 13, 14, 1000])
def test_pages_give_every_account_exactly_once_by_rising_csp_id(limit):
    inventory = an_inventory(sandboxes=10, noise=3)
    assert listed(inventory, limit=limit) == sorted(a.csp_id for a in inventory)


def test_a_deleted_account_is_listed_until_its_lag_is_over():
    inventory = an_inventory()
    every = listed(inventory)
    assert inventory.delete(every[4], now=NOW)
    assert listed(inventory, now=NOW + 59.9, lag_s=60) == every
    assert listed(inventory, now=NOW + 60, lag_s=60) == every[:4] + every[5:]


def test_without_lag_a_deleted_account_is_gone_at_once():
    inventory = an_inventory()
    every = listed(inventory)
    inventory.delete(every[0], now=NOW)
    assert listed(inventory, now=NOW) == every[1:]


def test_a_longer_lag_shows_a_deleted_account_again():
    inventory = an_inventory()
    every = listed(inventory)
    for csp_id in (every[7], every[2]):
        inventory.delete(csp_id, now=NOW)
    assert len(listed(inventory)) == 8
    assert listed(inventory, now=NOW + 10, lag_s=60) == every
    assert len(listed(inventory, now=NOW + 10, lag_s=5)) == 8


def test_an_account_is_deleted_once():
    inventory = an_inventory()
    first = next(iter(inventory)).csp_id
    assert inventory.delete(first, now=NOW)
    assert not inventory.delete(first, now=NOW + 5)
    account = next(iter(inventory))
    assert (account.deleted_at, account.deletes_done) == (NOW, 1)


def test_a_standard_account_is_not_deleted_and_a_disabled_sandbox_is():
    inventory = an_inventory(noise=2)
    standard = next(a for a in inventory if a.account_type == STANDARD)
    disabled = next(a for a in inventory if a.state == DISABLED)
    assert not inventory.delete(standard.csp_id, now=NOW)
    assert inventory.delete(disabled.csp_id, now=NOW)
    assert disabled.csp_id not in listed(inventory)
    assert standard.csp_id in listed(inventory)


def test_a_request_is_counted_also_for_what_is_already_deleted():
    inventory = an_inventory()
    first = next(iter(inventory))
    inventory.request_delete(first.uuid)
    inventory.delete(first.csp_id, now=NOW)
    inventory.request_delete(first.uuid)
    assert next(iter(inventory)).delete_requests == 2
    assert inventory.request_delete("d448bcf5-fcfb-44ee-b28a-1a625bdb597a") is None


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("positions", [[0], [9], [0, 1, 2], [2, 3, 7], [8, 9], list(range(10))])
def test_hidden_accounts_leave_no_hole_in_the_pages(positions, limit):
    inventory = an_inventory()
    every = list(inventory)
    hidden = tuple(every[n].name if n % 2 else every[n].csp_id for n in positions)
    expected = [a.csp_id for n, a in enumerate(every) if n not in positions]
    assert listed(inventory, limit=limit, hidden=(*hidden, "no-such-account", 1)) == expected


def test_pages_agree_with_a_plain_model_after_any_mix_of_changes():
    rng = random.Random(3)
    inventory, now = an_inventory(sandboxes=40), NOW
    for _ in range(300):
        now += rng.random()
        accounts = list(inventory)
        some = rng.choice(accounts)
        if rng.random() < 0.5:
            inventory.delete(some.csp_id, now=now)
        elif rng.random() < 0.5:
            inventory.add(now=now)
        else:
            inventory.change(some.csp_id, name=f"lab-{rng.randint(1, 20)}")
        hidden = tuple(rng.choice(accounts).name for _ in range(rng.randint(0, 4)))
        lag_s = rng.choice([0, 5, 50])
        expected = [
            a.csp_id
            for a in inventory
            if a.name not in hidden and (a.deleted_at is None or now < a.deleted_at + lag_s)
        ]
        assert listed(inventory, now=now, lag_s=lag_s, limit=7, hidden=hidden) == expected


def test_an_added_account_gets_the_next_name_and_the_next_csp_id():
    inventory = an_inventory(sandboxes=10)
    highest = max(a.csp_id for a in inventory)
    inventory.change(highest, name="lab-adventure-0012")
    added = [inventory.add(now=NOW) for _ in range(2)]
    assert [a.name for a in added] == ["lab-adventure-0011", "lab-adventure-0013"]
    assert [a.csp_id for a in added] == [highest + 1, highest + 2]
    assert added[0].created_at == NOW


def test_a_csp_id_is_never_used_twice_not_even_after_deletion():
    inventory = an_inventory()
    first = next(iter(inventory)).csp_id
    inventory.delete(first, now=NOW)
    assert first not in listed(inventory)
    before = list(inventory)
    with pytest.raises(DuplicateAccount):
        inventory.add(now=NOW, name="again", csp_id=first)
    assert list(inventory) == before


def test_an_account_added_below_the_others_is_listed_in_its_place():
    inventory = an_inventory()
    inventory.add(now=NOW, name="early", csp_id=5)
    assert listed(inventory)[0] == 5
    assert inventory.add(now=NOW).csp_id == max(listed(inventory))


def test_a_renamed_account_is_hidden_by_its_new_name_only():
    inventory = an_inventory()
    first = next(iter(inventory))
    inventory.change(first.csp_id, name="renamed")
    assert first.csp_id in listed(inventory, hidden=(first.name,))
    assert first.csp_id not in listed(inventory, hidden=("renamed",))


def test_a_change_of_an_unknown_account_is_none():
    assert an_inventory().change(1, name="x") is None


def test_an_account_is_listed_as_the_provider_writes_it():
    account = next(iter(an_inventory()))
    assert account.listed() == {
        "id": f"identity/accounts/{account.uuid}",
        "csp_id": account.csp_id,
        "name": "lab-adventure-0001",
        "account_type": "sandbox",
        "state": "active",
        "created_at": "2025-03-27T16:53:47.605459Z",
        "sfdc_account_id": account.sfdc_account_id,
    }


def test_a_hundred_thousand_sandboxes_start_in_three_seconds_and_a_page_costs_its_own_length():
    began = time.process_time()
    inventory = an_inventory(sandboxes=100_000, noise=3)
    assert time.process_time() - began < 3
    inventory.delete(next(iter(inventory)).csp_id, now=NOW)
    began = time.process_time()
    for _ in range(100):
        listing = inventory.listing(now=NOW, lag_s=0, hidden=("lab-adventure-0500",))
        assert len({listing[position].csp_id for position in range(90_000, 90_010)}) == 10
    assert (time.process_time() - began) / 100 < 0.001
