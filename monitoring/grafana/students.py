"""What the dashboard shows first: is anything wrong, do students get sandboxes, how is the store, how the pool."""

from typing import Final

from monitoring.grafana.panel import TENANT, Panel, Row, greatest, quantiles, rate

ALLOCATE: Final = '{route="/v1/allocate"}'
SERVED: Final = "created|replayed"

NOW: Final = Row(
    "Is anything wrong?",
    (
        Panel(
            "Alerts that fire",
            "Normal: none. Each has a runbook in docs/runbooks that begins with its name.",
            (('max by (alertname, severity, tenant) (ALERTS{alertstate="firing"})', ""),),
            kind="table",
        ),
        Panel(
            "Leader",
            "Normal: 1. At 0 nothing is synced, expired or deleted; allocations go on. Alert NoLeader.",
            (("sum(worker_leader) or vector(0)", "workers that lead"),),
            kind="stat",
            green_from=1,
        ),
        Panel(
            "Mode",
            "Normal: open. The others are an operator's doing: sandbox-broker mode says whose and why.",
            (("max by (mode) (broker_mode) == 1", "{{mode}}"),),
            kind="stat",
            shows="name",
        ),
        Panel(
            "5xx, share of answers",
            "Normal: 0. A drained pool answers 503 too. Above 5 %: alert ApiErrors.",
            (
                (
                    '(sum(rate(broker_http_requests_total{route=~"/v1/.*",status=~"5.."}[$__rate_interval]))'
                    ' or vector(0)) / sum(rate(broker_http_requests_total{route=~"/v1/.*"}[$__rate_interval]))',
                    "5xx",
                ),
            ),
            unit="percentunit",
            kind="stat",
            red_from=0.05,
            none="no requests",
        ),
    ),
    height=6,
)

STUDENTS: Final = Row(
    "Do students get sandboxes?",
    (
        Panel(
            "Left in the pool",
            "Normal: more than one class takes. Below a tenth of the pool: alert PoolLow; refusals: PoolEmpty.",
            (greatest("broker_pool_sandboxes", more='status="available"'),),
        ),
        Panel(
            "Allocations a second, by outcome",
            "Normal: created when a workshop starts, replayed beside it. Everything else is a refusal.",
            (rate("broker_allocations_total", "outcome"),),
            unit="reqps",
        ),
        Panel(
            "Refusals, by reason",
            "Normal: none. no_sandboxes_available: the pool is empty; quota_exceeded: the tenant's limit; "
            "store_*: the store.",
            (rate("broker_allocations_total", "tenant, outcome", f'outcome!~"{SERVED}"'),),
            unit="reqps",
        ),
    ),
)

LATENCY: Final = Row(
    "How quickly?",
    (
        Panel(
            "Time of an allocation",
            "Normal: p99 below half a second, also when a class starts. Above 2.5 s: alert ApiSlow.",
            quantiles("broker_http_request_seconds", more=ALLOCATE),
            unit="s",
        ),
        Panel(
            "Requests a second, by status",
            "Normal: 2xx, some 409 when a pool runs out. Many 401: alert AuthFailures.",
            (rate("broker_http_requests_total", "status", tenant=False),),
            unit="reqps",
        ),
        Panel(
            "Releases, extensions, heartbeats, operations a second",
            "Normal: released follows created by a lab's length. Many not_sandbox_owner: alert OwnerMismatches.",
            (
                rate("broker_releases_total", "outcome"),
                (
                    "sum by (outcome) (rate(broker_extensions_total{" + TENANT + "}[$__rate_interval]))",
                    "extend {{outcome}}",
                ),
                (
                    "sum by (outcome) (rate(broker_heartbeats_total{" + TENANT + "}[$__rate_interval]))",
                    "beat {{outcome}}",
                ),
                rate("broker_operations_total", "operation, outcome"),
            ),
            unit="reqps",
        ),
        Panel(
            "Over a limit, a second",
            "Normal: none. student: one lab's script in a loop; address: strangers. Alert RateLimited.",
            (rate("broker_rate_limited_total", "scope", tenant=False),),
            unit="reqps",
        ),
    ),
)

STORE: Final = Row(
    "The store",
    (
        Panel(
            "Time of a store call",
            "Normal: p99 of some ten milliseconds. If this is slow, everything is.",
            quantiles("broker_store_call_seconds"),
            unit="s",
        ),
        Panel(
            "Store calls that did not succeed, a second",
            "Normal: TransactionRefused and WriteConflict, both lost races. StoreThrottled: alert of that name; "
            "StoreUnavailable: alert StoreFailing.",
            (rate("broker_store_errors_total", "kind", tenant=False),),
            unit="reqps",
        ),
        Panel(
            "Allocation's transactions and reads of the index, a second",
            "Normal: won, with a few sandbox_taken in a burst; a read of the index per 25 allocations. Many "
            "sandbox_taken: look whether each process knows of all API processes.",
            (
                rate("broker_allocation_transactions_total", "result", tenant=False),
                ("sum by (result) (rate(broker_candidate_refills_total[$__rate_interval]))", "index {{result}}"),
                ("broker_api_processes", "API processes that {{instance}} knows of"),
            ),
            unit="reqps",
        ),
    ),
)

POOL: Final = Row(
    "The pool",
    (
        Panel(
            "Sandboxes by state",
            "Normal: allocated rises and falls with the workshops, pending_deletion returns to 0 after each.",
            (greatest("broker_pool_sandboxes", "tenant, status", 'status!="deleted"'),),
        ),
        Panel(
            "Age of these numbers",
            "Normal: below two minutes. Above ten: alert PoolNumbersOld.",
            (("min by (tenant) (broker_pool_snapshot_age_seconds{" + TENANT + "})", "{{tenant}}"),),
            unit="s",
        ),
        Panel(
            "Vanished at the provider; tenants left out; snapshots read in 5 min",
            "Normal: 0 vanished, 0 left out, every snapshot read. Labs on vanished sandboxes are broken: alert "
            "SandboxVanished. Tenants beyond 200 are in no panel. failed: the store.",
            (
                greatest("broker_pool_missing"),
                ("max(broker_pool_tenants_left_out)", "tenants left out"),
                ("sum by (outcome) (increase(broker_pool_refreshes_total[5m]))", "snapshots {{outcome}}"),
            ),
        ),
    ),
)
