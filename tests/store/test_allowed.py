"""H5: the guard in front of AWS. Every test's processes stand behind it, so that what is used is in the list;
here, that everything in the list is used, and that nothing else passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.boot import Boot
from broker.metrics import Metrics
from broker.store.allowed import ALLOWED, CallRefused, Guard
from broker.wiring import Broker, open_broker
from tests.api.process import ROOT
from tests.api.service import ADMIN, a_table, an_app, api_settings
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.worker.conftest import a_leader, a_provider, worker_settings
from worker.duties import Worker
from worker.provider.door import open_provider

PROCESSES = sorted(ALLOWED)


def used(guard: Guard) -> dict[str, frozenset[str]]:
    return {s: frozenset(action for service, action in guard.seen if service == s) for s, _ in guard.seen}


async def test_the_api_uses_all_that_it_may_and_nothing_else(ministack: str, table_name: str) -> None:
    async with a_table(ministack, table_name), an_app(api_settings(ministack, table_name)) as api:
        await api.core.sandboxes.add(a_sandbox(tenant="acme"), TEST_CAUSE, now=NOW)
        held = (await api.allocate()).json()
        assert (await api.release(held["sandbox_id"])).status_code == 200
        made = await api.http.post("/v1/admin/keys", headers=ADMIN, json={"role": "viewer", "name": "screen"})
        assert (await api.admin("/sandboxes")).status_code == 200
        assert made.status_code in (200, 201), made.text
        assert used(api.app.state.guard) == ALLOWED["api"]


async def test_the_worker_uses_all_that_it_may_and_nothing_else(ministack: str, table_name: str) -> None:
    store = {"DDB_ENDPOINT_URL": ministack, "DDB_TABLE_NAME": table_name}
    async with a_table(ministack, table_name), a_provider() as provider:
        settings = worker_settings(**store, CSP_BASE_URL=provider.url)
        guard = Guard("worker", table_name=table_name)
        async with (
            open_broker(settings, metrics=Metrics(), boot=Boot(), guard=guard) as core,
            open_provider(settings, core.metrics) as door,
            a_leader(core) as leadership,
        ):
            worker = Worker(settings, core, door, leadership)
            await worker.sync("run")
            await _purged(core, worker)
    assert used(guard)["dynamodb"] == ALLOWED["worker"]["dynamodb"]


async def _purged(core: Broker, worker: Worker) -> None:
    """Something is stale for long, and forgotten."""
    stale = a_sandbox(number=77).go_stale(now=NOW)
    await core.sandboxes.add(stale, TEST_CAUSE, now=NOW)
    assert (await worker.purge("run"))["purged"] == 1


@asynccontextmanager
async def a_client(process: str, service: str, url: str, table_name: str) -> AsyncIterator[Any]:
    async with (
        Guard(process, table_name=table_name)
        .session()
        .client(service, region_name="us-east-1", endpoint_url=url) as client
    ):
        yield client


KEY = {"pk": {"S": "x"}, "sk": {"S": "-"}}
REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("dynamodb", "delete_table", {"TableName": "ours"}),
    ("dynamodb", "create_backup", {"TableName": "ours", "BackupName": "b"}),
    ("dynamodb", "batch_write_item", {"RequestItems": {"ours": [{"DeleteRequest": {"Key": KEY}}]}}),
    ("dynamodb", "execute_statement", {"Statement": "SELECT * FROM ours"}),
    ("dynamodb", "get_item", {"TableName": "theirs", "Key": KEY}),
    ("dynamodb", "batch_get_item", {"RequestItems": {"ours": {"Keys": [KEY]}, "theirs": {"Keys": [KEY]}}}),
    ("dynamodb", "transact_write_items", {"TransactItems": [{"Delete": {"TableName": "theirs", "Key": KEY}}]}),
    ("sts", "get_caller_identity", {}),
    ("s3", "list_buckets", {}),
    ("iam", "list_users", {}),
    ("ec2", "run_instances", {"MinCount": 1, "MaxCount": 1}),
    ("secretsmanager", "list_secrets", {}),
    ("secretsmanager", "put_secret_value", {"SecretId": "s", "SecretString": "x"}),
]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(
    ("service", "operation", "arguments"), REFUSED, ids=[f"{s}:{o}-{n}" for n, (s, o, _) in enumerate(REFUSED)]
)
async def test_what_is_not_listed_is_refused_before_it_is_sent(
    ministack: str, process: str, service: str, operation: str, arguments: dict[str, Any]
) -> None:
    async with a_client(process, service, ministack, "ours") as client:
        with pytest.raises(CallRefused, match=f"the {process} may not call {service}:"):
            await getattr(client, operation)(**arguments)


async def test_the_api_reads_no_secret_at_aws_and_the_worker_may(ministack: str) -> None:
    async with a_client("api", "secretsmanager", ministack, "ours") as client:
        with pytest.raises(CallRefused):
            await client.get_secret_value(SecretId="any")
    assert ALLOWED["worker"]["secretsmanager"] == {"GetSecretValue"}


@pytest.mark.parametrize("folder", ["app", "worker", "broker"])
def test_no_client_of_aws_is_made_but_behind_the_guard(folder: str) -> None:
    """create-table is an operator's, and runs in no process that serves."""
    made = {
        str(path.relative_to(ROOT))
        for path in (Path(ROOT) / folder).rglob("*.py")
        if any(word in path.read_text() for word in ("aioboto3.Session(", "get_session(", "import boto3"))
    }
    assert made <= {"broker/store/allowed.py", "broker/cli.py"}
