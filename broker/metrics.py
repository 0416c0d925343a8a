"""The metrics of one process: names, units and bounded labels. Built once, in wiring."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class Metrics:
    """Counters and histograms. Labels hold outcomes, operations and route templates: never an id.

    None is called `job` or `instance`: these are the scraper's, and Prometheus renames ours when they meet.
    """

    def __init__(self, *, of_worker: bool = True) -> None:  # noqa: PLR0915  a list
        disable_created_metrics()  # type: ignore[no-untyped-call]
        r = self.registry = CollectorRegistry()
        ProcessCollector(registry=r)  # processor time, memory, open files: six numbers from /proc; elsewhere none
        w = r if of_worker else None  # an API that shows a worker's numbers shows zeros that mean nothing
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
        self.extensions = Counter(
            "broker_extensions_total", "Extension requests by outcome.", ["tenant", "outcome"], registry=r
        )
        self.heartbeats = Counter(
            "broker_heartbeats_total", "Signs of life of holders by outcome.", ["tenant", "outcome"], registry=r
        )
        self.operations = Counter(
            "broker_operations_total",
            "What operators did by hand, by outcome.",
            ["tenant", "operation", "outcome"],
            registry=r,
        )
        self.mode = Gauge(
            "broker_mode", "1 for the mode in force as this process last read it.", ["mode"], registry=r
        )
        self.allocation_transactions = Counter(
            "broker_allocation_transactions_total",
            "Write transactions of allocations: won, or what refused them.",
            ["result"],
            registry=r,
        )
        self.peers = Gauge(
            "broker_api_processes",
            "API processes that share the pools out, as this one has heard: all should say the same.",
            registry=None if of_worker else r,  # a worker takes no part in it, and would say 0
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
        self.spans = Counter(
            "broker_spans_total",
            "Spans by what became of them: delivered to the collector, undelivered, or queue_full.",
            ["outcome"],
            registry=r,
        )
        self.boot_s = Gauge(
            "broker_boot_seconds", "From the process's start until it was ready; 0 while it is not.", registry=r
        )
        self.boot_phase_s = Gauge(
            "broker_boot_phase_seconds", "Time of each phase of the boot.", ["phase"], registry=r
        )
        self.boot_failures = Gauge(
            "broker_boot_failures", "Boots in a row that failed before the one of this process.", registry=r
        )
        self.leader = Gauge("worker_leader", "1 while this worker leads, 0 while it stands by.", registry=w)
        self.sync_guard = Gauge(
            "worker_sync_guard_active",
            "1 while the last listing is not believed: nobody is taken for missing.",
            ["tenant"],
            registry=w,
        )
        self.accounts = Gauge(
            "worker_provider_accounts",
            "Accounts of the last listing, by what they are to us.",
            ["tenant", "explained"],
            registry=w,
        )
        self.unexplained_s = Gauge(
            "worker_provider_unexplained_seconds",
            "Age of the account that has been unexplained for longest, 0 where there is none.",
            ["tenant"],
            registry=w,
        )
        self.alert_active = Gauge(
            "worker_alert_active",
            "1 while the alert is on (see worker/alerts.py).",
            ["tenant", "alert"],
            registry=w,
        )
        self.deletion_depth = Gauge(
            "worker_deletions_pending",
            "Sandboxes whose deletion is pending, as last counted.",
            ["tenant"],
            registry=w,
        )
        self.deletion_oldest_s = Gauge(
            "worker_deletions_oldest_seconds",
            "How long the oldest deletion has been pending.",
            ["tenant"],
            registry=w,
        )
        self.job_runs = Counter(
            "worker_job_runs_total",
            "Runs of the worker's duties by outcome.",
            ["tenant", "duty", "outcome"],
            registry=w,
        )
        self.job_s = Histogram("worker_job_seconds", "Time of a duty's run.", ["duty"], buckets=_SLOW, registry=w)
        self.job_last_success = Gauge(
            "worker_job_last_success_timestamp_seconds",
            "When the duty last succeeded.",
            ["tenant", "duty"],
            registry=w,
        )
        self.job_items = Counter(
            "worker_job_sandboxes_total",
            "What duties did with sandboxes.",
            ["tenant", "duty", "outcome"],
            registry=w,
        )
        self.provider_s = Histogram(
            "worker_provider_call_seconds", "Time of a provider call.", ["call"], buckets=_SLOW, registry=w
        )
        self.provider_calls = Counter(
            "worker_provider_calls_total", "Provider calls that were made.", ["tenant", "call"], registry=w
        )
        self.provider_errors = Counter(
            "worker_provider_errors_total",
            "Provider calls that failed, by kind.",
            ["tenant", "call", "kind"],
            registry=w,
        )
        self.deletions_running = Gauge(
            "worker_deletions_running", "Deletions at the provider under way.", ["tenant"], registry=w
        )
        self.provider_refusals = Counter(
            "worker_provider_refusals_total",
            "Provider calls that were not made, by what refused them.",
            ["tenant", "call", "why"],
            registry=w,
        )
        self.invalid_accounts = Counter(
            "worker_provider_invalid_accounts_total",
            "Entries of listings that cannot be a sandbox, by what is wrong.",
            ["why"],
            registry=w,
        )
        self.breaker_state = Gauge(
            "worker_breaker_state",
            "State of a breaker at the provider: 0 closed, 1 half-open, 2 open.",
            ["tenant", "endpoint"],
            registry=w,
        )
        self.breaker_turns = Counter(
            "worker_breaker_transitions_total",
            "Turns of a breaker, by the state it turned to.",
            ["tenant", "endpoint", "to"],
            registry=w,
        )
        self.pacing_concurrency = Gauge(
            "worker_pacing_concurrency", "Deletions that may be under way at once, now.", ["tenant"], registry=w
        )
        self.pacing_rate = Gauge(
            "worker_pacing_rate", "Deletions that may start in a second, now.", ["tenant"], registry=w
        )
        self.services = Counter(
            "worker_services_total", "In-sandbox services before a deletion, by outcome.", ["outcome"], registry=w
        )
        self.secret_reads = Counter(
            "worker_secret_reads_total",
            "Reads of rotating secrets, by outcome.",
            ["secret", "outcome"],
            registry=w,
        )
        self.jobs_running = Gauge(
            "worker_jobs_running", "Requested jobs under way in this worker.", ["tenant"], registry=w
        )
        self.jobs_queued = Gauge(
            "worker_jobs_queued",
            "Requested jobs that wait, up to the 200 that are looked at.",
            ["tenant"],
            registry=w,
        )
        self.job_deaths = Counter(
            "worker_job_deaths_total",
            "Requested jobs that nobody tries again: failed, killed their worker, timed out, permission lost.",
            ["tenant", "kind", "why"],
            registry=w,
        )
        self.requested_job_s = Histogram(
            "worker_requested_job_seconds",
            "Time of one attempt at a requested job, by the state it ended in.",
            ["kind", "state"],
            buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
            registry=w,
        )
