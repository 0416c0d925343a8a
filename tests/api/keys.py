"""API keys for tests: made as the routes make them, and sent as callers send them."""

from typing import Any

from app.key_desk import Made
from broker.role import Role
from broker.tenant import Limits, Tenant
from tests.api.service import Api
from tests.builders import NOW, TEST_CAUSE


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def a_tenant(api: Api, name: str, **limits: Any) -> None:
    await api.core.tenants.create(Tenant(name=name, limits=Limits(**limits)), TEST_CAUSE, now=NOW)


async def made_key(
    api: Api, tenant: str = "acme", role: Role = Role.TRACK, changes: dict[str, Any] | None = None
) -> Made:
    """A live key, unless `changes` say otherwise."""
    values: dict[str, Any] = {"lasts_s": None} | (changes or {})
    made: Made = await api.app.state.parts.key_desk.create(tenant, role, "a test's", cause=TEST_CAUSE, **values)
    return made
