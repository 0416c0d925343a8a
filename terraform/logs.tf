# Log groups, and the numbers that are read out of the processes' JSON lines. A test holds every filter against the
# lines that the code writes.

resource "aws_cloudwatch_log_group" "process" {
  for_each = local.images

  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every log group; the lines are masked and hold no secret
  #checkov:skip=CKV_AWS_338:who had which sandbox is kept as events; lines are for finding out what went wrong, and 90 days are enough for that (log_retention_days)
  name              = "/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
}

resource "aws_cloudwatch_log_group" "flow" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every log group; these hold addresses of refused packets
  #checkov:skip=CKV_AWS_338:refused packets are of interest on the day
  name              = "/${var.name}/refused"
  retention_in_days = var.log_retention_days
}

resource "aws_cloudwatch_log_group" "waf" {
  #checkov:skip=CKV_AWS_158:CloudWatch encrypts every log group; the credential is left out
  #checkov:skip=CKV_AWS_338:refused requests are of interest on the day
  name              = "aws-waf-logs-${var.name}" # WAF takes no other prefix
  retention_in_days = var.log_retention_days
}

locals {
  # value: what is measured, 1 where lines are counted. tenant: whether each tenant has its own series.
  filters = {
    BootMs = {
      processes = ["api", "worker"]
      pattern   = "{ $.event = \"ready\" && $.boot_ms = * }"
      value     = "$.boot_ms"
      tenant    = false
    }
    BootFailures = { # what took longer than BOOT_TIMEOUT_SEC was ended, and was never ready
      processes = ["api", "worker"]
      pattern   = "{ $.event = \"boot failed*\" || $.event = \"boot hung*\" }"
      value     = "1"
      tenant    = false
    }
    AccessDenied = {
      processes = ["api", "worker"]
      pattern   = "{ $.why = \"*AccessDenied*\" || $.why = \"*UnrecognizedClient*\" || $.traceback = \"*AccessDenied*\" }"
      value     = "1"
      tenant    = false
    }
    Errors = {
      processes = ["api", "worker"]
      pattern   = "{ $.level = \"error\" || $.level = \"critical\" }"
      value     = "1"
      tenant    = false
    }
    HealthFailures = {
      processes = ["api"]
      pattern   = "{ $.event = \"request\" && $.status >= 500 && ($.route = \"/readyz\" || $.route = \"/healthz\") }"
      value     = "1"
      tenant    = false
    }
    Crashes = {
      processes = ["api"]
      pattern   = "{ $.event = \"request crashed\" }"
      value     = "1"
      tenant    = false
    }
    CredentialsRefused = {
      processes = ["api"]
      pattern   = "{ $.event = \"request\" && $.status = 401 }"
      value     = "1"
      tenant    = false
    }
    PoolCounts = {
      processes = ["worker"]
      pattern   = "{ $.event = \"pool counted\" }"
      value     = "1"
      tenant    = false
    }
    PoolAvailable = {
      processes = ["worker"]
      pattern   = "{ $.event = \"pool counted\" && $.available >= 0 }"
      value     = "$.available"
      tenant    = true
    }
    AlertsFired = {
      processes = ["worker"]
      pattern   = "{ $.event = \"alert fired\" }"
      value     = "1"
      tenant    = false
    }
  }

  filters_by_process = merge([
    for metric, filter in local.filters : {
      for process in filter.processes : "${process} ${metric}" => merge(filter, { metric = metric, process = process })
    }
  ]...)
}

resource "aws_cloudwatch_log_metric_filter" "main" {
  for_each = local.filters_by_process

  name           = each.value.metric
  log_group_name = aws_cloudwatch_log_group.process[each.value.process].name
  pattern        = each.value.pattern

  metric_transformation {
    namespace  = var.name
    name       = each.value.metric
    value      = each.value.value
    dimensions = each.value.tenant ? { Tenant = "$.tenant" } : null
  }
}
