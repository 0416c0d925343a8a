"""Claims: who holds which sandbox. A claim is the whole answer, so that a replay needs no second read."""

from dataclasses import dataclass, fields
from typing import Any, Self

from broker.sandbox import EndedBy, Sandbox
from broker.store import table
from broker.store.client import StoreClient
from broker.store.table import Item

ENDED_CLAIM_S = 24 * 3600
"""How long a keyed claim answers ALLOCATION_ENDED after its end: a late duplicate must not allocate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """(tenant, holder, key) holds a sandbox, or held one that ended at `ended_at`."""

    tenant: str
    holder: str
    key: str | None
    sandbox_id: str
    name: str
    external_id: str
    allocated_at: int
    expires_at: int
    wish: str  # digest of prefix and track: the same key with another wish is refused
    attempt_id: str  # tells the process whether a claim it finds is its own lost answer
    track: str | None = None
    generation: int | None = None  # None: from before there were any
    ended_at: int | None = None
    ended_by: EndedBy | None = None

    @classmethod
    def on(cls, sandbox: Sandbox, *, wish: str, attempt_id: str) -> Self:
        """The claim that goes with an allocated sandbox."""
        if sandbox.holder is None or sandbox.allocated_at is None or sandbox.expires_at is None:
            raise ValueError(f"{sandbox.id} is not allocated")
        return cls(
            tenant=sandbox.tenant,
            holder=sandbox.holder,
            key=sandbox.claim_key,
            sandbox_id=sandbox.id,
            name=sandbox.name,
            external_id=sandbox.external_id,
            allocated_at=sandbox.allocated_at,
            expires_at=sandbox.expires_at,
            wish=wish,
            attempt_id=attempt_id,
            track=sandbox.track,
            generation=sandbox.generation,
        )

    def blocks(self, *, now: int) -> bool:
        """Whether a new allocation under this claim is still out of the question."""
        return self.ended_at is None or self.ended_at > now - ENDED_CLAIM_S


_FIELDS = tuple(f.name for f in fields(Claim))
_HOLDS = "sandbox_id = :sandbox AND attribute_not_exists(ended_at)"
"""Of a live claim: it is on this very sandbox."""


def claim_from(item: Item) -> Claim:
    values = table.decode(item)
    known: dict[str, Any] = {name: values.get(name) for name in _FIELDS}
    if known["ended_by"] is not None:
        known["ended_by"] = table.ended_by_from(known["ended_by"])
    return Claim(**known)


class Claims:
    """Reads claims, and makes the transaction items that begin and end them."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def get(self, tenant: str, holder: str, key: str | None) -> Claim | None:
        """One consistent read."""
        item = await self._client.get(table.claim_key(tenant, holder, key))
        return None if item is None else claim_from(item)

    async def of_holder(self, tenant: str, holder: str) -> list[Claim]:
        """Every claim of one student, ended ones included, read consistently."""
        pages = self._client.pages(
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": table.claim_pk(tenant, holder)}},
            ConsistentRead=True,
        )
        return [claim_from(item) async for page in pages for item in page["Items"]]

    def begin(self, claim: Claim, *, now: int) -> dict[str, Any]:
        """Put the claim where none blocks it; refused, the transaction carries the one that does."""
        values = {name: getattr(claim, name) for name in _FIELDS}
        item = table.encode({"v": table.ITEM_VERSION, **values})
        return self._client.put(
            item | table.claim_key(claim.tenant, claim.holder, claim.key),
            "attribute_not_exists(pk) OR ended_at <= :long_ago",
            {":long_ago": table.encode_value(now - ENDED_CLAIM_S)},
        )

    def end(self, ended: Sandbox) -> dict[str, Any]:
        """End the claim of `ended`, if it names that sandbox.

        A plain claim goes; a keyed one stays for a day to tell late duplicates what happened.
        """
        key, named = _key_of(ended), {":sandbox": {"S": ended.id}}
        if ended.claim_key is None:
            return self._client.delete(key, _HOLDS, named)
        ended_at = ended.ended_at or 0
        change = {
            "UpdateExpression": "SET ended_at = :at, ended_by = :by, #ttl = :ttl",
            "ExpressionAttributeNames": {"#ttl": "ttl"},
            "ExpressionAttributeValues": {
                ":at": table.encode_value(ended_at),
                ":by": table.encode_value(str(ended.ended_by)),
                ":ttl": table.encode_value(ended_at + ENDED_CLAIM_S),
            },
        }
        return self._client.update(key, change, _HOLDS, named)

    def extend(self, extended: Sandbox) -> dict[str, Any]:
        """Have the claim of `extended` last as long as the sandbox does, if it names that sandbox."""
        change = {
            "UpdateExpression": "SET expires_at = :until",
            "ExpressionAttributeValues": {":until": table.encode_value(extended.expires_at or 0)},
        }
        return self._client.update(_key_of(extended), change, _HOLDS, {":sandbox": {"S": extended.id}})


def _key_of(held: Sandbox) -> Item:
    """Where the claim is that a sandbox was allocated under."""
    return table.claim_key(held.tenant, held.holder or "", held.claim_key)
