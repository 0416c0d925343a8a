"""Whether whoever asked for a job may still have it done: asked before it begins, and while it runs."""

from collections.abc import Callable

from broker.job import NEEDED_ROLE, Job, Progress
from broker.key import KeyState, key_id_of
from broker.role import IMPLIED
from broker.store.job_refusals import JobRefusals
from broker.store.keys import Keys


class Permissions:
    """Looks up the key that answers for a job. A bootstrap token is good as long as it is set."""

    def __init__(self, keys: Keys, refusals: JobRefusals, *, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._refusals = refusals
        self._clock = clock

    async def lost(self, job: Job) -> str | None:
        """Why the job may not run, None where it may. One consistent read where a key asked for it.

        Raises:
            StoreThrottled, StoreUnavailable: it is not known.
        """
        if (key_id := key_id_of(job.answers_for_it)) is None:
            return None
        now = self._clock()
        key = await self._keys.get(key_id, now=now)
        if key is None or key.tenant != job.tenant:
            return f"there is no key {key_id} of this tenant"
        if (state := key.state(now)) is not KeyState.LIVE:
            return f"key {key_id} is {state}"
        if (needed := NEEDED_ROLE[job.kind]) not in IMPLIED[key.role]:
            return f"key {key_id} has the role {key.role}, and this needs {needed}"
        return None

    async def refuse(self, leased: Job, why: str, progress: Progress) -> Job:
        """End a leased job for it, with an event.

        Raises:
            LeaseLost: someone else runs it.
            StoreThrottled, StoreUnavailable: repeat.
        """
        return await self._refusals.write(leased, why, progress, now=self._clock())
