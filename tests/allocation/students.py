"""Students, as the tests send them."""

import asyncio
from itertools import islice
from typing import Any

from broker.allocation import Allocation, Wish
from broker.errors import BrokerError, NoSandboxAvailable
from broker.store.table import shard_of
from broker.wiring import Broker
from tests.builders import NOW, TEST_CAUSE, a_sandbox

TENANT = "acme"
SHARDS = 4
"""The broker's default."""


async def fill(broker: Broker, count: int, **changes: Any) -> None:
    """Add sandboxes number 1 to `count`."""
    for first in range(1, count + 1, 50):
        numbers = range(first, min(first + 50, count + 1))
        await asyncio.gather(
            *(broker.sandboxes.add(a_sandbox(number=n, **changes), TEST_CAUSE, now=NOW) for n in numbers)
        )


async def allocate(broker: Broker, holder: str, *, tenant: str = TENANT, **wish: Any) -> Allocation:
    return await broker.allocator.allocate(tenant, Wish(holder=holder, **wish), TEST_CAUSE)


async def attempt(broker: Broker, holder: str, **wish: Any) -> Allocation | BrokerError:
    """What the student gets: a sandbox or a refusal."""
    try:
        return await allocate(broker, holder, **wish)
    except BrokerError as error:
        return error


async def insist(broker: Broker, holder: str, **wish: Any) -> Allocation | BrokerError:
    """As the setup script does: repeat while told to try again, take 409 for an answer."""
    for _ in range(40):
        answer = await attempt(broker, holder, **wish)
        if isinstance(answer, Allocation | NoSandboxAvailable) or answer.retry_after_s is None:
            return answer
        await asyncio.sleep(0.05)
    return answer


async def release(broker: Broker, sandbox_id: str, holder: str, *, tenant: str = TENANT) -> Any:
    return await broker.lifecycle.release(tenant, sandbox_id, holder=holder, cause=TEST_CAUSE)


def winners(answers: list[Any]) -> list[Allocation]:
    return [answer for answer in answers if isinstance(answer, Allocation)]


def codes(answers: list[Any]) -> set[str]:
    return {answer.code for answer in answers if isinstance(answer, BrokerError)}


def numbers_in(shards: set[int], count: int) -> list[int]:
    """Of sandboxes that lie there."""
    numbers = (n for n in range(1, 9999) if shard_of(a_sandbox(number=n).id, SHARDS) in shards)
    return list(islice(numbers, count))


async def add(core: Broker, numbers: list[int]) -> None:
    for number in numbers:
        await core.sandboxes.add(a_sandbox(number=number), TEST_CAUSE, now=NOW)
