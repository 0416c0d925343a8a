"""`tenants` and `pools`: a team is added in one command, limited and drained in another."""

import time
from collections.abc import Callable

import pytest

from app.spelling import IN_WORDS, NEW_TENANT_PATTERN
from broker.role import Role
from tests.api.keys import a_tenant, made_key
from tests.api.service import Api
from tests.api.test_jobs import put_jobs
from tests.builders import TEST_CAUSE, a_running_job, a_sandbox
from tests.cli.shell import Done, Shell

WHY = ("--reason", "CHG-812")
ID, JOB = a_sandbox().id, a_running_job().id


async def test_a_tenant_is_added_shown_and_listed(shell: Shell, api: Api) -> None:
    made = await shell.run(
        "tenants", "create", "north", "--prefix", "north-", "--prefix", "n2-", "--max-live", "200",
        "--lease", "90m", "--requests", "500/10 seconds", "--provider-url", "https://csp.example.org",
        "--provider-secret", "north/csp", *WHY,
    )  # fmt: skip
    shown, listed = await shell.run_each(["tenants", "show", "north"], ["tenants", "list"])

    assert (made.code, shown.code, listed.code) == (0, 0, 0), made.err
    assert made.out.splitlines()[0] == shown.out.splitlines()[0] == "tenant          north"
    for fact in ("north", "active", "200", "1h30m", "500/10 seconds", "https://csp.example.org", "north/csp"):
        assert fact in shown.out
    assert "keys create setup-scripts --role track --tenant north" in made.err
    assert [row[:2] for row in listed.rows] == [["TENANT", "STATE"], ["acme", "active"], ["north", "active"]]
    assert "north-* or n2-*" in listed.out


async def test_what_is_not_named_stays_and_default_sets_it_back(shell: Shell, api: Api) -> None:
    await shell.run("tenants", "create", "north", "--max-live", "200", "--lease", "4h", "--prefix", "n-", *WHY)
    changed = await shell.run("tenants", "set", "north", "--max-live", "default", "--prefix", "default", *WHY)

    tenant = (await api.admin("/tenants/north")).json()
    assert changed.code == 0, changed.err
    assert (tenant["max_live"], tenant["lease_s"], tenant["prefixes"]) == (None, 4 * 3600, [])


async def test_a_pool_is_drained_listed_and_opened(shell: Shell, api: Api) -> None:
    drained = await shell.run("pools", "drain", "lab-7-", *WHY)
    await shell.run("pools", "drain", "", *WHY)
    listed = await shell.run("pools", "list")
    opened = await shell.run("pools", "open", "", *WHY)

    assert drained.err == "sandbox-broker: Warning: " + (
        "prefix lab-7-: no sandbox begins with it now; it holds for those to come\n"
    )
    assert drained.out == (
        "lab-7- drained, everywhere within about 2 s. Back: sandbox-broker pools open lab-7- --reason '...'\n"
    )
    assert [row[0] for row in listed.rows] == ["DRAINED", "(all)", "lab-7-"]
    assert opened.out == "all open, everywhere within about 2 s. Still drained: lab-7-.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "../x", *WHY], "a-z 0-9 -, a letter or digit first"),
        (["create", "North", *WHY], "a-z 0-9 -, a letter or digit first"),
        (["show", "../x"], "a tenant's name has"),
        (["create", "north", "--lease", "soon", *WHY], "90m, 4h or 2d"),
        (["create", "north", "--max-live", "-1", *WHY], "whole number"),
        (["create", "north", "--provider-url", "https://x", *WHY], "go together"),
        (["set", "north", *WHY], "say what is to be changed"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:4]),
)
def test_what_is_asked_for_wrongly_is_said_before_the_api_is_called(
    misused: Callable[..., Done], arguments: list[str], says: str
) -> None:
    done = misused("tenants", *arguments)

    assert done.code == 2
    assert says in " ".join(done.err.split())


def test_a_new_tenant_s_name_is_refused_in_the_words_of_the_api(misused: Callable[..., Done]) -> None:
    done = misused("tenants", "create", "North", *WHY)

    assert IN_WORDS[NEW_TENANT_PATTERN] in " ".join(done.err.split())


@pytest.mark.parametrize("command", [["status"], ["list"], ["keys", "list"]], ids=" ".join)
def test_what_can_be_no_tenant_s_name_is_told_once_and_not_asked_for(
    misused: Callable[..., Done], command: list[str]
) -> None:
    done = misused(*command, "--tenant", "../x")

    assert done.code == 2
    assert " ".join(done.err.split()).count("a tenant's name has 1 to 64 of the characters") == 1


@pytest.mark.parametrize(
    "command", [["sync"], ["quarantine", ID, *WHY], ["pools", "drain", "", *WHY]], ids=" ".join
)
def test_what_acts_on_the_token_s_own_tenant_alone_says_so(
    misused: Callable[..., Done], command: list[str]
) -> None:
    done = misused(*command, "--tenant", "north")

    assert (done.code, done.out) == (2, "")
    assert "take a key of that tenant" in " ".join(done.err.split())


async def test_what_the_api_refuses_of_an_option_is_told_by_the_option(shell: Shell) -> None:
    secret, prefix, requests = await shell.run_each(
        ["tenants", "create", "north", "--provider-url", "https://x", "--provider-secret", "a b", *WHY],
        ["tenants", "create", "north", "--prefix", "lab 7", *WHY],
        ["tenants", "create", "north", "--requests", "many", *WHY],
    )

    for done, option in ((secret, "--provider-secret"), (prefix, "--prefix"), (requests, "--requests")):
        assert done.code == 1
        assert done.err.startswith(f"sandbox-broker: {option}: expected: ")
        assert "body." not in done.err


async def test_what_the_api_refuses_is_told_as_it_said_it(shell: Shell) -> None:
    await shell.run("tenants", "create", "north", *WHY)
    again, unknown = await shell.run_each(
        ["tenants", "create", "north", *WHY], ["tenants", "set", "south", "--max-live", "1", *WHY]
    )

    assert (again.code, unknown.code) == (1, 1)
    assert "TENANT_EXISTS" in again.err
    assert "Operators of the default tenant see which there are" in unknown.err
    assert "TENANT_NOT_FOUND" in unknown.err


async def test_a_tenant_is_drained_and_resumed_by_the_platform_and_the_list_shows_it(
    shell: Shell, api: Api
) -> None:
    await shell.run("tenants", "create", "north", *WHY)
    drained = await shell.run("tenants", "drain", "north", "--reason", "INC-4711")
    listed, shown, pools, status = await shell.run_each(
        ["tenants", "list"], ["tenants", "show", "north"], ["pools", "list", "--tenant", "north"],
        ["status", "--tenant", "north"],
    )  # fmt: skip
    resumed = await shell.run("tenants", "resume", "north", *WHY)

    assert drained.out.startswith(
        "north drained, everywhere within about 2 s. Back: sandbox-broker tenants resume"
    )
    assert ["north", "drained"] in [row[:2] for row in listed.rows]
    for told in (shown.out, pools.out, status.out):
        assert "bootstrap-admin (platform)" in told
        assert "INC-4711" in told
    assert resumed.out == "north hands out again, everywhere within about 2 s.\n"


async def test_what_to_look_at_next_and_what_may_not_be_meant_is_said(shell: Shell, api: Api) -> None:
    await shell.run("tenants", "create", "north", "--prefix", "n-", *WHY)
    made, changed, limited = [
        await shell.run(*command, *WHY)
        for command in (
            ["tenants", "create", "south", "--prefix", "n-a-"],
            ["tenants", "set", "south", "--prefix", "n-"],
            ["tenants", "set", "south", "--max-live", "3"],
        )
    ]

    assert "Warning: prefix n-a-: within n- of tenant north" in made.err
    assert "Warning: prefix n-: tenant north has the same" in changed.err
    for done in (made, changed):
        assert "sandbox-broker status --tenant south" in done.err
    assert (limited.code, limited.err) == (0, "")


LOOKING = [
    ["status"], ["list"], ["show", ID], ["events"], ["history", ID], ["jobs", "list"], ["jobs", "show", JOB],
    ["dead-letters"], ["reconcile"], ["pools", "list"], ["keys", "list"],
]  # fmt: skip


async def test_every_command_that_shows_something_shows_another_tenants_to_the_platform_alone(
    shell: Shell, api: Api
) -> None:
    await a_tenant(api, "north")
    await api.core.sandboxes.add(a_sandbox(tenant="north"), TEST_CAUSE, now=time.time())
    await put_jobs(api, a_running_job(tenant="north"))
    theirs = (await made_key(api, "north", Role.ADMIN)).token
    seen = await shell.run_each(*([*command, "--tenant", "north"] for command in LOOKING))
    nobodys = await shell.run_each(*([*command, "--tenant", "nobody"] for command in LOOKING[:2]))
    refused = await shell.run_each(
        *([*command, "--tenant", "acme"] for command in LOOKING[:2]), BROKER_ADMIN_TOKEN=theirs
    )

    for command, done in zip(LOOKING, seen, strict=True):
        assert done.code == (1 if command == ["status"] else 0), done.err  # no worker leads here
    for done in nobodys:
        assert (done.code, "TENANT_NOT_FOUND" in done.err, done.out) == (1, True, "")
    for done in refused:
        assert (done.code, "PLATFORM_ONLY" in done.err, done.out) == (1, True, "")
    assert ID in seen[1].out
    assert "tenant" in seen[0].out
    assert "north" in seen[0].out
