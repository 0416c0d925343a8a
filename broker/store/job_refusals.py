"""The end of a job whose asker lost the permission: written with the event that says so, or not at all."""

import asyncio
import json
import random
from typing import Final

from broker.action import Action
from broker.errors import LeaseLost, StoreUnavailable
from broker.job import PERMISSION_REVOKED, Job, JobState, Progress
from broker.store import table
from broker.store.client import StoreClient, TransactionRefused
from broker.store.events import Cause, Events
from broker.store.job_items import job_item, told
from broker.store.jobs import MAX_TRIES, Jobs
from broker.store.tenants import Tenants

_PAUSE_S: Final = 0.02


class JobRefusals:
    """Ends leased jobs as refused."""

    def __init__(self, client: StoreClient, jobs: Jobs, tenants: Tenants, events: Events) -> None:
        self._client = client
        self._jobs = jobs
        self._tenants = tenants
        self._events = events

    async def write(self, leased: Job, why: str, progress: Progress, *, now: float) -> Job:
        """Write that a run ended so, by the lease's token, with its event. May be repeated.

        Raises:
            LeaseLost: someone else runs it: this end comes too late and is not written.
            StoreThrottled, StoreUnavailable: repeat.
        """
        for number in range(MAX_TRIES):
            present = await self._jobs.get(leased.tenant, leased.id)
            if present is None or present.lease_token != leased.lease_token:
                raise LeaseLost
            if present.state is not JobState.RUNNING:
                return present  # written by this very token: the answer was lost
            after = present.progressed(progress, now=int(now)).refuse(why=why, now=int(now))
            try:
                await self._write(present, after, why, now=now)
            except TransactionRefused as refused:  # a beat, or a request to cancel
                if failure := refused.failure():
                    raise failure from refused
                await asyncio.sleep(_PAUSE_S * number * random.random())  # noqa: S311  jitter
            else:
                return after
        raise StoreUnavailable("contention")

    async def _write(self, before: Job, after: Job, why: str, *, now: float) -> None:
        change = table.update_of(job_item(before), job_item(after))
        version = {":version": table.encode_value(before.version)}
        cause = Cause(
            actor="worker:jobs",
            action=Action.REFUSE_JOB,
            request_id=after.request_id,
            reason=f"{PERMISSION_REVOKED}: {why}",
        )
        await self._client.transact(
            self._client.update(table.job_key(after.tenant, after.id), change, "version = :version", version),
            self._events.note(
                cause,
                subject=f"job:{after.id}",
                before=json.dumps({"state": before.state}),
                after=json.dumps(told(after)),
                version=after.version,
                tenant=after.tenant,
                now=now,
                shards=await self._tenants.shards(after.tenant),
            ),
        )
