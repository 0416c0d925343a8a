"""A served simulator with a client at its door, for the tests."""

from dataclasses import dataclass
from typing import Any

import httpx

from simulator.simulation import Simulation

TOKEN = "test-token"


@dataclass
class Clock:
    """A clock that moves only when told to."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Simulated:
    url: str
    simulation: Simulation
    clock: Clock
    http: httpx.AsyncClient  # sends the token

    async def page(self, **parameters: Any) -> httpx.Response:
        return await self.http.get("/current_user/accounts", params=parameters)

    async def listed(self) -> list[dict[str, Any]]:
        answer = await self.page(_limit=1000)
        assert answer.status_code == 200
        return answer.json()["results"]

    async def sandboxes(self) -> list[dict[str, Any]]:
        """The usable ones, as a client of the provider picks them."""
        return [a for a in await self.listed() if a["account_type"] == "sandbox" and a["state"] == "active"]

    async def delete(self, account: dict[str, Any], **options: Any) -> httpx.Response:
        return await self.http.delete(f"/sandbox/accounts/{uuid_of(account)}", **options)

    async def switch(self, **changes: Any) -> dict[str, Any]:
        answer = await self.http.patch("/_simulator/faults", json=changes)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def inspected(self) -> dict[int, dict[str, Any]]:
        answer = await self.http.get("/_simulator/accounts")
        return {account["csp_id"]: account for account in answer.json()["results"]}

    async def journal(self, **parameters: Any) -> dict[str, Any]:
        return (await self.http.get("/_simulator/journal", params=parameters)).json()


def uuid_of(account: dict[str, Any]) -> str:
    return account["id"].removeprefix("identity/accounts/")
