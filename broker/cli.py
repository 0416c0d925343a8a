"""`create-table`, for the images and `make run`: what needs the store and no API. All else is in `cli/`."""

import argparse
import asyncio
import sys

import aioboto3
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from broker import exits
from broker.settings import CoreSettings, problems_of
from broker.store.schema import create_table
from broker.version import VERSION
from broker.wiring import client_config, table_of


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
