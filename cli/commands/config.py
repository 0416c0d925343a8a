"""`config`: the settings in force at the API, and where each comes from."""

from typing import Annotated

import typer

from cli.options import Json, api_of
from cli.show import emit_json, emit_table, kept, wide


def config(
    context: typer.Context,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not at its default.")] = False,
    as_json: Json = False,
) -> None:
    """Show the API's settings, and where each comes from.

    Secrets are left out. It is the process that answers: behind a balancer
    another one may run with others. The worker has its own. Where the API
    was told META_ENABLED=false there is nothing to show.

    \b
    Examples:
      sandbox-broker config
      sandbox-broker config --changed
      sandbox-broker config --json | jq .configuration.LAB_DURATION_HOURS
    """
    meta = api_of(context).get("/v1/meta")
    sources = meta.get("sources", {})  # an API of before they were told
    shown = {n: v for n, v in meta["configuration"].items() if not changed or sources.get(n) != "default"}
    if as_json:
        emit_json(meta | {"configuration": shown, "sources": {n: s for n, s in sources.items() if n in shown}})
        return
    rows = ([name, _told(value), sources.get(name, "")] for name, value in sorted(shown.items()))
    emit_table([kept("SETTING"), wide("VALUE"), kept("FROM")], rows)


def _told(value: object) -> str:
    """As an operator would write it in the environment."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return ", ".join(map(str, value))
    return str(value)
