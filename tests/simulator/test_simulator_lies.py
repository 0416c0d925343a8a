"""Listings that lie: about who is there, how often, in which order, and how long a page is."""

from collections import Counter
from itertools import pairwise

import pytest
from simulated import Simulated

from simulator.faults import Faults
from simulator.lies import page_number, positions


async def read_all(simulator: Simulated, *, limit: int) -> list[int]:
    """The csp_ids of all pages, as a client reads them that believes in short pages."""
    seen: list[int] = []
    while results := (await simulator.page(_limit=limit, _offset=len(seen))).json()["results"]:
        seen += [account["csp_id"] for account in results]
    return seen


def paged(faults: Faults, *, total: int, limit: int) -> list[int]:
    """The positions of all pages."""
    seen: list[int] = []
    while page := list(positions(faults, total=total, offset=len(seen), limit=limit)):
        seen += page
    return seen


async def test_an_empty_listing_is_a_good_answer_without_accounts(simulator: Simulated):
    await simulator.switch(empty_listing=True)
    answer = await simulator.page()
    assert (answer.status_code, answer.json()) == (200, {"results": []})
    await simulator.switch(empty_listing=False)
    assert len(await simulator.listed()) == 15


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (0.1, 2), (0.5, 8), (1, 15)])
@pytest.mark.parametrize("limit", [4, 1000])
async def test_a_fraction_of_the_listing_is_its_first_share_on_all_pages(
    simulator: Simulated, fraction, count, limit
):
    every = sorted(await simulator.inspected())
    await simulator.switch(listing_fraction=fraction)
    assert await read_all(simulator, limit=limit) == every[:count]


async def test_a_fraction_counts_without_the_hidden_accounts(simulator: Simulated):
    every = sorted(await simulator.inspected())
    await simulator.switch(listing_fraction=0.5, hidden_accounts=every[:5])
    assert await read_all(simulator, limit=3) == every[5:10]


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_each_nth_entry_comes_twice_one_after_the_other(simulator: Simulated, limit):
    every = sorted(await simulator.inspected())
    await simulator.switch(duplicate_entries=7)
    assert await read_all(simulator, limit=limit) == [
        *every[:7],
        every[6],
        *every[7:14],
        every[13],
        every[14],
    ]


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_a_shuffled_listing_has_every_account_once_in_the_same_odd_order_each_time(
    simulator: Simulated, limit
):
    every = sorted(await simulator.inspected())
    await simulator.switch(shuffled_listing=True)
    seen = await read_all(simulator, limit=limit)
    assert seen != every
    assert sorted(seen) == every
    assert await read_all(simulator, limit=5) == seen


async def test_a_capped_page_is_shorter_than_asked_for_and_nothing_is_lost(simulator: Simulated):
    every = sorted(await simulator.inspected())
    await simulator.switch(page_cap=4)
    assert [len((await simulator.page(_limit=limit)).json()["results"]) for limit in (3, 4, 1000)] == [3, 4, 4]
    assert await read_all(simulator, limit=1000) == every


async def test_a_listing_that_ignores_the_offset_has_no_end(simulator: Simulated):
    first = (await simulator.page(_limit=5)).json()
    await simulator.switch(ignore_offset=True)
    assert [(await simulator.page(_limit=5, _offset=offset)).json() for offset in (0, 5, 10**9)] == [first] * 3


async def test_one_page_of_a_listing_fails_each_time_and_the_others_do_not(simulator: Simulated):
    async def walk(*offsets: int) -> list[int]:
        return [(await simulator.page(_limit=5, _offset=offset)).status_code for offset in offsets]

    await simulator.switch(fail_list_page=2)
    assert await walk(0, 5, 10, 5) == [200, 500, 200, 500]
    await simulator.switch(fail_with="html")
    assert await walk(0, 4, 8) == [200, 502, 200]  # pages that overlap by an entry
    await simulator.switch(page_cap=2, fail_list_page=3)
    assert await walk(0, 2, 4, 6) == [200, 200, 502, 200]


@pytest.mark.parametrize("limit", [2, 10, 500])
def test_pages_that_join_and_pages_that_overlap_by_one_are_counted_alike(limit):
    for number in range(1, limit + 1):
        assert page_number(Faults(), offset=(number - 1) * limit, limit=limit) == number
        assert page_number(Faults(), offset=(number - 1) * (limit - 1), limit=limit) == number


@pytest.mark.parametrize("total", [0, 1, 2, 3, 64, 100, 997])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_whatever_is_combined_the_pages_agree_with_a_plain_model(total, limit):
    for every in (0, 1, 2, 5):
        faults = Faults(duplicate_entries=every, listing_fraction=0.7, shuffled_listing=True, page_cap=9)
        seen = paged(faults, total=total, limit=limit)
        twice = Counter(Counter(seen).values())
        known = -(-total * 7 // 10)
        assert len(set(seen)) == known
        assert twice[2] == (known // every if every else 0)


def test_the_first_positions_of_a_shuffled_listing_are_from_all_over_it():
    shuffled = list(positions(Faults(shuffled_listing=True), total=100_000, offset=0, limit=1000))
    assert min(shuffled) < 1000
    assert max(shuffled) > 99_000
    assert not any(abs(a - b) == 1 for a, b in pairwise(shuffled))


def test_a_page_costs_its_own_length_however_far_into_the_listing_it_is():
    faults = Faults(listing_fraction=0.99, duplicate_entries=10, shuffled_listing=True)
    last = positions(faults, total=10**15, offset=10**15, limit=1000)  # what walked there would never end
    assert len(set(last)) in (909, 910)
