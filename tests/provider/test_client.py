"""The provider's answers, right and wrong in every way: an error with a name, counted; the rest goes on."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from broker.metrics import Metrics
from worker.provider import client as client_module
from worker.provider.accounts import InvalidAccount, account_from
from worker.provider.client import ListingShifted, ProviderClient, ProviderError

BASE = "https://provider.test"
LIST = f"{BASE}/current_user/accounts"
UUID = "7f9c24e5-2f36-4b1c-9d6e-0a1b2c3d4e5f"


def an_entry(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"identity/accounts/{number:08d}-0000-4000-8000-000000000000",
        "csp_id": 2_009_000 + number,
        "name": f"lab-adventure-{number:04d}",
        "account_type": "sandbox",
        "state": "active",
        "created_at": "2025-03-27T16:53:47.605459Z",
        "sfdc_account_id": "0011x",
        **changes,
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProviderClient]:
    monkeypatch.setattr(client_module, "READ_PAUSE_S", 0.001)
    async with httpx.AsyncClient(base_url=BASE) as http:
        yield ProviderClient(
            http, token=SecretStr("t0ken"), page_size=3, read_timeout_s=0.2, delete_timeout_s=0.2, metrics=metrics
        )


async def listed(client: ProviderClient) -> tuple[list[str], int]:
    """Ids of the usable accounts, and how many entries were invalid."""
    ids: list[str] = []
    invalid = 0
    async for page in client.pages():
        ids += [account.id for account in page.accounts]
        invalid += page.invalid
    return ids, invalid


def paged(entries: list[Any]) -> Any:
    def answer(request: httpx.Request) -> httpx.Response:
        first, limit = int(request.url.params["_offset"]), int(request.url.params["_limit"])
        return httpx.Response(200, json={"results": entries[first : first + limit]})

    return answer


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 7, 20])
@respx.mock
async def test_every_account_is_listed_once_whatever_their_number(client: ProviderClient, count: int) -> None:
    respx.get(LIST).mock(side_effect=paged([an_entry(n) for n in range(count)]))

    ids, invalid = await listed(client)

    assert ids == [str(2_009_000 + n) for n in range(count)]
    assert invalid == 0


@respx.mock
async def test_the_token_goes_along_as_the_provider_wants_it(client: ProviderClient) -> None:
    route = respx.get(LIST).mock(side_effect=paged([]))

    await listed(client)

    assert route.calls.last.request.headers["authorization"] == "Token t0ken"


@respx.mock
async def test_a_deletion_between_two_pages_is_a_shifted_listing(client: ProviderClient) -> None:
    entries = [an_entry(n) for n in range(8)]

    def shrinking(request: httpx.Request) -> httpx.Response:
        answer: httpx.Response = paged(list(entries))(request)
        if len(entries) == 8:
            del entries[0]
        return answer

    respx.get(LIST).mock(side_effect=shrinking)

    with pytest.raises(ListingShifted):
        await listed(client)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "text",
        7,
        [],
        {},
        an_entry(csp_id=None),
        an_entry(csp_id=True),
        an_entry(csp_id=[1]),
        an_entry(csp_id=""),
        an_entry(csp_id="x" * 200),
        an_entry(id=None),
        an_entry(id=5),
        an_entry(id=""),
        an_entry(id="a\nb"),
        an_entry(id="identity/accounts/"),
        an_entry(id="identity/accounts/.."),
        an_entry(id="identity/accounts/x?all=1"),
        an_entry(id="x" * 300),
        an_entry(name=None),
        an_entry(name=""),
        an_entry(name="   "),
        an_entry(name=5),
        an_entry(name={"a": 1}),
        an_entry(name="bell\x07"),
        an_entry(name="x" * 256),
        an_entry(name="\ud800"),
    ],
    ids=repr,
)
def test_an_entry_that_cannot_be_a_sandbox_is_refused_or_passed_over(entry: Any) -> None:
    if entry == {}:
        assert account_from(entry) is None
        return
    with pytest.raises(InvalidAccount):
        account_from(entry)


@respx.mock
async def test_one_wrong_entry_costs_itself_alone(client: ProviderClient) -> None:
    entries = [an_entry(1), an_entry(2, name=""), an_entry(3), "nonsense", an_entry(5)]
    respx.get(LIST).mock(side_effect=paged(entries))

    ids, invalid = await listed(client)

    assert ids == ["2009001", "2009003", "2009005"]
    assert invalid == 2


@pytest.mark.parametrize(
    "entry", [an_entry(account_type="standard"), an_entry(state="disabled"), an_entry(state=None)]
)
def test_what_is_no_active_sandbox_is_nobodys_business(entry: dict[str, Any]) -> None:
    assert account_from(entry) is None


def test_attributes_of_a_wrong_type_are_left_out() -> None:
    account = account_from(an_entry(created_at=5, sfdc_account_id="x" * 300))

    assert account is not None
    assert account.attributes == {"account_type": "sandbox", "state": "active"}


WRONG_LISTINGS = [
    (httpx.Response(500), "HTTP_500"),
    (httpx.Response(401, json={}), "HTTP_401"),
    (httpx.Response(302, headers={"location": "https://elsewhere.test"}), "HTTP_302"),
    (httpx.Response(200, html="<html>busy</html>"), "HTML_ANSWER"),
    (httpx.Response(200, content=b"{"), "NOT_JSON"),
    (httpx.Response(200, content=b"\xff\xfe\xff"), "NOT_JSON"),
    (httpx.Response(200, json=[]), "WRONG_SHAPE"),
    (httpx.Response(200, json={"results": {}}), "WRONG_SHAPE"),
    (httpx.Response(200, json={"result": []}), "WRONG_SHAPE"),
    (httpx.ConnectError("refused"), "UNREACHABLE"),
    (httpx.RemoteProtocolError("cut off"), "UNREACHABLE"),
    (httpx.ReadTimeout("slow"), "TIMEOUT"),
]


@pytest.mark.parametrize(("answer", "kind"), WRONG_LISTINGS, ids=[kind for _, kind in WRONG_LISTINGS])
@respx.mock
async def test_a_wrong_listing_is_an_error_with_a_name_after_three_tries(
    client: ProviderClient, metrics: Metrics, answer: Any, kind: str
) -> None:
    route = respx.get(LIST).mock(side_effect=[answer] * 9)

    with pytest.raises(ProviderError) as failed:
        await listed(client)

    assert failed.value.kind == kind
    assert route.call_count == 3
    counted = metrics.registry.get_sample_value("worker_provider_errors_total", {"call": "list", "kind": kind})
    assert counted == 3


@respx.mock
async def test_a_listing_that_fails_once_is_read_again(client: ProviderClient) -> None:
    respx.get(LIST).mock(side_effect=[httpx.Response(500), *[paged([an_entry(1)])(a_request()) for _ in range(2)]])

    assert await listed(client) == (["2009001"], 0)


def a_request() -> httpx.Request:
    return httpx.Request("GET", LIST, params={"_offset": 0, "_limit": 3})


@pytest.mark.parametrize("status", [200, 202, 204, 404])
@respx.mock
async def test_a_deletion_is_done_when_the_account_is_gone(client: ProviderClient, status: int) -> None:
    route = respx.delete(f"{BASE}/sandbox/accounts/{UUID}").respond(status)

    await client.delete(f"identity/accounts/{UUID}")

    assert route.call_count == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(500), "HTTP_500"),
        (httpx.Response(429), "HTTP_429"),
        (httpx.Response(403), "HTTP_403"),
        (httpx.Response(301, headers={"location": "/x"}), "HTTP_301"),
        (httpx.Response(200, html="<html>please wait</html>"), "HTML_ANSWER"),
        (httpx.ConnectError("refused"), "UNREACHABLE"),
        (httpx.ReadTimeout("slow"), "TIMEOUT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@respx.mock
async def test_a_deletion_that_is_not_known_to_be_done_is_one_failed_try(
    client: ProviderClient, answer: Any, kind: str
) -> None:
    route = respx.delete(f"{BASE}/sandbox/accounts/{UUID}").mock(side_effect=[answer])

    with pytest.raises(ProviderError) as failed:
        await client.delete(f"identity/accounts/{UUID}")

    assert failed.value.kind == kind
    assert route.call_count == 1


@respx.mock
async def test_an_external_id_cannot_reach_another_path(client: ProviderClient) -> None:
    """Whatever the listing said, a deletion names one account under /sandbox/accounts/."""
    route = respx.route(method="DELETE").respond(404)

    await client.delete("identity/accounts/..%2f..?all=1#x")

    assert route.calls.last.request.url.raw_path == b"/sandbox/accounts/..%252f..%3Fall%3D1%23x"
