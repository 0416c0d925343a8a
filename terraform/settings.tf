# The broker's environment (broker/settings.py), spelled out: what runs is what stands here. A test compares the names and the values.

locals {
  public_cidrs = [for subnet in aws_subnet.public : subnet.cidr_block]

  # What follows from what is built, and is not for var.settings to change.
  built = {
    core = merge(
      {
        BROKER_ENV                    = "production"
        AWS_REGION                    = var.region
        DDB_TABLE_NAME                = local.table_name
        DDB_GSI1_NAME                 = "StatusIndex"
        DDB_GSI2_NAME                 = "TrackIndex"
        GRACEFUL_SHUTDOWN_TIMEOUT_SEC = tostring(var.drain_timeout_sec)
        TRACING                       = var.collector == null ? "off" : "otlp"
      },
      var.collector == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.collector.endpoint },
    )
    api = {
      API_HOST        = "0.0.0.0"
      API_PORT        = tostring(local.api_port)
      TRUSTED_PROXIES = join(",", local.public_cidrs) # the load balancer's: a caller's address is what it says
    }
    worker = merge(
      {
        WORKER_HOST          = "0.0.0.0"
        WORKER_PORT          = tostring(local.worker_port)
        CSP_BASE_URL         = var.provider_url
        CSP_API_TOKEN_SECRET = aws_secretsmanager_secret.worker["provider-token"].arn # read at call time: a new value needs no restart
      },
      local.services_enabled ? { NIOSXAAS_PASSWORD_SECRET = aws_secretsmanager_secret.worker["services-password"].arn } : {},
    )
  }

  # The broker's own defaults. var.settings changes them.
  defaults = {
    core = {
      BOOT_BUDGET_MS    = "5000"
      BOOT_TIMEOUT_SEC  = "10"
      BROKER_TENANT     = "default"
      DDB_SHARDS        = "4"
      LOG_LEVEL         = "INFO"
      STORE_CONNECTIONS = "64"
      STORE_DOOR        = "direct"
      STORE_TIMEOUT_SEC = "3"
    }
    api = {
      CORS_ALLOWED_ORIGINS      = ""
      DOCS_ENABLED              = "true"
      DRAIN_NOTICE_SEC          = "5"
      LAB_DURATION_HOURS        = "4"
      MAX_EXTENSION_HOURS       = "4"
      MAX_PER_HOLDER            = "5"
      META_ENABLED              = "true"
      RATE_LIMIT_PER_ADDRESS    = "60/minute"
      RATE_LIMIT_PER_CREDENTIAL = "5000/10 seconds"
      RATE_LIMIT_PER_STUDENT    = "60/minute"
      REQUEST_TIMEOUT_SEC       = "15"
    }
    worker = {
      AUTO_EXPIRY_INTERVAL_SEC   = "300"
      CLEANUP_CONCURRENCY        = "20"
      CLEANUP_FAILED_RETRY_HOURS = "6"
      CLEANUP_INTERVAL_SEC       = "300"
      CLEANUP_LEASE_SEC          = "30"
      CLEANUP_MAX_ATTEMPTS       = "8"
      CLEANUP_POLL_SEC           = "2"
      CLEANUP_RETRY_BASE_SEC     = "10"
      CLEANUP_RETRY_CAP_SEC      = "900"
      CSP_BREAKER_OPEN_SEC       = "15"
      CSP_DELETES_PER_SEC        = "10"
      CSP_DELETE_TIMEOUT_SEC     = "60"
      CSP_MAX_BODY_MB            = "8"
      CSP_PAGE_SIZE              = "500"
      CSP_READ_ATTEMPTS          = "5"
      CSP_READ_TIMEOUT_SEC       = "10"
      GAUGES_INTERVAL_SEC        = "60"
      GRACE_PERIOD_MINUTES       = "30"
      LEADER_LEASE_SEC           = "15"
      NIOSXAAS_EMAIL             = ""
      NIOSXAAS_ENABLED           = "false"
      NIOSXAAS_NAME_FILTER       = ""
      NIOSXAAS_SHADOW            = "true"
      NIOSXAAS_TIMEOUT_SEC       = "20"
      STALE_PURGE_AFTER_HOURS    = "24"
      STALE_PURGE_INTERVAL_SEC   = "3600"
      SYNC_INTERVAL_SEC          = "600"
    }
  }

  # Left out unless var.settings has them: unset, each follows another setting.
  optional = {
    core   = ["OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"]
    api    = []
    worker = ["CLEANUP_CONCURRENCY_MIN", "CSP_DELETES_PER_SEC_MIN", "NIOSXAAS_BASE_URL"]
  }

  settable = toset(flatten([for process in ["core", "api", "worker"] : concat(keys(local.defaults[process]), local.optional[process])]))

  services_enabled = lower(lookup(var.settings, "NIOSXAAS_ENABLED", "false")) == "true"

  environment = {
    for process in ["api", "worker"] : process => merge(
      local.defaults.core,
      local.defaults[process],
      {
        for variable, value in var.settings : variable => value
        if contains(concat(keys(local.defaults.core), local.optional.core, keys(local.defaults[process]), local.optional[process]), variable)
      },
      local.built.core,
      local.built[process],
    )
  }
}
