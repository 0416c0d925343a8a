"""`python -m tests.allocation.crowd URL TABLE NAME COUNT`: a process that allocates for COUNT students at once."""

import asyncio
import sys

from broker.allocation import Allocation
from tests.allocation.students import attempt
from tests.conftest import a_broker


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def crowd(url: str, table_name: str, name: str, count: int) -> None:
    """Print each student's sandbox, or the code of the refusal, as it comes."""
    async with a_broker(url, table_name) as broker:
        say("ready")

        async def student(number: int) -> None:
            answer = await attempt(broker, f"{name}-{number}")
            say(answer.sandbox_id if isinstance(answer, Allocation) else answer.code)

        await asyncio.gather(*(student(number) for number in range(count)))


if __name__ == "__main__":
    asyncio.run(crowd(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
