"""Keys, indexes and the codec: the one place that knows how a fact is spelled in the table.

Every key part is escaped, so that distinct tuples give distinct keys whatever a tenant puts into an id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, TypeVar
from urllib.parse import quote

from broker.job import Job, JobState
from broker.sandbox import EndedBy, Sandbox, State, account_name

SCHEMA: Final = "sandbox-broker/1"
ITEM_VERSION: Final = 1

Item = dict[str, Any]
"""An item in DynamoDB's typed form: {"name": {"S": "..."}}."""

_SAFE = "._:-"
_INSTANT_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Table:
    """The names of the table and its indexes, as configured."""

    name: str
    status_index: str
    track_index: str


def key(*parts: str | int) -> str:
    """Parts joined by `#`, each escaped so that none can hold one.

    >>> key("SBX", "acme", "a#b")
    'SBX#acme#a%23b'
    """
    return "#".join(quote(str(part), safe=_SAFE) for part in parts)


def instant(at: int) -> str:
    """Unix seconds as a string that sorts like the number, good until the year 33658."""
    return f"{at:0{_INSTANT_DIGITS}d}"


def shard_of(identity: str, shards: int) -> int:
    """A stable shard in [0, shards): the same in every process and release."""
    return int.from_bytes(blake2b(identity.encode(), digest_size=4).digest()) % shards


def primary(pk: str, sk: str = "-") -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def sandbox_key(tenant: str, sandbox_id: str) -> Item:
    return primary(key("SBX", tenant, sandbox_id))


def owner_key(external_id: str, provider: str | None = None) -> Item:
    """By what a deletion at the provider names, in whatever path and spelling the provider lists it.

    The installation's own provider is `csp`; another one is its origin, which has a colon.
    """
    return primary(key("OWN", provider or "csp", account_name(external_id)))


def claim_pk(tenant: str, holder: str) -> str:
    return key("CLM", tenant, holder)


def claim_key(tenant: str, holder: str, idempotency_key: str | None) -> Item:
    """The plain claim sorts as `-`; a keyed one as `K#<key>`, so that a key named `-` is another claim."""
    sk = "-" if idempotency_key is None else key("K", idempotency_key)
    return primary(claim_pk(tenant, holder), sk)


def event_partition(tenant: str, hour: int, shard: int) -> str:
    """`hour`: since the Unix epoch."""
    return key("EVT", tenant, hour, shard)


def event_key(tenant: str, *, at: int, event_id: str, shards: int) -> Item:
    return primary(event_partition(tenant, at // 3600, shard_of(event_id, shards)), event_id)


def tenant_key(tenant: str) -> Item:
    return primary(key("TEN", tenant))


def slots_pk(tenant: str) -> str:
    return key("QTA", tenant)


def slot_key(tenant: str, slot: int) -> Item:
    return primary(slots_pk(tenant), f"{slot:06d}")


def tenants_partition() -> str:
    """All tenants, beside the partitions of each: those have more parts."""
    return key("tenants")


def gauges_key(tenant: str) -> Item:
    return primary(key("GAU", tenant))


def leader_key(scope: str) -> Item:
    return primary(key("LEA", scope))


def report_key(tenant: str) -> Item:
    return primary(key("WRK", tenant))


def sync_key(tenant: str) -> Item:
    return primary(key("SYN", tenant))


def job_key(tenant: str, job_id: str) -> Item:
    return primary(key("JOB", tenant, job_id))


def api_key_key(key_id: str) -> Item:
    """By the id alone: who presents a key does not say whose it is."""
    return primary(key("KEY", key_id))


def api_keys_partition(tenant: str) -> str:
    """A tenant's keys, beside the partitions of its sandboxes and jobs: those have more parts."""
    return key(tenant, "key")


def api_key_sort_key(created_at: int, key_id: str) -> str:
    return key(instant(created_at), key_id)


def boot_key(process: str) -> Item:
    return primary(key("BOOT", process))


def presence_pk(kind: str) -> str:
    return key("PRC", kind)


def presence_key(kind: str, process: str) -> Item:
    return primary(presence_pk(kind), process)


def meta_key() -> Item:
    return primary("META")


def mode_key() -> Item:
    return primary("MODE")


def status_partition(tenant: str, state: State, shard: int) -> str:
    return key(tenant, state.value, shard)


def job_partition(tenant: str, state: JobState) -> str:
    """Beside the sandboxes' partitions: `job` is no state of a sandbox. One a state: people ask for jobs."""
    return key(tenant, "job", state.value)


def track_partition(tenant: str, track: str, shard: int) -> str:
    return key(tenant, "trk", track, shard)


def history_partition(tenant: str, sandbox_id: str) -> str:
    return key(tenant, "sbx", sandbox_id)


def status_sort_key(sandbox: Sandbox) -> str:
    """The order in which the sandboxes of this state are taken."""
    match sandbox.state:
        case State.AVAILABLE:
            return sandbox.name
        case State.ALLOCATED:
            return instant(sandbox.expires_at or 0)
        case State.PENDING_DELETION:
            return instant(sandbox.next_attempt_at or 0)
        case _:
            return instant(sandbox.since)


def job_sort_key(job: Job) -> str:
    """The queue in the order it is taken, what runs by its start, what ended by its end; equals by age."""
    match job.state:
        case JobState.QUEUED:
            at = job.order_at
        case JobState.RUNNING:
            at = job.started_at or 0
        case _:
            at = job.finished_at or 0
    return key(instant(at), job.id)


def index_keys(sandbox: Sandbox, shards: int) -> dict[str, str]:
    """The index attributes that follow from the state: never written apart from it."""
    shard = shard_of(sandbox.id, shards)
    keys = {
        "gsi1pk": status_partition(sandbox.tenant, sandbox.state, shard),
        "gsi1sk": status_sort_key(sandbox),
    }
    if sandbox.track is not None:
        keys["gsi2pk"] = track_partition(sandbox.tenant, sandbox.track, shard)
        keys["gsi2sk"] = instant(sandbox.allocated_at or 0)
    return keys


Value = str | int | Mapping[str, str] | Mapping[str, int]


def encode_value(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, int):
        return {"N": str(value)}
    return {"M": {name: encode_value(inner) for name, inner in value.items()}}


def encode(values: Mapping[str, Value | None]) -> Item:
    """Typed attributes for everything that has a value."""
    return {name: encode_value(value) for name, value in values.items() if value is not None}


def decode(item: Item) -> dict[str, Any]:
    """Plain values of the attributes whose types the broker writes; others are left out, not lost."""
    return dict(_decoded(item))


def _decoded(item: Item) -> Iterator[tuple[str, Any]]:
    for name, typed in item.items():
        if "S" in typed:
            yield name, typed["S"]
        elif "N" in typed:
            yield name, int(typed["N"]) if typed["N"].lstrip("-").isdigit() else float(typed["N"])
        elif "M" in typed:
            yield name, decode(typed["M"])
        elif "BOOL" in typed:
            yield name, typed["BOOL"]


def sandbox_item(sandbox: Sandbox, shards: int) -> Item:
    values: dict[str, Any] = {name: getattr(sandbox, name) for name in _SANDBOX_FIELDS}
    values["sandbox_id"] = values.pop("id")
    values |= index_keys(sandbox, shards)
    return encode({"v": ITEM_VERSION, **values}) | sandbox_key(sandbox.tenant, sandbox.id)


_SANDBOX_FIELDS = tuple(f.name for f in fields(Sandbox))


def sandbox_from(item: Item) -> Sandbox:
    """The sandbox of an item. What a newer release added is passed over here and stays in the table.

    A state or an end that only a newer release knows is read with care: such a sandbox is handed out to nobody
    and deleted by nobody, and no student's own release ended it. It stays in the table as it is.
    """
    values = decode(item)
    values["id"] = values["sandbox_id"]
    known = {name: values[name] for name in _SANDBOX_FIELDS if name in values}
    known["state"] = _member(State, known["state"], State.QUARANTINED)
    if "ended_by" in known:
        known["ended_by"] = ended_by_from(known["ended_by"])
    return Sandbox(**known)


Member = TypeVar("Member", bound=StrEnum)


def _member(kind: type[Member], value: str, careful: Member) -> Member:
    return kind(value) if value in set(kind) else careful


def ended_by_from(value: str) -> EndedBy:
    """What ended an allocation; what only a newer release knows was at any rate not its holder."""
    return _member(EndedBy, value, EndedBy.FORCE_RELEASE)


def update_of(before: Item, after: Item) -> dict[str, Any]:
    """UpdateItem's arguments that turn `before` into `after`, touching nothing that did not change."""
    changed = {n: v for n, v in after.items() if before.get(n) != v}
    gone = [n for n in before if n not in after]
    names = {f"#{i}": n for i, n in enumerate([*changed, *gone])}
    placeholder = {n: p for p, n in names.items()}
    values = {f":{placeholder[n][1:]}": v for n, v in changed.items()}
    expression = "SET " + ", ".join(f"{placeholder[n]} = :{placeholder[n][1:]}" for n in changed)
    if gone:
        expression += " REMOVE " + ", ".join(placeholder[n] for n in gone)
    return {
        "UpdateExpression": expression,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def definition(table: Table) -> dict[str, Any]:
    """CreateTable's arguments for a table of this schema, on demand."""

    def keyed(prefix: str) -> list[dict[str, str]]:
        return [
            {"AttributeName": f"{prefix}pk", "KeyType": "HASH"},
            {"AttributeName": f"{prefix}sk", "KeyType": "RANGE"},
        ]

    names = [f"{prefix}{part}" for prefix in ("", "gsi1", "gsi2") for part in ("pk", "sk")]
    return {
        "TableName": table.name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in names],
        "KeySchema": keyed(""),
        "GlobalSecondaryIndexes": [
            {
                "IndexName": table.status_index,
                "KeySchema": keyed("gsi1"),
                "Projection": {"ProjectionType": "ALL"},
            },
            {
                "IndexName": table.track_index,
                "KeySchema": keyed("gsi2"),
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(TRACK_PROJECTION)},
            },
        ],
    }


TRACK_PROJECTION = (
    "tenant", "sandbox_id", "state", "version", "name", "external_id", "since", "holder", "track",
    "allocated_at", "expires_at", "actor", "action", "before", "after", "request_id",
)  # fmt: skip
"""DynamoDB allows 100 non-key attributes over all indexes of a table; these are what a list shows."""
