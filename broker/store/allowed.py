"""Which calls of AWS each process may make, in the words of IAM. What is not listed is refused before it is sent.

terraform's policies say the same; a test compares them. Outside of the list are the calls that credentials come
from (a container's or an instance's own address, or STS with a web identity): IAM grants nothing for these.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import aioboto3
from aiobotocore.session import AioSession, get_session

_ITEMS: Final = frozenset(
    {
        "BatchGetItem",
        "ConditionCheckItem",
        "DeleteItem",
        "GetItem",
        "PutItem",
        "Query",
        "Scan",  # one item, once in a table's life: to tell a new table from someone else's
        "UpdateItem",
    }
)

ALLOWED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "api": {"dynamodb": _ITEMS},
    "worker": {"dynamodb": _ITEMS, "secretsmanager": frozenset({"GetSecretValue"})},
}
"""Process -> service -> actions. Those of DynamoDB are on the process's own table and its indexes alone."""

_IDENTITY: Final = frozenset({"AssumeRole", "AssumeRoleWithWebIdentity"})
_PARTS: Final[Mapping[str, str]] = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}


class CallRefused(RuntimeError):
    """A bug of ours, or someone else's code in our process: the call is none of this process's."""


class Guard:
    """Refuses, before anything is sent, what the process may not call. `seen` has what it let pass."""

    def __init__(self, process: str, *, table_name: str | None) -> None:
        self._allowed = ALLOWED[process]
        self._process = process
        self._table_name = table_name
        self.seen: set[tuple[str, str]] = set()

    def session(self) -> aioboto3.Session:
        """A session of AWS whose every client this guard stands before."""
        return aioboto3.Session(botocore_session=self.core())

    def core(self) -> AioSession:
        """The same, as the SDK's lower half knows it."""
        core = get_session()
        core.register("before-parameter-build", self._on_call)
        return core

    def _on_call(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.check(model.service_model.service_name, model.name, params)

    def check(self, service: str, operation: str, params: Mapping[str, Any]) -> None:
        """Look at a call that is about to be made.

        Raises:
            CallRefused: it is none of this process's.
        """
        if service == "sts" and operation in _IDENTITY:
            return
        actions = self._allowed.get(service, frozenset())
        for action, table_name in _asked(operation, params):
            if action not in actions:
                raise CallRefused(f"the {self._process} may not call {service}:{action}")
            if service == "dynamodb" and table_name != self._table_name:
                raise CallRefused(f"the {self._process} may not call {service}:{action} on {table_name}")
            self.seen.add((service, action))


def _asked(operation: str, params: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The actions that IAM would ask about, each with the table it is on."""
    match operation:
        case "TransactWriteItems":
            for item in params["TransactItems"]:
                for part, arguments in item.items():
                    yield _PARTS.get(part, part), arguments.get("TableName")
        case "BatchGetItem":
            for table_name in params["RequestItems"]:
                yield operation, table_name
        case _:
            yield operation, params.get("TableName")
