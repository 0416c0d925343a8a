"""The metrics of one process: names, units and bounded labels. Built once, in wiring."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class Metrics:
    """Counters and histograms. Labels hold outcomes, operations and route templates: never an id."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        r = self.registry = CollectorRegistry()
        self.requests = Counter(
            "broker_http_requests_total",
            "Requests by route template and status.",
            ["route", "method", "status"],
            registry=r,
        )
        self.request_s = Histogram(
            "broker_http_request_seconds",
            "Time to answer, by route template.",
            ["route"],
            buckets=_FAST,
            registry=r,
        )
        self.allocations = Counter(
            "broker_allocations_total", "Allocation requests by outcome.", ["tenant", "outcome"], registry=r
        )
        self.releases = Counter(
            "broker_releases_total", "Release requests by outcome.", ["tenant", "outcome"], registry=r
        )
        self.allocation_transactions = Counter(
            "broker_allocation_transactions_total",
            "Write transactions of allocations: won, or what refused them.",
            ["result"],
            registry=r,
        )
        self.candidate_refills = Counter(
            "broker_candidate_refills_total",
            "Reads of the index for candidates, by result.",
            ["result"],
            registry=r,
        )
        self.store_s = Histogram(
            "broker_store_call_seconds", "Time of a store call.", ["operation"], buckets=_FAST, registry=r
        )
        self.store_errors = Counter(
            "broker_store_errors_total",
            "Store calls that did not succeed, lost races included.",
            ["operation", "kind"],
            registry=r,
        )
        self.rate_limited = Counter(
            "broker_rate_limited_total", "Requests refused by a limit, by its scope.", ["scope"], registry=r
        )
        self.loop_lag_s = Gauge(
            "broker_event_loop_lag_seconds", "How late the event loop woke up, last sample.", registry=r
        )
        self.loop_stalls = Counter(
            "broker_event_loop_stalls_total", "Times the event loop stood still for over 1 s.", registry=r
        )
        self.job_runs = Counter("worker_job_runs_total", "Job runs by outcome.", ["job", "outcome"], registry=r)
        self.job_s = Histogram("worker_job_seconds", "Time of a job run.", ["job"], buckets=_SLOW, registry=r)
        self.job_last_success = Gauge(
            "worker_job_last_success_timestamp_seconds", "When the job last succeeded.", ["job"], registry=r
        )
        self.job_items = Counter(
            "worker_job_sandboxes_total", "What jobs did with sandboxes.", ["job", "outcome"], registry=r
        )
        self.provider_s = Histogram(
            "worker_provider_call_seconds", "Time of a provider call.", ["call"], buckets=_SLOW, registry=r
        )
        self.provider_errors = Counter(
            "worker_provider_errors_total",
            "Provider calls that failed, by kind.",
            ["call", "kind"],
            registry=r,
        )
        self.deletions_running = Gauge(
            "worker_deletions_running", "Deletions at the provider under way.", registry=r
        )
