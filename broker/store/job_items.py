"""A job as an item: what is written, and what is read back of it."""

from dataclasses import fields
from typing import Any, Final

from broker.job import Job, JobState, Kind, Priority
from broker.store import table
from broker.store.table import Item

_FIELDS: Final = tuple(f.name for f in fields(Job))


def job_item(job: Job) -> Item:
    values: dict[str, Any] = {name: getattr(job, name) for name in _FIELDS}
    values["job_id"] = values.pop("id")
    values |= {"gsi1pk": table.job_partition(job.tenant, job.state), "gsi1sk": table.job_sort_key(job)}
    return table.encode({"v": table.ITEM_VERSION, **values}) | table.job_key(job.tenant, job.id)


def job_from(item: Item) -> Job | None:
    """The job of an item, None where it is of a kind or state that only a newer release knows."""
    values = table.decode(item)
    values["id"] = values["job_id"]
    known = {name: values[name] for name in _FIELDS if name in values}
    try:
        known |= {"kind": Kind(known["kind"]), "state": JobState(known["state"])}
        known["priority"] = Priority(known["priority"])
    except ValueError:
        return None
    return Job(**known)


def told(job: Job) -> dict[str, Any]:
    """What its events say of it: what was asked for, how it stands, what came of it. Of ids how many."""
    facts: dict[str, Any] = {"state": job.state, "kind": job.kind, "params": job.about}
    if job.cancel_requested_by is not None:
        facts["cancel_requested_by"] = job.cancel_requested_by
    if job.result is not None:
        facts["result"] = dict(job.result)
    return facts
