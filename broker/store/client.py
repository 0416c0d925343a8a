"""One DynamoDB call: its deadline, its measurement, and the errors it may end in."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from broker import tracing
from broker.errors import StoreThrottled, StoreUnavailable, WriteConflict
from broker.metrics import Metrics
from broker.store.door import Door
from broker.store.spans import store_call
from broker.store.table import Item, Table

_THROTTLED: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "ThrottlingError",  # this and the next: as a cancellation reason spells them
        "ProvisionedThroughputExceeded",
    }
)
_DOWN: Final = frozenset(
    {"InternalServerError", "InternalFailure", "ServiceUnavailable", "TransactionInProgressException"}
)
_SHUT_OUT: Final = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
    }
)
"""The store answers, and not to us: for a caller that is an outage, which an operator can end."""
QUEUE_FACTOR: Final = 3
"""A burst waits for connections up to this many times a call's deadline; then the store is not keeping up."""
_NO_CONNECTION: Final = "no connection in time"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one slot of a refused transaction refused, and the item it saw where it was asked to say."""

    code: str
    item: Item | None

    @property
    def condition_failed(self) -> bool:
        return self.code == "ConditionalCheckFailed"

    @property
    def conflict(self) -> bool:
        return self.code == "TransactionConflict"

    @property
    def throttled(self) -> bool:
        return self.code in _THROTTLED


class TransactionRefused(Exception):
    """Nothing was written. `reasons` stand in the order of the transaction's items."""

    def __init__(self, reasons: list[Reason]) -> None:
        super().__init__(", ".join(reason.code for reason in reasons))
        self.reasons = reasons

    def failure(self) -> Exception | None:
        """What stands behind the refusal where it was no lost race: throttling, or a bug of ours."""
        if any(reason.throttled for reason in self.reasons):
            return StoreThrottled()
        codes = {reason.code for reason in self.reasons}
        if not self.reasons or codes - {"None", "ConditionalCheckFailed", "TransactionConflict"}:
            return RuntimeError(f"the store refused a transaction as malformed: {self}")
        return None


class StoreClient:
    """The process's one client. No write is repeated here: what a repeat means is the caller's knowledge."""

    def __init__(
        self,
        door: Door,
        table: Table,
        *,
        timeout_s: float,
        connections: int,
        metrics: Metrics,
    ) -> None:
        self._slots = asyncio.Semaphore(connections)
        self._door = door
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._closed = False
        self.table = table
        self.fenced_turn = asyncio.Lock()
        """Whose turn it is to check the leader's item: two transactions at once would refuse each other."""

    def close(self) -> None:
        """From now on every call fails at once: what still runs at the end must open no new connection."""
        self._closed = True

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Run one operation on the table: a wait for a connection, then `timeout_s` for the answer.

        Raises:
            WriteConflict: the condition did not hold, or a transaction is at the item.
            TransactionRefused: a transaction was cancelled; says by slot why.
            StoreThrottled: refused for the rate; nothing was written.
            StoreUnavailable: no answer in time; whether it was written is unknown.
        """
        if (span := tracing.current.get()) is None:
            return await self._answer(operation, arguments)
        with store_call(span, operation, self.table.name, expected=(WriteConflict, TransactionRefused)):
            return await self._answer(operation, arguments)

    async def _answer(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        await self._take_slot(operation)
        tracing.mark("connection")  # until here it waited for one
        try:
            if self._closed:
                raise StoreUnavailable("closed")
            async with asyncio.timeout(self._timeout_s):
                answer = await self._door.call(operation, arguments)
        except ClientError as error:
            raise self._counted(operation, _translated(error)) from error
        except (BotoCoreError, OSError) as error:  # TimeoutError is an OSError
            raise self._counted(operation, StoreUnavailable(type(error).__name__)) from error
        finally:
            self._slots.release()
        self._metrics.store_s.labels(operation).observe(time.perf_counter() - began)
        return answer

    async def _take_slot(self, operation: str) -> None:
        """Waiting for a connection is not the store's slowness, so that it has a deadline of its own."""
        if not self._slots.locked():
            await self._slots.acquire()  # which does not wait
            return
        try:
            async with asyncio.timeout(self._timeout_s * QUEUE_FACTOR):
                await self._slots.acquire()
        except TimeoutError:
            raise self._counted(operation, StoreUnavailable(_NO_CONNECTION)) from None

    async def read(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """call() for what only reads: a broken connection is tried once more, a timeout is not.

        Raises:
            StoreThrottled, StoreUnavailable: as for call().
        """
        try:
            return await self.call(operation, **arguments)
        except StoreUnavailable as error:
            if "Timeout" in error.why or error.why == _NO_CONNECTION:
                raise
            return await self.call(operation, **arguments)

    def _counted(self, operation: str, error: Exception) -> Exception:
        """By what stands behind it: a transaction that was throttled counts as throttled, not as a lost race."""
        behind = error.failure() if isinstance(error, TransactionRefused) else None
        self._metrics.store_errors.labels(operation, type(behind or error).__name__).inc()
        return error

    async def get(self, key: Item, *, consistent: bool = True) -> Item | None:
        answer = await self.read("get_item", TableName=self.table.name, Key=key, ConsistentRead=consistent)
        return answer.get("Item")

    async def transact(self, *items: dict[str, Any]) -> None:
        """Write all or nothing. Each item is one of put(), update(), delete(), check()."""
        await self.call("transact_write_items", TransactItems=items)

    async def pages(self, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """Every page of a Query on the table or one of its indexes."""
        arguments["TableName"] = self.table.name
        while True:
            page = await self.read("query", **arguments)
            yield page
            if not (last := page.get("LastEvaluatedKey")):
                return
            arguments["ExclusiveStartKey"] = last

    async def batch_get(self, keys: list[Item]) -> list[Item]:
        """Consistent reads of up to 100 keys, in one round trip where the store serves them all at once."""
        found: list[Item] = []
        while keys:
            asked = {self.table.name: {"Keys": keys, "ConsistentRead": True}}
            answer = await self.read("batch_get_item", RequestItems=asked)
            found += answer["Responses"].get(self.table.name, [])
            left = answer.get("UnprocessedKeys", {}).get(self.table.name, {}).get("Keys", [])
            if len(left) == len(keys):
                raise StoreThrottled
            keys = left
        return found

    def put(self, item: Item, condition: str, values: Item | None = None) -> dict[str, Any]:
        return {"Put": self._conditional({"Item": item}, condition, values)}

    def delete(self, key: Item, condition: str, values: Item | None = None) -> dict[str, Any]:
        return {"Delete": self._conditional({"Key": key}, condition, values)}

    def check(self, key: Item, condition: str, values: Item) -> dict[str, Any]:
        return {"ConditionCheck": self._conditional({"Key": key}, condition, values)}

    def update(
        self, key: Item, change: dict[str, Any], condition: str, values: Item | None = None
    ) -> dict[str, Any]:
        return {"Update": self._conditional({"Key": key, **change}, condition, values)}

    def _conditional(self, action: dict[str, Any], condition: str, values: Item | None) -> dict[str, Any]:
        if values:
            values = {**action.get("ExpressionAttributeValues", {}), **values}
            action["ExpressionAttributeValues"] = values
        return {
            "TableName": self.table.name,
            **action,
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }


def _translated(error: ClientError) -> Exception:
    code = error.response["Error"]["Code"]
    if code == "TransactionCanceledException":
        return _refused(error)
    if code in ("ConditionalCheckFailedException", "TransactionConflictException"):
        return WriteConflict(error.response.get("Item"))
    if code in _THROTTLED:
        return StoreThrottled()
    if code in _DOWN | _SHUT_OUT or error.response["ResponseMetadata"].get("HTTPStatusCode", 400) >= 500:
        return StoreUnavailable(code)
    return error


def _refused(error: ClientError) -> Exception:
    reasons: list[Any] = error.response.get("CancellationReasons") or []
    return TransactionRefused([Reason(r.get("Code") or "None", r.get("Item")) for r in reasons])
