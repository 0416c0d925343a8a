"""D1 to D4 on the real app; the bounded memory of D5 is in tests/unit/test_limits.py."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.api.service import API_TOKEN, TRACK, a_client, an_api, asked_of, error_of, refusal

OPEN = "1000000/second"
LIMIT_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def limits(*, student: str = OPEN, credential: str = OPEN, address: str = OPEN) -> dict[str, str]:
    return {
        "RATE_LIMIT_PER_STUDENT": student,
        "RATE_LIMIT_PER_CREDENTIAL": credential,
        "RATE_LIMIT_PER_ADDRESS": address,
    }


async def look(http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.get("/v1/sandboxes/none", headers=TRACK | named)


async def test_a_student_over_the_limit_is_429_with_when_to_come_back(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(student="3/hour")) as api:
        answers = [await look(api.http, X_Instruqt_Sandbox_ID="s-1") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 429, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
    assert all(0 < int(answer.headers["X-RateLimit-Reset"]) <= 3601 for answer in answers)
    refused = answers[-1]
    assert refusal(refused) == (429, "RATE_LIMITED")
    assert error_of(refused)["details"]["scope"] == "student"
    assert refused.headers["Retry-After"] == refused.headers["X-RateLimit-Reset"]
    assert error_of(refused)["retry_after"] == int(refused.headers["Retry-After"])


async def test_the_window_ends_and_the_student_is_let_in_again(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(student="1/second")) as api:
        first, second = [await look(api.http, X_Track_ID="s-1") for _ in range(2)]
        assert [first.status_code, second.status_code] == [404, 429]
        await asyncio.sleep(int(second.headers["Retry-After"]))
        assert (await look(api.http, X_Track_ID="s-1")).status_code == 404


async def test_two_students_behind_one_address_do_not_share_a_bucket(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(student="1/hour")) as api:
        assert (await look(api.http, X_Instruqt_Sandbox_ID="s-1")).status_code == 404
        assert (await look(api.http, X_Instruqt_Sandbox_ID="s-2")).status_code == 404
        assert (await look(api.http, X_Instruqt_Sandbox_ID="s-1")).status_code == 429


async def test_one_student_at_two_addresses_shares_one(ministack: str, table_name: str) -> None:
    async with (
        an_api(ministack, table_name, **limits(student="1/hour")) as api,
        a_client(api.app, "203.0.113.1") as here,
        a_client(api.app, "203.0.113.2") as there,
    ):
        assert (await look(here, X_Instruqt_Sandbox_ID="s-1")).status_code == 404
        assert (await look(there, X_Instruqt_Sandbox_ID="s-1")).status_code == 429


async def test_the_new_header_keys_the_limit_when_both_are_sent(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(student="1/hour")) as api:
        both = {"X_Instruqt_Sandbox_ID": "s-1", "X_Track_ID": "t-1"}
        assert (await look(api.http, **both)).status_code == 404
        assert (await look(api.http, X_Track_ID="t-1")).status_code == 404, "t-1 has its own bucket"
        assert (await look(api.http, **(both | {"X_Track_ID": "t-2"}))).status_code == 429


async def test_a_caller_who_names_no_student_is_keyed_by_address(ministack: str, table_name: str) -> None:
    async with (
        an_api(ministack, table_name, **limits(student="1/hour")) as api,
        a_client(api.app, "203.0.113.1") as here,
        a_client(api.app, "203.0.113.2") as there,
    ):
        answers = [await client.get("/v1/sandboxes/none", headers=TRACK) for client in (here, here, there)]
        assert [answer.status_code for answer in answers] == [400, 429, 400]


async def test_a_student_may_be_called_like_an_address_without_sharing_its_bucket(
    ministack: str, table_name: str
) -> None:
    async with (
        an_api(ministack, table_name, **limits(student="1/hour")) as api,
        a_client(api.app, "203.0.113.1") as http,
    ):
        assert (await http.get("/v1/sandboxes/none", headers=TRACK)).status_code == 400
        for name in ("203.0.113.1", "address:203.0.113.1"):
            assert (await look(http, X_Track_ID=name)).status_code == 404


async def test_an_ipv6_caller_is_counted_by_its_64_bit_network(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(address="1/hour")) as api:
        seen = []
        for address in ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", "2001:db8:1:2::1"):
            async with a_client(api.app, address) as http:
                seen.append((await http.get("/v1/meta")).status_code)
    assert seen == [200, 429, 200]


async def test_a_ceiling_per_credential_holds_whatever_the_headers_say(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(student="5/hour", credential="20/hour")) as api:
        answers = [await look(api.http, X_Instruqt_Sandbox_ID=f"rotating-{n}") for n in range(30)]
        admin = await api.admin("/stats")

    assert Counter(answer.status_code for answer in answers) == {404: 20, 429: 10}
    assert {error_of(answer)["details"]["scope"] for answer in answers[20:]} == {"credential"}
    assert admin.status_code == 200, "another credential has its own ceiling"


async def test_an_unauthenticated_caller_is_keyed_by_address_whatever_the_headers_say(
    ministack: str, table_name: str
) -> None:
    async with (
        an_api(ministack, table_name, **limits(address="3/hour")) as api,
        a_client(api.app, "203.0.113.1") as one,
        a_client(api.app, "203.0.113.2") as other,
    ):
        answers = [
            await one.post(
                "/v1/allocate",
                headers={
                    "X-Instruqt-Sandbox-ID": f"rotating-{n}",
                    "X-Track-ID": f"rotating-{n}",
                    "X-Forwarded-For": f"198.51.100.{n}",
                    "Forwarded": f"for=198.51.100.{n}",
                    "X-Real-IP": f"198.51.100.{n}",
                    "Authorization": f"Bearer guess-{n}",
                },
            )
            for n in range(6)
        ]
        elsewhere = await other.post("/v1/allocate")
        known = await one.post("/v1/allocate", headers=TRACK)

    assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 3
    assert error_of(answers[-1])["details"]["scope"] == "address"
    assert elsewhere.status_code == 401
    assert known.status_code == 400, "whoever has a token does not pay for strangers at the same address"


async def test_guessing_tokens_and_paths_is_limited_too(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(address="3/hour")) as api:
        answers = [await api.http.get(f"/nowhere/{n}") for n in range(4)]
    assert [answer.status_code for answer in answers] == [404] * 3 + [429]


async def test_two_hundred_students_in_the_same_second_all_pass_the_default_limits(
    ministack: str, table_name: str
) -> None:
    defaults = limits(student="60/minute", credential="5000/10 seconds", address="60/minute")
    async with an_api(ministack, table_name, **defaults) as api:
        shipped = type(api.app.state.settings).model_fields
        for name, value in (("limit_per_student", "60/minute"), ("limit_per_credential", "5000/10 seconds")):
            assert shipped[name].default == value, "the test speaks of the defaults"
        await api.fill(200)
        answers = await asyncio.gather(*(api.allocate(f"student-{n}") for n in range(200)))

    assert Counter(answer.status_code for answer in answers) == {201: 200}
    assert len({answer.json()["sandbox_id"] for answer in answers}) == 200


async def test_sustained_excess_of_one_credential_is_429_with_every_header(
    ministack: str, table_name: str
) -> None:
    async with an_api(ministack, table_name, **limits(credential="50/10 seconds")) as api:
        await api.fill(1)
        answers = await asyncio.gather(*(api.allocate(f"student-{n % 3}") for n in range(120)))
        counted = await api.metrics()

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 70
    for answer in refused:
        assert refusal(answer) == (429, "RATE_LIMITED")
        assert 1 <= int(answer.headers["Retry-After"]) <= 11
        assert all(name in answer.headers for name in LIMIT_HEADERS)
    assert counted['broker_rate_limited_total{scope="credential"}'] == 70


async def test_a_refused_request_reaches_no_route_and_no_store(proxied_limits: Any) -> None:
    api, proxy = proxied_limits
    await api.fill(1)
    await api.allocate("s-1")
    proxy.counts.reset()

    assert (await api.allocate("s-1")).status_code == 429

    assert asked_of(proxy) == Counter()


@pytest.fixture
async def proxied_limits(proxy: Any, table_name: str) -> Any:
    async with an_api(proxy.url, table_name, **limits(student="1/hour")) as api:
        yield api, proxy


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_and_scrapes_are_never_limited(ministack: str, table_name: str, path: str) -> None:
    tight = limits(student="1/hour", credential="1/hour", address="1/hour")
    async with an_api(ministack, table_name, **tight) as api:
        answers = [await api.http.get(path) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert not any(name in answer.headers for answer in answers for name in LIMIT_HEADERS)
        assert (await api.http.get("/v1/meta")).status_code == 200, "the probes used nothing up"
        assert (await api.http.get("/v1/meta")).status_code == 429


async def test_a_path_that_only_resembles_a_probe_is_limited(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(address="1/hour")) as api:
        answers = [await api.http.get(path) for path in ("/healthz/", "/healthz/x", "/metrics/")]
    assert [answer.status_code for answer in answers] == [404, 429, 429]


async def test_no_header_of_a_limited_answer_shows_the_token(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, **limits(credential="1/hour")) as api:
        answers = [await look(api.http, X_Track_ID="s") for _ in range(2)]
    assert API_TOKEN not in answers[1].text + repr(answers[1].headers)
