"""Engine, API and load for N seconds, and nothing measured but the rate: for a profiler.

`python -m bench.stand --seconds 60 --route broker --delay-ms 5` prints the ids of the processes when it begins.
"""

import argparse
import asyncio
import sys
from typing import Final

from bench.lane import BARE, BROKER, SDK, Lane
from bench.rig import open_rig

ROUTES: Final = {"broker": BROKER, "sdk": SDK, "bare": BARE}


async def run(*, route: str, seconds: float, delay_ms: float, connections: int) -> None:
    async with open_rig() as rig:
        store = await rig.delayed(delay_ms)
        lane = await Lane.open(rig, ROUTES[route], store=store)
        print(f"engine {rig.engine.pid}, {route} {lane.working_pid} (port {lane.served.port})", flush=True)
        ends_at = asyncio.get_running_loop().time() + seconds
        while (left_s := ends_at - asyncio.get_running_loop().time()) > 0:
            block = await lane.closed(seconds=min(5.0, left_s), connections=connections)
            print(
                f"{block.per_s:.0f} allocations/s, p50 {block.percentile_ms(50):.1f} ms, "
                f"{block.cpu_ms:.2f} ms of processor time each",
                flush=True,
            )


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m bench.stand", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--route", choices=ROUTES, default="broker", help="sdk: through aioboto3")
    parser.add_argument("--delay-ms", type=float, default=0, help="how far away the store is (default: 0)")
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    asyncio.run(run(**vars(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
