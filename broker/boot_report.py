"""`python -m broker.boot_report app`: write down in the store that a boot failed; prints how many did in a row.

A process of its own, started by the supervisor: the one that failed may have died without a word.
"""

import asyncio
import sys
import time

from pydantic import ValidationError

from broker import exits
from broker.errors import BrokerError
from broker.metrics import Metrics
from broker.settings import ApiSettings, CoreSettings, WorkerSettings
from broker.store.boots import Boots
from broker.wiring import open_client


async def _report(settings: CoreSettings) -> int:
    async with open_client(settings, metrics=Metrics(of_worker=False)) as client:
        return await Boots(client).failed(settings.process, now=int(time.time()))


def main(arguments: list[str]) -> int:
    """Report one failed boot; the exit code is for nobody, what is printed is for the supervisor."""
    try:
        settings = WorkerSettings() if arguments == ["worker"] else ApiSettings()
        failures = asyncio.run(_report(settings))
    except (ValidationError, BrokerError):
        return exits.UNAVAILABLE
    sys.stdout.write(f"{failures}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
