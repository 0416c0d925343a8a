"""What the leading worker says of itself: one item, so that an API can show it without reaching the worker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.store import table
from broker.store.client import StoreClient

SILENT_S: Final = 60
"""A report older than this is of a worker that nobody hears: it comes every five seconds, and clocks of two
hosts may be 30 s apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """The state of the worker that leads, at `at` (Unix seconds)."""

    at: int
    holder: str
    fence: int
    version: str
    provider: Mapping[str, str]  # each breaker and the pace of deletions, in words
    alerts: Mapping[str, str]  # those that are on -> what to do


class WorkerReports:
    def __init__(self, client: StoreClient) -> None:
        self._client = client

    async def read(self, tenant: str) -> WorkerReport | None:
        """One consistent read."""
        item = await self._client.get(table.report_key(tenant))
        if item is None:
            return None
        values = table.decode(item)
        return WorkerReport(
            at=values["at"],
            holder=values["holder"],
            fence=values["fence"],
            version=values["version"],
            provider=values["provider"],
            alerts=values["alerts"],
        )

    async def write(self, tenant: str, report: WorkerReport) -> None:
        """Keep the report.

        A fence tells leaders of one election apart. Where the last report is older than any leader lets one get,
        it is the last word of an election that is over, as a release that elects otherwise leaves it.

        Raises:
            WriteConflict: a later leader has reported; what one of the past has to say is of no use.
        """
        facts: dict[str, table.Value | None] = {
            "v": table.ITEM_VERSION,
            "at": report.at,
            "holder": report.holder,
            "fence": report.fence,
            "version": report.version,
            "provider": report.provider,
            "alerts": report.alerts,
        }
        update = self._client.update(
            table.report_key(tenant),
            table.update_of({}, table.encode(facts)),
            "attribute_not_exists(pk) OR fence <= :mine OR #at < :silent",
            {":mine": table.encode_value(report.fence), ":silent": table.encode_value(report.at - SILENT_S)},
        )["Update"]
        update["ExpressionAttributeNames"]["#at"] = "at"
        await self._client.call("update_item", **update)
