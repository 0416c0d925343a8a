"""`python -m simulator`: options in, one provider until SIGTERM or SIGINT."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence

from simulator.fields import InvalidInput
from simulator.options import Settings, read_settings
from simulator.server import listen, serving
from simulator.simulation import Simulation


async def serve(settings: Settings, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    async with serving(Simulation(settings), listener) as url:
        sys.stdout.write(f"simulator: {settings.sandboxes} sandboxes at {url}, control at {url}/_simulator/\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str]) -> int:
    try:
        settings = read_settings(arguments, os.environ)
    except InvalidInput as invalid:
        for problem in invalid.problems:
            sys.stderr.write(f"simulator: {problem}.\n")
        return 2
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        sys.stderr.write(f"simulator: cannot listen on {settings.host}, port {settings.port}: {_reason(error)}.\n")
        return 1
    asyncio.run(serve(settings, listener))
    return 0


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "it is in use; stop the other process or choose another with --port or SIM_PORT"
    return error.strerror or str(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
