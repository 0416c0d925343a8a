"""Pages of the listing that are no such JSON."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from simulated import Simulated

from simulator.garbage import DELETIONS, LISTS, NO_ENTRIES, WRONG_FIELDS
from simulator.kinds import DeleteGarbage, ListGarbage

FIELDS = {"id", "csp_id", "name", "account_type", "state", "created_at", "sfdc_account_id"}


async def garbled(simulator: Simulated, kind: str, **switches: Any) -> httpx.Response:
    await simulator.switch(list_garbage=kind, **switches)
    return await simulator.page(_limit=1000)


def test_every_kind_of_garbage_has_its_body():
    assert set(LISTS) == set(ListGarbage)
    assert set(DELETIONS) == set(DeleteGarbage) - {DeleteGarbage.NONE}


@pytest.mark.parametrize("kind", ["not_json", "truncated_json", "bad_encoding", "empty_body", "deep_nesting"])
async def test_what_no_parser_takes_is_announced_as_json(simulator: Simulated, kind):
    answer = await garbled(simulator, kind)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    with pytest.raises((ValueError, RecursionError)):
        json.loads(answer.content)
    assert len((await garbled(simulator, "none")).json()["results"]) == 15


async def test_a_truncated_page_is_the_beginning_of_the_true_one(simulator: Simulated):
    whole = (await simulator.page()).content
    part = (await garbled(simulator, "truncated_json")).content
    assert whole.startswith(part)
    assert len(part) < len(whole)


@pytest.mark.parametrize(("kind", "results"), [("wrong_shape", dict), ("null_results", type(None))])
async def test_results_that_are_no_list(simulator: Simulated, kind, results):
    assert isinstance((await garbled(simulator, kind)).json()["results"], results)


async def test_the_truth_can_come_with_a_wrong_content_type(simulator: Simulated):
    truth = (await simulator.page()).json()
    answer = await garbled(simulator, "wrong_content_type")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.json() == truth


async def test_a_huge_body_is_as_long_as_told_and_begins_like_a_listing_of_nobody(simulator: Simulated):
    answer = await garbled(simulator, "huge_body", huge_body_mb=12)
    assert len(answer.content) >= 12_000_000
    assert "content-length" not in answer.headers
    assert answer.json()["results"] == []


async def test_a_dripping_body_comes_byte_by_byte_without_end(simulator: Simulated):
    await simulator.switch(list_garbage="dripping_body")
    dripped: list[bytes] = []

    async def listen(answer: httpx.Response) -> None:
        async for part in answer.aiter_raw():
            dripped.append(part)

    async with simulator.http.stream("GET", "/current_user/accounts") as answer:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(listen(answer), 1)
    assert answer.status_code == 200
    assert 2 <= len(b"".join(dripped)) <= 20


async def test_a_redirect_leads_to_a_page_for_people(simulator: Simulated):
    answer = await garbled(simulator, "redirect")
    assert (answer.status_code, answer.headers["location"]) == (302, "/login")
    page = await simulator.http.get(answer.headers["location"])
    assert (page.status_code, page.text[:6]) == (200, "<html>")


@pytest.mark.parametrize("every", [1, 3])
async def test_entries_lack_a_field_each_and_always_those_of_the_same_accounts(simulator: Simulated, every):
    await simulator.http.post("/_simulator/accounts", json={"count": 200})
    truth = await simulator.listed()
    results = (await garbled(simulator, "missing_fields", garbage_every=every)).json()["results"]
    lost = set()
    for told, true in zip(results, truth, strict=True):
        assert told.items() <= true.items()
        assert len(true) - len(told) == (true["csp_id"] % every == 0)
        lost |= set(true) - set(told)
    assert lost == FIELDS
    assert (await simulator.page(_limit=1000)).json()["results"] == results


async def test_entries_are_nonsense_in_every_known_way_and_the_others_stay_true(simulator: Simulated):
    await simulator.http.post("/_simulator/accounts", json={"count": 400})
    truth = await simulator.listed()
    results = (await garbled(simulator, "wrong_types", garbage_every=2)).json()["results"]
    told_wrong = []
    for told, true in zip(results, truth, strict=True):
        if true["csp_id"] % 2:
            assert told == true
        elif isinstance(told, dict):
            ((name, value),) = [(n, v) for n, v in told.items() if v != true[n] or type(v) is not type(true[n])]
            told_wrong.append((name, value))
        else:
            told_wrong.append(told)
    for wrong in (*WRONG_FIELDS, *NO_ENTRIES):
        assert wrong in told_wrong
