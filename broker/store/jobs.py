"""Jobs in the table: queued by anybody, run by whoever leases them, ended by the lease's token alone.

What people ask for, and how a job ends, leaves its event in the same transaction. That it was taken, beats, or
waits for another attempt is a worker's own bookkeeping: no event.
"""

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from broker.action import Action
from broker.errors import JobNotFound, JobWrongState, LeaseLost, StoreUnavailable, WriteConflict
from broker.job import ENDED, REQUEUEABLE, Job, JobState, Kind, Priority, Progress
from broker.key import key_id_of
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events
from broker.store.job_items import job_from, job_item, told
from broker.store.table import Item
from broker.store.tenants import Tenants

MAX_TRIES: Final = 6
JOINED: Final = frozenset({Kind.SYNC, Kind.CLEANUP})
"""One run serves everybody who asked for it before it began."""
LOOK_THROUGH: Final = 200
WORKER: Final = "worker:jobs"
"""Who ends a job, in its event: whose it was to begin with stands in the event of the asking."""
_PAUSE_S: Final = 0.02
_UNARCHIVED: Final = "attribute_not_exists(#ttl) OR #ttl > :now"


class Jobs:
    """Reads and moves jobs. What is past its archive time is not there, whether DynamoDB removed it or not."""

    def __init__(
        self,
        client: StoreClient,
        tenants: Tenants,
        events: Events,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._tenants = tenants
        self._events = events
        self._clock = clock

    async def enqueue(
        self,
        tenant: str,
        kind: Kind,
        *,
        params: Mapping[str, str],
        priority: Priority,
        requested_by: str,
        request_id: str,
        reason: str | None = None,
    ) -> Job:
        """Queue a job, or join a sync or cleanup that waits already with the same parameters.

        Joined is what the index shows: it may miss one that was queued a moment ago, and two do no harm.
        """
        if kind in JOINED and (waiting := await self._alike(tenant, kind, params, requested_by)) is not None:
            return waiting
        now = self._clock()
        job = Job(
            tenant=tenant,
            id=f"{int(now * 1000):013d}-{secrets.token_hex(6)}",
            kind=kind,
            params=dict(params),
            priority=priority,
            requested_by=requested_by,
            request_id=request_id,
            reason=reason,
            created_at=int(now),
            queued_at=int(now),
            due_at=int(now),
        )
        cause = Cause(actor=requested_by, action=Action.REQUEST_JOB, request_id=request_id, reason=reason)
        put = self._client.put(job_item(job), "attribute_not_exists(pk)")
        try:
            await self._transact(put, await self._event(None, job, cause))
        except WriteConflict as conflict:  # over an item that nobody else knows: nothing was written
            raise StoreUnavailable("contention") from conflict
        except StoreUnavailable:  # a lost answer is looked into: a repeat would queue it twice
            if await self.get(tenant, job.id) is None:
                raise
        return job

    async def get(self, tenant: str, job_id: str) -> Job | None:
        """One consistent read."""
        item = await self._client.get(table.job_key(tenant, job_id))
        job = None if item is None else job_from(item)
        archived = job is not None and job.ttl is not None and job.ttl <= self._clock()
        return None if archived else job

    async def page(
        self,
        tenant: str,
        state: JobState,
        *,
        limit: int,
        newest_first: bool = False,
        after: Item | None = None,
    ) -> tuple[list[Job], Item | None]:
        """One page of a state's jobs as the index sees them: a hint. The queue comes in the order it is taken.

        Returns the rows, fewer than `limit` where some are archived, and where the next page begins.
        """
        answer = await self._client.read(
            "query",
            TableName=self._client.table.name,
            **self._of(tenant, state),
            Limit=limit,
            ScanIndexForward=not newest_first,
            **({"ExclusiveStartKey": after} if after else {}),
        )
        rows = [job for job in map(job_from, answer["Items"]) if job is not None]
        return rows, answer.get("LastEvaluatedKey")

    async def walk(self, tenant: str, state: JobState) -> AsyncIterator[Job]:
        """Every job of a state, page by page."""
        after: Item | None = None
        while True:
            rows, after = await self.page(tenant, state, limit=LOOK_THROUGH, after=after)
            for row in rows:
                yield row
            if after is None:
                return

    async def count(self, tenant: str, state: JobState) -> int:
        pages = self._client.pages(**self._of(tenant, state), Select="COUNT")
        return sum([page["Count"] async for page in pages])

    async def lease(self, job: Job, *, token: str) -> Job:
        """Take a queued job.

        Raises:
            WriteConflict: someone else took it, or cancelled it.
        """
        return await self._write(job, job.lease(token=token, now=self._now()), None)

    async def take_over(self, job: Job, *, token: str) -> Job:
        """Take a running job whose worker stopped beating; it may end there: see Job.take_over().

        Raises:
            WriteConflict: it has beaten since, ended, or someone else took it.
        """
        taken = job.take_over(token=token, now=self._now())
        return await self._write(job, taken, _end_of(taken))

    async def renew(self, leased: Job, progress: Progress) -> Job:
        """Beat: one write that keeps the lease, leaves the progress, and says what the store holds now.

        Raises:
            LeaseLost: someone else runs it, or nobody does.
        """
        values: dict[str, Any] = {"done": progress.done, "failed": progress.failed, "progress_at": self._now()}
        if progress.total is not None:
            values["total"] = progress.total
        change = table.update_of({}, table.encode(values))
        change["UpdateExpression"] += ", beat = beat + :one, version = version + :one"
        change["ExpressionAttributeNames"]["#state"] = "state"
        update = self._client.update(
            table.job_key(leased.tenant, leased.id),
            change,
            "lease_token = :token AND #state = :running",
            table.encode({":token": leased.lease_token, ":running": JobState.RUNNING.value, ":one": 1}),
        )["Update"]
        for number in range(MAX_TRIES):
            try:
                answer = await self._client.call("update_item", **update, ReturnValues="ALL_NEW")
            except WriteConflict as conflict:
                present = await self.get(leased.tenant, leased.id)
                if present is None or not _runs_by(leased, present):
                    raise LeaseLost from conflict
                await _pause(number)  # a transaction was at it: someone asks to cancel it
                continue
            renewed = job_from(answer["Attributes"])
            if renewed is None:
                raise LeaseLost
            return renewed
        raise StoreUnavailable("contention")

    async def conclude(self, leased: Job, move: Callable[[Job], Job]) -> Job:
        """Write the end of a run, `move` of what the store holds, by the lease's token. May be repeated.

        Raises:
            LeaseLost: someone else runs it: this end comes too late and is not written.
        """
        for number in range(MAX_TRIES):
            present = await self.get(leased.tenant, leased.id)
            if present is None or present.lease_token != leased.lease_token:
                raise LeaseLost
            if present.state is not JobState.RUNNING:
                return present  # written by this very token: the answer was lost
            moved = move(present)
            try:
                return await self._write(present, moved, _end_of(moved))
            except WriteConflict:  # a beat, or a request to cancel
                await _pause(number)
        raise StoreUnavailable("contention")

    async def request_cancel(self, tenant: str, job_id: str, *, cause: Cause) -> Job:
        """Cancel a queued job at once, and tell the worker of a running one. Idempotent.

        Raises:
            JobNotFound: unknown, or another tenant's.
            JobWrongState: it has ended otherwise.
        """

        def cancelled(job: Job) -> Job:
            if job.state in ENDED - {JobState.CANCELLED}:
                raise JobWrongState(state=job.state, wanted="cancel")
            if job.state is JobState.CANCELLED or job.cancel_requested_by is not None:
                return job
            return job.request_cancel(by=cause.actor, now=self._now())

        return await self._change(tenant, job_id, cancelled, cause)

    async def requeue(self, tenant: str, job_id: str, *, cause: Cause) -> Job:
        """Queue a dead, timed out or cancelled job again; of two who do so at once, one does.

        Raises:
            JobNotFound: unknown, or another tenant's.
            JobWrongState: it is in no such state, or no longer.
        """

        def queued(job: Job) -> Job:
            if job.state not in REQUEUEABLE:
                raise JobWrongState(state=job.state, wanted="requeue")
            return job.requeue(by=cause.actor, now=self._now())

        return await self._change(tenant, job_id, queued, cause)

    async def _change(self, tenant: str, job_id: str, move: Callable[[Job], Job], cause: Cause) -> Job:
        for number in range(MAX_TRIES):
            if (job := await self.get(tenant, job_id)) is None:
                raise JobNotFound
            if (after := move(job)) is job:
                return job
            try:
                return await self._write(job, after, cause)
            except WriteConflict:
                await _pause(number)
        raise StoreUnavailable("contention")

    async def _write(self, before: Job, after: Job, cause: Cause | None) -> Job:
        """Write, with its event where there is a cause; of a lost answer look whether the store holds `after`."""
        change = table.update_of(job_item(before), job_item(after))
        version = {":version": table.encode_value(before.version)}
        key = table.job_key(before.tenant, before.id)
        update = self._client.update(key, change, "version = :version", version)
        try:
            if cause is None:
                await self._client.call("update_item", **update["Update"])
            else:
                await self._transact(update, await self._event(before, after, cause))
        except StoreUnavailable:
            if await self.get(after.tenant, after.id) != after:
                raise
        return after

    async def _transact(self, write: dict[str, Any], event: dict[str, Any]) -> None:
        """Raises WriteConflict: someone else moved the job first, or is at it; nothing was written."""
        try:
            await self._client.transact(write, event)
        except TransactionRefused as refused:
            raise (refused.failure() or WriteConflict(refused.reasons[0].item)) from refused

    async def _event(self, before: Job | None, after: Job, cause: Cause) -> dict[str, Any]:
        return self._events.note(
            cause,
            subject=f"job:{after.id}",
            before=None if before is None else json.dumps({"state": before.state}),
            after=json.dumps(told(after)),
            version=after.version,
            tenant=after.tenant,
            now=self._clock(),
            shards=await self._tenants.shards(after.tenant),
            error=after.error if after.state in ENDED else None,
        )

    async def _alike(self, tenant: str, kind: Kind, params: Mapping[str, str], requested_by: str) -> Job | None:
        """One that waits. Not another key's: with that key's permission it would go."""
        rows, _ = await self.page(tenant, JobState.QUEUED, limit=LOOK_THROUGH)
        now = self._clock()  # one that waits after a failure is not what "now" means
        alike = (
            job
            for job in rows
            if (job.kind, job.params) == (kind, params)
            and job.due_at <= now
            and (job.answers_for_it == requested_by or key_id_of(job.answers_for_it) is None)
        )
        if (hint := next(alike, None)) is None:
            return None
        present = await self.get(tenant, hint.id)
        return present if present is not None and present.state is JobState.QUEUED else None

    def _of(self, tenant: str, state: JobState) -> dict[str, Any]:
        """The arguments of a query for a state's jobs."""
        partition, now = table.job_partition(tenant, state), self._now()
        return {
            "IndexName": self._client.table.status_index,
            "KeyConditionExpression": "gsi1pk = :partition",
            "FilterExpression": _UNARCHIVED,
            "ExpressionAttributeNames": {"#ttl": "ttl"},
            "ExpressionAttributeValues": table.encode({":partition": partition, ":now": now}),
        }

    def _now(self) -> int:
        return int(self._clock())


def _end_of(job: Job) -> Cause | None:
    """The cause of a job's end, None where it has not ended: the rest is no event."""
    if job.state not in ENDED:
        return None
    return Cause(actor=WORKER, action=Action.END_JOB, request_id=job.request_id)


def _runs_by(leased: Job, present: Job) -> bool:
    return present.state is JobState.RUNNING and present.lease_token == leased.lease_token


async def _pause(number: int) -> None:
    await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
