"""What needs the store and no API: `create-table`, for images and `make run`, and `import`. See also `cli/`."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aioboto3
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from broker import exits
from broker.action import Action
from broker.arrival import mapping_of
from broker.boot import Boot
from broker.errors import ForeignTable, StoreThrottled, StoreUnavailable
from broker.importer import Brought, Importer, Plan, Trouble
from broker.metrics import Metrics
from broker.settings import CoreSettings, problems_of
from broker.store.adoptions import Adoptions
from broker.store.allowed import Guard
from broker.store.door import client_config
from broker.store.events import Cause
from broker.store.schema import create_table
from broker.version import VERSION
from broker.wiring import open_broker, table_of

__all__ = ["Brought", "ImportFailed", "Plan", "Trouble", "Wanted", "create_table_as_set", "import_as_set"]


async def _create_table(settings: CoreSettings) -> int:
    async with aioboto3.Session().client(
        "dynamodb",
        region_name=settings.region,
        endpoint_url=settings.endpoint_url,
        config=client_config(settings),
    ) as dynamodb:
        try:
            created = await create_table(dynamodb, table_of(settings))
        except (ClientError, BotoCoreError) as error:
            sys.stderr.write(f"sandbox-broker: the table {settings.table_name} was not created: {error}\n")
            return 1
    sys.stdout.write(f"table {settings.table_name} {'created' if created else 'exists already'}\n")
    return 0


def create_table_as_set() -> int:
    """Create the table of the environment's settings; the exit code."""
    try:
        settings = CoreSettings()
    except ValidationError as error:
        for problem in problems_of(error):
            sys.stderr.write(f"configuration: {problem}\n")
        return exits.CONFIG
    return asyncio.run(_create_table(settings))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An import: from which table, read how, and how fast."""

    source: str
    region: str | None
    mapping: Mapping[str, object]  # what differs from OLD_ATTRIBUTES
    lease_s: int  # of an allocation whose end the old table does not say
    items_per_s: float


class ImportFailed(Exception):
    """It did not begin, or not end. The text is for people; run again, it goes on where it was."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def import_as_set(
    wanted: Wanted, *, agreed: Callable[[Plan], bool], told: Callable[[Plan, Brought], None]
) -> tuple[Plan, Brought | None]:
    """Bring an old table over into that of the environment's settings, if the plan is agreed to.

    Raises:
        ImportFailed: wrong settings, another table, or a store that does not answer.
    """
    try:
        mapping, settings = mapping_of(wanted.mapping), CoreSettings()
    except ValidationError as error:
        raise ImportFailed("; ".join(problems_of(error)), exits.CONFIG) from None
    except ValueError as error:
        raise ImportFailed(f"--mapping: {error}", exits.CONFIG) from None
    try:
        return asyncio.run(_import(wanted, mapping, settings, agreed, told))
    except ForeignTable as error:
        raise ImportFailed(f"{error}.", exits.CONFIG) from None
    except (StoreUnavailable, StoreThrottled, ClientError, BotoCoreError) as error:
        again = "Run it again: what came stays, the rest follows."
        raise ImportFailed(f"The store does not answer as it should ({error}). {again}") from None


async def _import(
    wanted: Wanted,
    mapping: Mapping[str, tuple[str, ...]],
    settings: CoreSettings,
    agreed: Callable[[Plan], bool],
    told: Callable[[Plan, Brought], None],
) -> tuple[Plan, Brought | None]:
    source = aioboto3.Session().client(
        "dynamodb",
        region_name=wanted.region or settings.region,
        endpoint_url=settings.endpoint_url,
        config=client_config(settings),
    )
    guard = Guard("api", table_name=settings.table_name)  # the source has a client of its own
    target = open_broker(settings, metrics=Metrics(of_worker=False), boot=Boot(), guard=guard)
    async with source as dynamodb, target as core:
        importer = Importer(
            dynamodb,
            core.sandboxes,
            Adoptions(core.client, core.sandboxes, core.claims),
            tenant=settings.tenant,
            cause=Cause(actor="import", action=Action.IMPORT, request_id=f"import-{secrets.token_hex(6)}"),
            items_per_s=wanted.items_per_s,
        )
        plan = await importer.plan(wanted.source, mapping=mapping, lease_s=wanted.lease_s)
        if not agreed(plan):
            return plan, None
        brought = Brought(contradicted=plan.contradicted)
        async for brought in importer.bring(plan):
            told(plan, brought)
        return plan, brought


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is the process's."""
    parser = argparse.ArgumentParser(
        "python -m broker.cli", description="Prepare the broker's store. Settings come from the environment."
    )
    parser.add_argument("--version", action="version", version=VERSION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "create-table",
        help="create DDB_TABLE_NAME with its indexes, TTL and point-in-time recovery",
        description="Create the table that DDB_TABLE_NAME names. In production terraform does that.",
    )
    parser.parse_args(arguments)
    return create_table_as_set()


if __name__ == "__main__":
    sys.exit(main())
