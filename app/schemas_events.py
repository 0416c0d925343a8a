"""The bodies of answers about events. Their names are public API."""

from collections.abc import Mapping
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
    actor_name: str | None = Field(
        None,
        description="What people call it, where it is an API key of yours.",
        examples=["kubernetes-101 tracks"],
    )
    action: str = Field(description="What it was done by: see the parameter `action`.", examples=["allocate"])
    sandbox_id: str | None = Field(None, description="The sandbox that it is about.", examples=["2009521"])
    subject: str | None = Field(
        None, description="What else it is about: `tenant`, `mode`, `job:<id>`, `key:<id>`.", examples=["mode"]
    )
    subject_name: str | None = Field(None, description="What people call it, where it is an API key of yours.")
    before: Before = Field(
        None, description="A sandbox's state, else an object; null: it was not there.", examples=["available"]
    )
    after: Before = Field(
        None, description="The same, after it. `removed`: the sandbox is forgotten.", examples=["allocated"]
    )
    version: int | None = Field(None, description="Of what was changed, after it: +1 with each write.")
    holder: str | None = Field(None, description="The student who holds the sandbox, or held it last.")
    track: str | None = Field(None, description="The lab of that student.")
    expires_at: int | None = Field(
        None,
        description="When the allocation ends, after the change: Unix seconds, UTC.",
        examples=[1_795_269_840],
    )
    expires_at_before: int | None = Field(
        None, description="When it was to end, where the change has moved that: an `extend`."
    )
    reason: str | None = Field(None, description="Why, where a person said so.")
    error: str | None = Field(None, description="The last failure of a deletion, or of a job.")
    request_id: str = Field(description="It finds the request, or the worker's run, in the log.")

    @classmethod
    def of(cls, event: Event, names: Mapping[str, str]) -> Self:
        """`names`: of the keys that are in it, by credential."""
        told = {name: getattr(event, name) for name in cls.model_fields if not name.endswith("_name")}
        return cls(**told, actor_name=names.get(event.actor), subject_name=names.get(event.subject or ""))


class EventListOut(BaseModel):
    """One page, newest first. `cursor` asks for the next one; null after the last."""

    events: list[EventOut]
    count: int = Field(description="Rows on this page. A page may be short, or empty, before the last.")
    cursor: str | None
