"""Answers as DynamoDB words them, and the two ways of not getting the engine's answer."""

import json
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

_MODELLED = "com.amazonaws.dynamodb.v20120810#"
_CORAL = {
    "ValidationException": "com.amazon.coral.validate#",
    "ThrottlingException": "com.amazon.coral.availability#",
    "ServiceUnavailable": "com.amazon.coral.availability#",
}
_TALKED_ANEW = ("content-length", "transfer-encoding", "connection", "keep-alive", "date", "server")

CONFLICT = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def succeeded(self) -> bool:
        return self.status == 200

    def with_body(self, body: bytes) -> "Answer":
        """The same answer with other bytes; SDKs verify the checksum, so that is made anew."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "x-amz-crc32"}
        return Answer(self.status, headers | {"x-amz-crc32": str(zlib.crc32(body))}, body)


class Refused(Exception):
    """The proxy answers by itself and forwards nothing."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


class Dropped(Exception):
    """The connection ends without an answer: with a reset, or closed in good order."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__("reset" if reset else "closed")
        self.reset = reset


def end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` without those that each connection states for itself."""
    return {name: value for name, value in headers.items() if name.lower() not in _TALKED_ANEW}


def error(code: str, message: str, *, status: int = 400, **members: Any) -> Answer:
    kind = _CORAL.get(code, _MODELLED) + code
    body = json.dumps({"__type": kind, **members, "message": message}).encode()
    headers = {
        "Content-Type": "application/x-amz-json-1.0",
        "x-amzn-RequestId": str(uuid.uuid4()),
        "x-amz-crc32": str(zlib.crc32(body)),
    }
    return Answer(status, headers, body)


def cancelled(size: int, reasons: Mapping[int, Mapping[str, str]]) -> Answer:
    """A TransactionCanceledException over `size` actions; slots without a reason say "None"."""
    slots = [dict(reasons.get(slot, {"Code": "None"})) for slot in range(size)]
    codes = ", ".join(slot["Code"] for slot in slots)
    return error(
        "TransactionCanceledException",
        f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
        CancellationReasons=slots,
    )
