"""A panel of the dashboard, and the queries that many of them ask."""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries` are pairs of expression and legend; `normal` says what a healthy broker shows."""

    title: str
    normal: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    red_from: float | None = None
    green_from: float | None = None  # red below
    shows: Literal["auto", "name"] = "auto"
    none: str = "none"  # what stands there where there are no series


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    across: int = 4  # panels beside each other
    height: int = 8


TENANT: Final = 'tenant=~"$tenant"'
PROCESS: Final = "{{job}} {{instance}}"


def legend_of(by: str) -> str:
    return " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(",") if label)


def rate(metric: str, by: str, more: str = "", *, tenant: bool = True) -> tuple[str, str]:
    """Counts a second, by labels, and a legend that names them."""
    labels = ",".join(part for part in (TENANT if tenant else "", more) if part)
    selector = f"{metric}{{{labels}}}" if labels else metric
    return f"sum by ({by}) (rate({selector}[$__rate_interval]))", legend_of(by)


def quantiles(
    metric: str, by: str = "", more: str = "", shares: tuple[float, ...] = (0.5, 0.9, 0.99)
) -> tuple[tuple[str, str], ...]:
    """p50, p90, p99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{more}[$__rate_interval])))",
            f"p{share * 100:.0f} {legend_of(by)}".rstrip(),
        )
        for share in (0.5, 0.9, 0.99)
    )


def greatest(metric: str, by: str = "tenant", more: str = "") -> tuple[str, str]:
    """A gauge that several processes show: the greatest of them, as a standby shows nothing or 0."""
    labels = ",".join(part for part in (TENANT, more) if part)
    return f"max by ({by}) ({metric}{{{labels}}})", legend_of(by)
