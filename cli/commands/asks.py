"""`sync` and `cleanup`: have the worker do now what it does by itself every few minutes."""

from typing import Annotated

import typer

from cli.errors import Misused
from cli.follow import ask
from cli.options import Json, MaybeReason, NoWait, Wait, api_of, said


def sync(
    context: typer.Context,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="Believe the listing, also where half of the pool is missing from it."),
    ] = False,
    reason: MaybeReason = None,
    wait: Wait = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Bring the pool in line with the provider's listing now.

    Follows it to its end. Joins a sync that waits already. Ctrl-C leaves it running. Exit 1 when it ends badly,
    or when the listing is not believed because half of the pool is missing from it.

    \b
    Examples:
      sandbox-broker sync
      sandbox-broker sync --confirm --reason 'half of the labs were closed'
      sandbox-broker sync --no-wait
    """
    _one_of(wait, no_wait)
    if confirm and reason is None:
        raise Misused(
            "--confirm makes stale whatever the listing lacks: look at 'reconcile', and say --reason why."
        )
    body = ({"confirm": True} if confirm else {}) | said(reason)
    ask(api_of(context), "/v1/admin/sync", body, wait_s=wait, no_wait=no_wait, as_json=as_json)


def cleanup(
    context: typer.Context,
    reason: MaybeReason = None,
    wait: Wait = None,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Delete all that is due at the provider now.

    Follows it to its end. Joins a cleanup that waits already. Ctrl-C leaves it running. Exit 1 when it ends badly.

    \b
    Examples:
      sandbox-broker cleanup
      sandbox-broker cleanup --wait 60 --json
    """
    _one_of(wait, no_wait)
    ask(api_of(context), "/v1/admin/cleanup", said(reason), wait_s=wait, no_wait=no_wait, as_json=as_json)


def _one_of(wait: float | None, no_wait: bool) -> None:
    if wait is not None and no_wait:
        raise Misused("--wait and --no-wait exclude each other.")
