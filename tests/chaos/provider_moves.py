"""What the provider does, and the time."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from simulator.faults import Faults
from tests.chaos.machine import (
    HOUR,
    MINUTE,
    Machine,
    move,
    ranks,
)

HEALTHY = Faults(delete_latency_s=0)
LIES: Mapping[str, Mapping[str, Any]] = {
    "honest": {},
    "empty": {"empty_listing": True},
    "half": {"listing_fraction": 0.5},
    "duplicates": {"duplicate_entries": 2},
    "lag": {"listing_lag_s": 3.0 * HOUR},
    "broken entries": {"list_garbage": "missing_fields"},
    "no JSON": {"list_garbage": "not_json"},
    "breaks off": {"fail_list_page": 2},
    "down": {"list_500_rate": 1.0},
}
MISHAPS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "500": {"delete_500_rate": 1.0},
    "html": {"delete_html_rate": 1.0},
    "429": {"delete_429_rate": 1.0},
    "reset, deleted": {"delete_reset_rate": 1.0, "reset_deletes": True},
    "hang, deleted": {"delete_hang_rate": 1.0, "hang_deletes": True},
    "some": {"delete_500_rate": 0.3, "delete_html_rate": 0.2, "delete_reset_rate": 0.2},
    "a proxy says ok": {"delete_garbage": "html200"},
}


class ProviderMoves(Machine):
    """It adds and changes accounts, lies, and fails."""

    @move(2, name=st.sampled_from([None, "lab-network-0001", "lab-network-0002"]))
    def the_provider_adds_an_account(self, name: str | None) -> None:
        self.step()
        self.world.simulation.inventory.add(now=self.world.clock.now, name=name)

    @move(2, rank=ranks, what=st.sampled_from(["rename", "hide", "vanish", "disable", "enable"]))
    def the_provider_changes_an_account(self, rank: int, what: str) -> None:
        """`vanish`: somebody deletes it behind our back."""
        self.step()
        simulation, csp_id = self.world.simulation, int(self.an_id(rank))
        match what:
            case "rename":
                simulation.inventory.change(csp_id, name=f"lab-renamed-{self.steps:04d}")
            case "hide":
                hidden = {*simulation.faults.hidden_accounts, csp_id}
                simulation.faults = simulation.faults.changed({"hidden_accounts": sorted(hidden)})
            case "vanish":
                simulation.inventory.delete(csp_id, now=self.world.clock.now)
            case _:
                simulation.inventory.change(csp_id, state=f"{what}d" if what == "disable" else "active")

    @move(
        2,
        lie=st.sampled_from([None, *sorted(LIES)]),
        mishap=st.sampled_from([None, *sorted(MISHAPS)]),
        rank=st.none() | ranks,
    )
    def the_provider_misbehaves(self, lie: str | None, mishap: str | None, rank: int | None) -> None:
        """From now on: its listing, its deletions, or those of one account."""
        self.step()
        if lie is not None:
            self._switch({name for changes in LIES.values() for name in changes} | {"hidden_accounts"}, LIES[lie])
        if mishap is not None:
            self._switch({name for changes in MISHAPS.values() for name in changes}, MISHAPS[mishap])
        if rank is not None:
            self._switch({"failing_accounts"}, {"failing_accounts": [int(self.an_id(rank))]})

    def _switch(self, names: set[str], changes: Mapping[str, Any]) -> None:
        simulation, healthy = self.world.simulation, HEALTHY.shown()
        before = {name: list(v) if isinstance(v := healthy[name], tuple) else v for name in names}
        simulation.faults = simulation.faults.changed(before | dict(changes))

    @move(2, seconds=st.sampled_from([10 * MINUTE, 5 * HOUR, 25 * HOUR, 8 * 24 * HOUR]))
    def time_passes(self, seconds: int) -> None:
        self.world.jump(seconds)
