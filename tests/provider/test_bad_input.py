"""Answers that are wrong in every way a JSON can be wrong: an error with a name, counted; the batch goes on."""

import json
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.conftest import LIST, Door, an_entry, listed
from worker.provider.accounts import InvalidAccount, account_from
from worker.provider.answers import ODD, results_of
from worker.provider.errors import ProviderError

GOOD = json.dumps(an_entry(1))


def a_listing(*entries: str) -> bytes:
    return ('{"results": [' + ", ".join(entries) + "]}").encode()


def with_csp_id(text: str) -> str:
    return json.dumps(an_entry(2)).replace("2009002", text)


WRONG_BODIES = [
    (b"", "NOT_JSON"),
    (b"{", "NOT_JSON"),
    (b"\xff\xfe\xff", "NOT_JSON"),
    (b"{'results': []}", "NOT_JSON"),
    (b'{"results": [] } trailing', "NOT_JSON"),
    (b'{"results": ' + b"[" * 99_000, "NOT_JSON"),
    (b'{"results": ' + b"[" * 99_000 + b"]" * 99_000 + b"}", "NOT_JSON"),
    (b'{"results": [' + b"[]," * 100_000 + b"[]]}", "BODY_TOO_LARGE"),
    (b'{"results": [' + b'{"a":{}},' * 50_000 + b"{}]}", "BODY_TOO_LARGE"),
    (b"[]", "WRONG_SHAPE"),
    (b"null", "WRONG_SHAPE"),
    (b"NaN", "WRONG_SHAPE"),
    (b'"results"', "WRONG_SHAPE"),
    (b"{}", "WRONG_SHAPE"),
    (b'{"results": null}', "WRONG_SHAPE"),
    (b'{"results": {}}', "WRONG_SHAPE"),
    (b'{"results": "many"}', "WRONG_SHAPE"),
    (b'{"result": []}', "WRONG_SHAPE"),
    (b'{"results": [], "results": []}', "WRONG_SHAPE"),
]


@pytest.mark.parametrize(("body", "kind"), WRONG_BODIES, ids=lambda v: repr(v)[:40])
def test_a_body_that_is_no_listing_has_a_name(body: bytes, kind: str) -> None:
    with pytest.raises(ProviderError) as failed:
        results_of(body)
    assert failed.value.kind == kind


ODD_ENTRIES = {
    "NaN": with_csp_id("NaN"),
    "infinity": with_csp_id("-Infinity"),
    "a float": with_csp_id("2009002.5"),
    "a float beyond all": with_csp_id("1e999"),
    "a giant number": with_csp_id("9" * 41),
    "a number that Python refuses to read": with_csp_id("9" * 5000),
    "null": with_csp_id("null"),
    "a boolean": with_csp_id("true"),
    "a list": with_csp_id("[2009002]"),
    "an object": with_csp_id('{"a": 1}'),
    "nested deeply": with_csp_id("[" * 150 + "]" * 150),
    "an entry twice in itself": GOOD[:-1] + ', "csp_id": 7}',
    "a lone surrogate": json.dumps(an_entry(2, name="\ud800")),
    "a surrogate in the id": json.dumps(an_entry(2, id="identity/accounts/\udfff")),
    "no name": json.dumps({k: v for k, v in an_entry(2).items() if k != "name"}),
    "no id": json.dumps({k: v for k, v in an_entry(2).items() if k != "id"}),
    "no csp_id": json.dumps({k: v for k, v in an_entry(2).items() if k != "csp_id"}),
    "no object": '"sandbox"',
    "nothing": "null",
    "an empty list": "[]",
}


@pytest.mark.parametrize("entry", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
@respx.mock
async def test_one_wrong_entry_costs_itself_alone_wherever_it_stands(door: Door, entry: str) -> None:
    """Also as the last of a page, where the next page is to begin with it."""
    entries = [GOOD, json.dumps(an_entry(3)), entry, json.dumps(an_entry(4)), entry, json.dumps(an_entry(5))]

    def page(request: httpx.Request) -> httpx.Response:
        first, limit = int(request.url.params["_offset"]), int(request.url.params["_limit"])
        return httpx.Response(200, content=a_listing(*entries[first : first + limit]))

    respx.get(LIST).mock(side_effect=page)

    ids, invalid = await listed(door.client)

    assert ids == ["2009001", "2009003", "2009004", "2009005"]
    assert invalid == 2


@respx.mock
async def test_invalid_accounts_are_counted_by_what_is_wrong(door: Door) -> None:
    entries = [an_entry(1, csp_id=None), an_entry(2, name=""), "nonsense"]
    respx.get(LIST).mock(
        side_effect=lambda request: httpx.Response(
            200, json={"results": entries[int(request.url.params["_offset"]) :]}
        )
    )

    await listed(door.client)

    for why in ("BAD_CSP_ID", "BAD_NAME", "NO_OBJECT"):
        assert door.sample("worker_provider_invalid_accounts_total", why=why) == 1


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "text",
        7,
        ODD,
        {},
        an_entry(account_type=None),
        an_entry(state=None),
        an_entry(state=7),
        an_entry(csp_id=None),
        an_entry(csp_id=True),
        an_entry(csp_id=ODD),
        an_entry(csp_id=""),
        an_entry(csp_id="x" * 200),
        an_entry(id=None),
        an_entry(id=5),
        an_entry(id=""),
        an_entry(id=ODD),
        an_entry(id="a\nb"),
        an_entry(id="identity/accounts/"),
        an_entry(id="identity/accounts/.."),
        an_entry(id="identity/accounts/x?all=1"),
        an_entry(id="x" * 300),
        an_entry(name=None),
        an_entry(name=""),
        an_entry(name="   "),
        an_entry(name=5),
        an_entry(name=ODD),
        an_entry(name="bell\x07"),
        an_entry(name="x" * 256),
        an_entry(name="\ud800"),
    ],
    ids=repr,
)
def test_an_entry_that_cannot_be_a_sandbox_is_refused(entry: Any) -> None:
    with pytest.raises(InvalidAccount):
        account_from(entry)


@pytest.mark.parametrize(
    "entry", [an_entry(account_type="standard"), an_entry(state="disabled"), an_entry(state="")]
)
def test_what_is_no_active_sandbox_is_nobodys_business(entry: dict[str, Any]) -> None:
    assert account_from(entry) is None


def test_attributes_of_a_wrong_type_are_left_out() -> None:
    account = account_from(an_entry(created_at=5, sfdc_account_id="x" * 300))

    assert account is not None
    assert account.attributes == {"account_type": "sandbox", "state": "active"}


def test_an_entry_is_flat_so_that_it_can_be_compared_and_kept() -> None:
    nested = '{"id": {"a": 1}, "name": [[1]], "twice": {"a": 1, "a": 2}, "plain": "x"}'

    assert results_of(a_listing(nested, "[[1]]", "7")) == [
        {"id": ODD, "name": ODD, "twice": ODD, "plain": "x"},
        ODD,
        7,
    ]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
sandboxes = st.builds(an_entry, st.integers(1, 9)).flatmap(
    lambda entry: st.builds(lambda name, value: entry | {name: value}, st.sampled_from(sorted(entry)), anything)
)


@given(st.lists(anything | sandboxes, max_size=10))
def test_whatever_the_entries_are_each_is_an_account_nobodys_or_refused(entries: list[Any]) -> None:
    body = json.dumps({"results": entries}).encode()

    once, again = results_of(body), results_of(body)

    assert once == again, "the overlap of two pages would not be recognised"
    assert len(once) == len(entries)
    reasons = set()
    for entry in once:
        try:
            account_from(entry)
        except InvalidAccount as error:
            reasons.add(error.why)
    assert reasons <= {"NO_OBJECT", "BAD_KIND", "BAD_CSP_ID", "BAD_ID", "BAD_NAME"}


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_whatever_the_bytes_are_they_are_a_listing_or_an_error_with_a_name(body: bytes) -> None:
    kind = None
    try:
        results_of(body)
    except ProviderError as error:
        kind = error.kind
    assert kind in (None, "NOT_JSON", "WRONG_SHAPE")


@pytest.mark.parametrize(("size", "kind"), [(64 * 1024, None), (64 * 1024 + 1, "BODY_TOO_LARGE")])
@respx.mock
async def test_the_bound_of_a_body_has_two_sides(door: Door, size: int, kind: str | None) -> None:
    respx.route(method="DELETE").respond(200, content=b" " * size)

    if kind is None:
        await door.client.delete(door.permit())
    else:
        with pytest.raises(ProviderError, match=kind):
            await door.client.delete(door.permit())
