"""`config`: what is set, and where."""

import json

from tests.api.service import ADMIN_TOKEN, API_TOKEN, PEPPER, Api
from tests.cli.shell import Shell


async def test_every_setting_is_shown_with_its_source_and_no_secret(shell: Shell, api: Api) -> None:
    done = await shell.run("config")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()}
    assert done.code == 0
    assert rows.pop("SETTING") == ["VALUE", "FROM"]
    assert rows["LAB_DURATION_HOURS"] == ["4.0", "default"]
    assert rows["BROKER_TENANT"] == ["acme", "environment"]
    assert rows["DOCS_ENABLED"] == ["true", "default"]
    assert rows["CORS_ALLOWED_ORIGINS"] == ["default"]
    assert set(rows) == set(api.app.state.settings.effective())
    for secret in (API_TOKEN, ADMIN_TOKEN, PEPPER):
        assert secret not in done.out


async def test_only_what_was_changed_is_shown_where_that_is_asked_for(shell: Shell) -> None:
    done = await shell.run("config", "--changed", "--json")
    said = json.loads(done.out)
    assert said["configuration"]["BROKER_TENANT"] == "acme"
    assert set(said["sources"].values()) == {"environment"}
    assert set(said["sources"]) == set(said["configuration"])
