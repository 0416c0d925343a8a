"""B3 from end to end: a second team, with a provider of its own, beside a broker that runs."""

from broker.sandbox import State
from broker.tenant import Provider, Tenant
from tests.allocation.students import allocate, release
from tests.builders import TEST_CAUSE
from tests.conftest import a_broker
from tests.e2e.conftest import a_run
from tests.worker.conftest import TOKEN, a_provider, until


async def test_a_team_that_is_added_while_everything_runs_gets_its_pool_and_its_deletions(
    ministack: str, table_name: str
) -> None:
    async with (
        a_provider(seed=2) as theirs,
        a_run(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name, CSP_API_TOKEN_TEAM=TOKEN) as run,
        a_broker(ministack, table_name) as core,
    ):
        before = await run.stats()
        provider = Provider(base_url=theirs.url, secret="env:CSP_API_TOKEN_TEAM")
        await core.tenants.create(Tenant(name="team", provider=provider), TEST_CAUSE, now=1)

        async def filled() -> bool:
            return await core.sandboxes.count("team", State.AVAILABLE) == 10

        await until(filled, within_s=60)
        held = await allocate(core, "student-1", tenant="team")
        await release(core, held.sandbox_id, "student-1", tenant="team")

        async def deleted() -> bool:
            return bool(await theirs.deletions())

        await until(deleted, within_s=60)
        after = await run.stats()
        others = [account for account in await run.provider_accounts() if account["delete_requests"]]

    assert (before["available"], after["available"]) == (200, 200)
    assert others == []
