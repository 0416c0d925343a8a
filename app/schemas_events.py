"""The bodies of answers about events. Their names are public API."""

from typing import Any, Self

from pydantic import BaseModel, Field

from broker.store.event_log import Event

Before = str | dict[str, Any] | None


class EventOut(BaseModel):
    """A change: who made it, of what, from what to what, in which request, and why."""

    event_id: str = Field(
        description="Unique, and in the order of time.", examples=["1795255440123-9f8e7d6c5b-000042"]
    )
    at: int = Field(description="Unix seconds, UTC.", examples=[1_795_255_440])
    actor: str = Field(description="The credential, or the worker's own task.", examples=["worker:clean"])
    action: str = Field(description="What it was done by.", examples=["allocate"])
    sandbox_id: str | None = Field(None, description="The sandbox that it is about.", examples=["2009521"])
    subject: str | None = Field(
        None, description="What else it is about: `tenant`, `mode`, `job:<id>`.", examples=["mode"]
    )
    before: Before = Field(
        None, description="A sandbox's state, else an object; null: it was not there.", examples=["available"]
    )
    after: Before = Field(
        None, description="The same, after it. `removed`: the sandbox is forgotten.", examples=["allocated"]
    )
    version: int | None = Field(None, description="Of what was changed, after it: +1 with each write.")
    holder: str | None = Field(None, description="The student who holds the sandbox, or held it last.")
    track: str | None = Field(None, description="The lab of that student.")
    reason: str | None = Field(None, description="Why, where a person said so.")
    error: str | None = Field(None, description="The last failure of a deletion, or of a job.")
    request_id: str = Field(description="It finds the request, or the worker's run, in the log.")

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class EventListOut(BaseModel):
    """One page, newest first. `cursor` asks for the next one; null after the last."""

    events: list[EventOut]
    count: int = Field(description="Rows on this page. A page may be short, or empty, before the last.")
    cursor: str | None
