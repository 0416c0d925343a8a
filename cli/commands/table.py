"""`create-table`: the one command that needs the store, and no API."""

import typer


def create_table() -> None:
    """Create the table that DDB_TABLE_NAME names.

    With indexes, TTL and point-in-time recovery. Settings come from the environment, as for the API and the
    worker; AWS credentials the usual way. Exit 78 when the settings are wrong. In production terraform does it.

    \b
    Examples:
      DDB_TABLE_NAME=broker AWS_REGION=eu-central-1 sandbox-broker create-table
    """
    from broker.cli import create_table_as_set  # noqa: PLC0415  half a second of AWS that no other command needs

    raise typer.Exit(create_table_as_set())
