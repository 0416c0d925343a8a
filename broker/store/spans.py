"""What a span says of one DynamoDB call, in the words of OpenTelemetry's conventions."""

from contextlib import AbstractContextManager
from typing import Final

from broker import tracing
from broker.store.door import spelled
from broker.tracing import Span

SYSTEM: Final = "aws.dynamodb"


def store_call(
    within: Span, operation: str, table_name: str, *, expected: tuple[type[Exception], ...]
) -> AbstractContextManager[Span | None]:
    """Around one call. No key and no value of an item is told."""
    name = spelled(operation)
    facts = {"db.system.name": SYSTEM, "db.operation.name": name, "db.collection.name": table_name}
    return tracing.call(within, f"DynamoDB.{name}", facts, expected=expected)
