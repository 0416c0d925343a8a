"""`tenants` and `pools`: a team is added in one command, limited and drained in another."""

from collections.abc import Callable

import pytest

from tests.api.service import Api
from tests.cli.shell import Done, Shell

WHY = ("--reason", "CHG-812")


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

    assert drained.out == (
        "lab-7- drained, everywhere within about 2 s. Back: sandbox-broker pools open lab-7- --reason '...'\n"
    )
    assert [row[0] for row in listed.rows] == ["DRAINED", "(all)", "lab-7-"]
    assert opened.out == "all open, everywhere within about 2 s. Still drained: lab-7-.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "../x", *WHY], "a-z 0-9 -"),
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


async def test_what_the_api_refuses_is_told_as_it_said_it(shell: Shell) -> None:
    await shell.run("tenants", "create", "north", *WHY)
    again, unknown = await shell.run_each(
        ["tenants", "create", "north", *WHY], ["tenants", "set", "south", "--max-live", "1", *WHY]
    )

    assert (again.code, unknown.code) == (1, 1)
    assert "TENANT_EXISTS" in again.err
    assert "TENANT_NOT_FOUND" in unknown.err
