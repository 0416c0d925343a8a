"""`python -m local.store_proxy`: the proxy as a process."""

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from local.store_proxy.faults import Faults
from local.store_proxy.server import StoreProxy

EPILOG = """
while it runs:
  GET   /_proxy/faults         the faults as they are
  PATCH /_proxy/faults         change some: {"index_lag_s": 2, "conflict_next": {"1": 3}}
  GET   /_proxy/counts         calls by operation, injected faults by kind
  POST  /_proxy/counts/reset   start counting anew

example:
  python -m local.store_proxy --upstream http://127.0.0.1:4566 --port 4567 --latency-ms 5 --index-lag-s 2
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    try:
        faults = Faults(**{name: options[name] for name in _fault_names() if options[name] is not None})
    except ValueError as problem:
        parser.error(str(problem))
    proxy = StoreProxy(
        upstream_url=options["upstream"],
        host=options["host"],
        port=options["port"],
        faults=faults,
        seed=options["seed"],
    )
    try:
        asyncio.run(_run(proxy))
    except OSError as failure:
        sys.exit(f"store proxy: cannot listen on {proxy.url}: {failure}")


async def _run(proxy: StoreProxy) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    async with proxy:
        print(f"store proxy on {proxy.url} -> {proxy.upstream_url}", flush=True)
        await stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.store_proxy",
        description="An HTTP proxy that makes a local DynamoDB engine behave as badly as the real one can. "
        "Without options it passes everything through and refuses only what AWS refuses.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--upstream", required=True, metavar="URL", help="the engine, such as http://127.0.0.1:4566"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=0, help="port to listen on (default: 0, any free one; printed)"
    )
    parser.add_argument("--seed", type=int, default=0, help="start of the random numbers (default: %(default)s)")
    group = parser.add_argument_group(
        "faults", """all can be changed while it runs; lists and maps as JSON: '["Query"]' '{"1": 3}'"""
    )
    for setting in dataclasses.fields(Faults):
        flag = "--" + setting.name.replace("_", "-")
        text = setting.metadata["help"].replace("%", "%%")
        if isinstance(setting.default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            group.add_argument(flag, type=_value, metavar="VALUE", help=text)
    return parser


def _fault_names() -> list[str]:
    return [setting.name for setting in dataclasses.fields(Faults)]


def _value(text: str) -> Any:
    """JSON as in PATCH, or else plain text; `Faults` checks it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
