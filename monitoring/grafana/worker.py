"""What the dashboard shows of the worker's work and of all processes; each panel says what is normal."""

from typing import Final

from monitoring.grafana.panel import PROCESS, TENANT, Panel, Row, greatest, quantiles, rate

OURS: Final = "and on (job, instance) broker_event_loop_lag_seconds"
"""Of all processes that a Prometheus scrapes, the broker's."""

DELETIONS: Final = Row(
    "Deletions",
    (
        Panel(
            "Pending, and under way",
            "Normal: a hill after each workshop, gone within minutes. Above 100 for long: alert DeletionBacklog.",
            (
                ("max by (tenant) (worker_deletions_pending{" + TENANT + "})", "pending {{tenant}}"),
                ("max by (tenant) (worker_deletions_running{" + TENANT + "})", "under way {{tenant}}"),
            ),
        ),
        Panel(
            "The oldest one",
            "Normal: minutes. Above an hour: alert DeletionStuck.",
            (greatest("worker_deletions_oldest_seconds"),),
            unit="s",
        ),
        Panel(
            "Sandboxes a second, by what a duty did",
            "Normal: clean deleted follows expire expired and the releases; the others are retries and failures.",
            (rate("worker_job_sandboxes_total", "duty, outcome"),),
        ),
        Panel(
            "Failed for good; alerts of the worker itself",
            "Normal: 0. Tried again by themselves after 6 h; sandbox-broker dead-letters says why they failed.",
            (
                ("max by (tenant) (broker_pool_sandboxes{" + TENANT + ',status="deletion_failed"})', "{{tenant}}"),
                ("max by (tenant, alert) (worker_alert_active{" + TENANT + "})", "{{alert}} {{tenant}}"),
            ),
        ),
    ),
)

PROVIDER: Final = Row(
    "The provider",
    (
        Panel(
            "Calls and errors a second",
            "Normal: calls with hardly an error; deletions that fail now and then are tried again.",
            (
                rate("worker_provider_calls_total", "tenant, call"),
                (
                    "sum by (tenant, call, kind) (rate(worker_provider_errors_total{"
                    + TENANT
                    + "}[$__rate_interval]))",
                    "{{tenant}} {{call}} {{kind}}",
                ),
            ),
            unit="reqps",
        ),
        Panel(
            "Time of a call, p99",
            "Normal: a deletion takes 5 to 10 s, a page of the listing a second. 60 s is the deadline.",
            quantiles("worker_provider_call_seconds", "call", shares=(0.99,)),
            unit="s",
        ),
        Panel(
            "Breaker: 0 closed, 1 half-open, 2 open",
            "Normal: 0. Open for five minutes: alert BreakerOpen. It closes by itself when the provider is back.",
            (
                greatest("worker_breaker_state", "tenant, endpoint"),
                (
                    "sum by (tenant, endpoint, to) (increase(worker_breaker_transitions_total{"
                    + TENANT
                    + "}[5m]))",
                    "turned {{to}} in 5 min {{tenant}} {{endpoint}}",
                ),
            ),
        ),
        Panel(
            "Pacing: deletions a second and at once; calls held back",
            "Normal: CSP_DELETES_PER_SEC (10) and CLEANUP_CONCURRENCY (20). Halved while the provider struggles.",
            (
                ("max by (tenant) (worker_pacing_rate{" + TENANT + "})", "a second {{tenant}}"),
                ("max by (tenant) (worker_pacing_concurrency{" + TENANT + "})", "at once {{tenant}}"),
                (
                    "sum by (tenant, call, why) (rate(worker_provider_refusals_total{"
                    + TENANT
                    + "}[$__rate_interval]))",
                    "held back {{tenant}} {{call}} {{why}}",
                ),
            ),
        ),
        Panel(
            "Services and secrets, counts in 5 min",
            "Normal: secrets read ok each minute where one rotates; services only where NIOSXAAS_ENABLED. failed: "
            "look at the worker's log.",
            (
                ("sum by (outcome) (increase(worker_services_total[5m]))", "services {{outcome}}"),
                ("sum by (secret, outcome) (increase(worker_secret_reads_total[5m]))", "{{secret}} {{outcome}}"),
            ),
        ),
    ),
    across=3,
)

SYNC: Final = Row(
    "The provider's listing",
    (
        Panel(
            "Since the last sync that succeeded",
            "Normal: below SYNC_INTERVAL_SEC (10 min). Above an hour: alert SyncOverdue.",
            (
                (
                    'time() - max by (tenant) (worker_job_last_success_timestamp_seconds{duty="sync",'
                    + TENANT
                    + "})",
                    "{{tenant}}",
                ),
            ),
            unit="s",
        ),
        Panel(
            "Listing not believed",
            "Normal: 0. At 1 too much is missing and nobody goes stale: alert SyncNotBelieved.",
            (greatest("worker_sync_guard_active"),),
        ),
        Panel(
            "Accounts by what they are to us; unusable entries",
            "Normal: nothing unexplained for longer than a sync. sandbox-broker reconcile names them.",
            (
                greatest("worker_provider_accounts", "tenant, explained"),
                (
                    "sum by (why) (increase(worker_provider_invalid_accounts_total[1h]))",
                    "unusable in 1 h: {{why}}",
                ),
            ),
        ),
        Panel(
            "Unexplained for",
            "Normal: 0, or minutes. Above an hour: alert UnexplainedAccounts.",
            (greatest("worker_provider_unexplained_seconds"),),
            unit="s",
        ),
    ),
)

JOBS: Final = Row(
    "Duties and jobs of the worker",
    (
        Panel(
            "Duties that did not end well, in 5 min",
            "Normal: none. failed: store or provider, the next tick tries again; crashed: a bug, its traceback is "
            "in the log.",
            (
                (
                    "sum by (tenant, duty, outcome) (increase(worker_job_runs_total{"
                    + TENANT
                    + ',outcome!="ok"}[5m]))',
                    "{{tenant}} {{duty}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Time of a duty, p99",
            "Normal: below its interval; a sync takes seconds for a thousand accounts.",
            quantiles("worker_job_seconds", "duty", shares=(0.99,)),
            unit="s",
        ),
        Panel(
            "Requested jobs: waiting, running, dead",
            "Normal: waiting goes down. dead: alert JobDied, and sandbox-broker dead-letters.",
            (
                ("max by (tenant) (worker_jobs_queued{" + TENANT + "})", "waiting {{tenant}}"),
                ("max by (tenant) (worker_jobs_running{" + TENANT + "})", "running {{tenant}}"),
                (
                    "sum by (tenant, kind, why) (increase(worker_job_deaths_total{" + TENANT + "}[15m]))",
                    "dead in 15 min {{tenant}} {{kind}} {{why}}",
                ),
            ),
        ),
        Panel(
            "Time of a requested job, p99",
            "Normal: seconds for a sync, minutes for hundreds of sandboxes.",
            quantiles("worker_requested_job_seconds", "kind, state", shares=(0.99,)),
            unit="s",
        ),
    ),
)

PROCESSES: Final = Row(
    "The processes",
    (
        Panel(
            "How late the event loop wakes up",
            "Normal: some milliseconds. What it is late, everybody waits who is served by that process.",
            (("max by (job, instance) (broker_event_loop_lag_seconds)", PROCESS),),
            unit="s",
        ),
        Panel(
            "Stalls of the event loop in 15 min",
            "Normal: none. More than three of over a second: alert EventLoopStalls.",
            (("sum by (job, instance) (increase(broker_event_loop_stalls_total[15m]))", PROCESS),),
        ),
        Panel(
            "Memory",
            "Normal: flat, 100 to 200 MB. What climbs for days is a leak.",
            ((f"process_resident_memory_bytes {OURS}", PROCESS),),
            unit="bytes",
        ),
        Panel(
            "Processor, share of one",
            "Normal: far below 1: a process uses one core at the most. An API near 1 needs another beside it.",
            ((f"rate(process_cpu_seconds_total[$__rate_interval]) {OURS}", PROCESS),),
            unit="percentunit",
        ),
        Panel(
            "Open files, of what it may open",
            "Normal: below half. A process that reaches 100 % takes no connection.",
            ((f"process_open_fds / process_max_fds {OURS}", PROCESS),),
            unit="percentunit",
        ),
        Panel(
            "Boot: all of it, its phases, boots that failed before it",
            "Normal: below 5 s, none failed. Above: alert BootSlow. After 10 s a boot is killed and tried again.",
            (
                ("max by (job, instance) (broker_boot_seconds)", PROCESS),
                ("max by (job, phase) (broker_boot_phase_seconds)", "{{job}} {{phase}}"),
                ("max by (job, instance) (broker_boot_failures)", "failed before {{job}} {{instance}}"),
            ),
            unit="short",
        ),
        Panel(
            "Spans in 15 min, by what became of them",
            "Normal: none (TRACING=off), or delivered alone. undelivered: the collector; queue_full: sample less.",
            (
                (
                    "sum by (job, instance, outcome) (increase(broker_spans_total[15m]))",
                    "{{outcome}} {{job}} {{instance}}",
                ),
            ),
        ),
        Panel(
            "Up for",
            "Normal: since the last deployment. Falls to 0 again and again: it restarts, its log says why.",
            ((f"time() - process_start_time_seconds {OURS}", PROCESS),),
            unit="s",
        ),
    ),
    across=3,
)
