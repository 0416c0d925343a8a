"""`keys`: who may come in, from a shell; the token can be piped, and is in nothing else."""

import pytest

from broker.key import Token
from broker.role import Role
from tests.api.keys import a_tenant, made_key
from tests.api.service import Api, an_api
from tests.cli.conftest import served
from tests.cli.shell import Shell

WHY = ("--reason", "INC-4712: it leaked")


async def test_a_new_token_stands_alone_on_standard_output_and_is_good(shell: Shell, api: Api) -> None:
    await a_tenant(api, "north")
    ours, theirs, body = await shell.run_each(
        ["keys", "create", "the admins", "--role", "admin", "--expires-in-days", "2"],
        ["keys", "create", "tracks", "--role", "track", "--tenant", "north"],
        ["keys", "create", "grafana", "--role", "viewer", "--json"],
    )

    tokens = [done.out.strip() for done in (ours, theirs)] + [body.json["token"]]
    for done, token in zip((ours, theirs, body), tokens, strict=True):
        assert done.code == 0, done.err
        assert Token.parse(token.encode()) is not None
        assert token not in done.err
        assert token.split("_")[1] in done.err
    assert "admin of acme, ends " in ours.err
    assert "track of north, never ends." in theirs.err
    listed = await shell.run("keys", "list", BROKER_ADMIN_TOKEN=tokens[0])
    assert listed.code == 0, listed.err
    assert {row[1] for row in listed.rows[1:]} == {"admin", "viewer"}
    assert not any(token[-43:] in listed.out for token in tokens)


async def test_a_key_is_shown_rotated_and_revoked(shell: Shell, api: Api) -> None:
    key = (await made_key(api)).key
    rotated = await shell.run("keys", "rotate", key.id, "--overlap", "600")
    revoked = await shell.run("keys", "revoke", key.id, *WHY)
    shown, again, listed, body = await shell.run_each(
        ["keys", "show", key.id], ["keys", "rotate", key.id], ["keys", "list"], ["keys", "show", key.id, "--json"]
    )

    successor = Token.parse(rotated.out.strip().encode())
    assert successor is not None
    assert f"{key.id} is good for 600 s more" in rotated.err
    assert (revoked.code, revoked.out) == (0, f"{key.id} (a test's) of acme revoked, everywhere within 10 s\n")
    for words in (key.id, "track", "revoked", "INC-4712: it leaked", successor.id, "bootstrap-admin"):
        assert words in shown.out
    assert (again.code, again.out) == (1, "")
    assert f"{successor.id} has replaced it" in again.err
    assert {row[0]: row[2] for row in listed.rows[1:]} == {key.id: "revoked", successor.id: "live"}
    assert (body.json["state"], body.json["replaced_by"]) == ("revoked", successor.id)


async def test_what_goes_wrong_is_a_sentence(shell: Shell) -> None:
    unknown, nowhere, reason, role = await shell.run_each(
        ["keys", "show", "aaaabbbbcccc"],
        ["keys", "list", "--tenant", "nowhere"],
        ["keys", "revoke", "aaaabbbbcccc"],
        ["keys", "create", "x", "--role", "root"],
    )
    assert (unknown.code, "KEY_NOT_FOUND" in unknown.err) == (1, True)
    assert (nowhere.code, "TENANT_NOT_FOUND" in nowhere.err) == (1, True)
    assert (reason.code, "--reason" in reason.err) == (2, True)
    assert (role.code, "'--role': 'root' is not one of" in role.err) == (2, True)
    assert "sandbox-broker keys list" in unknown.err


async def test_where_keys_are_off_it_says_what_to_set(ministack: str, table_name: str) -> None:
    async with an_api(ministack, table_name, API_KEY_PEPPER="") as api, served(api.app) as url:
        done = await Shell(url).run("keys", "list")
    assert done.code == 1
    assert "Set API_KEY_PEPPER" in done.err


@pytest.mark.parametrize("command", ["list", "create", "show", "rotate", "revoke"])
async def test_each_has_examples(shell: Shell, command: str) -> None:
    done = await shell.run("keys", command, "--help")
    assert f"sandbox-broker keys {command}" in done.out


async def test_the_last_admin_key_of_a_tenant_is_not_ended_without_a_yes(shell: Shell, api: Api) -> None:
    await a_tenant(api, "north")
    key = (await made_key(api, "north", Role.ADMIN)).key.id
    named = ("--tenant", "north")

    for command in (["revoke", key, *WHY], ["rotate", key]):
        refused = await shell.run("keys", *command, *named)
        assert (refused.code, refused.out) == (2, "")
        assert f"{key} is the last admin key of north." in refused.err
        assert "--yes" in refused.err
    async with shell.on_a_terminal("keys", "revoke", key, *WHY, *named) as terminal:
        await terminal.until(r"Do it\?")
        terminal.type("n\n")
        assert await terminal.end() == 1
    assert (await api.admin(f"/keys/{key}", tenant="north")).json()["state"] == "live"

    rotated = await shell.run("keys", "rotate", key, *named, "--yes")
    new = rotated.out.split("_")[1]
    revoked = await shell.run("keys", "revoke", new, *WHY, *named, "--yes")
    assert "Warning: tenant north has no other admin key" in rotated.err
    assert "Warning: tenant north has no admin key now" in revoked.err


async def test_whose_a_leaked_key_is_what_it_did_and_its_end_need_no_more_than_its_id(
    shell: Shell, api: Api
) -> None:
    await a_tenant(api, "north")
    leaked = await made_key(api, "north", Role.ADMIN)
    await made_key(api, "north", Role.ADMIN)
    key = leaked.key
    await shell.run("keys", "create", "a back door", "--role", "admin", BROKER_ADMIN_TOKEN=leaked.token)

    nothing, shown = await shell.run_each(["events", "--actor", key.credential], ["keys", "show", key.id])
    revoked = await shell.run("keys", "revoke", key.id, *WHY)
    did = await shell.run(*revoked.err.partition("What it did: sandbox-broker ")[2].split())

    assert f"keys show {key.id}" in nothing.err
    assert "--tenant NAME" in nothing.err
    assert ["tenant", "north"] in [row[:2] for row in shown.rows]
    assert revoked.out == f"{key.id} (a test's) of north revoked, everywhere within 10 s\n"
    assert "a back door" in did.out
