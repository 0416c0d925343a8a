# What wakes somebody. Each says what it means, where to look first, and its runbook (book).

locals {
  alb_dimensions    = { LoadBalancer = aws_lb.main.arn_suffix }
  stable_dimensions = merge(local.alb_dimensions, { TargetGroup = aws_lb_target_group.api["stable"].arn_suffix })
  canary_dimensions = merge(local.alb_dimensions, { TargetGroup = aws_lb_target_group.api["canary"].arn_suffix })
  service_dimensions = {
    for process in ["api", "worker"] : process => { ClusterName = var.name, ServiceName = process }
  }

  # The worker counts at least this often; five counts that do not come are not a slow one.
  silent_sec = max(300, 60 * ceil(5 * tonumber(lookup(var.settings, "GAUGES_INTERVAL_SEC", "60")) / 60))

  # above: the threshold is exceeded; below: fallen short of. for_min: how many minutes, or periods of `period_sec`, in a row.
  # silence: what no data means. percentile: in the place of a statistic.
  alarms = merge(
    {
      "api-no-healthy-task" = {
        says      = "No API task is healthy: nobody gets a sandbox. First: aws ecs describe-services --cluster ${var.name} --services api --query 'services[0].events[:5]'"
        book      = "api-failing"
        namespace = "AWS/ApplicationELB", metric = "HealthyHostCount", dimensions = local.stable_dimensions
        statistic = "Maximum", below = 1, above = null, period_sec = 60, periods = 2, silence = "breaching"
      }
      "worker-no-task" = {
        says      = "The worker does not run: nothing is synced, expired or deleted; allocations go on. First: aws ecs describe-services --cluster ${var.name} --services worker --query 'services[0].events[:5]'"
        book      = "leader-lost"
        namespace = "ECS/ContainerInsights", metric = "RunningTaskCount", dimensions = local.service_dimensions.worker
        statistic = "Maximum", below = 1, above = null, period_sec = 60, periods = 2, silence = "breaching"
      }
      "worker-silent" = {
        says      = "The worker counts no pool: it does not lead, or does not reach the table. First: aws logs tail /${var.name}/worker --since 15m"
        book      = "leader-lost"
        namespace = var.name, metric = "PoolCounts", dimensions = {}
        statistic = "Sum", below = 1, above = null, period_sec = local.silent_sec, periods = 1, silence = "breaching"
      }
      "boot-slow" = {
        says      = "A process took over 10 s to boot. First: aws logs filter-log-events --log-group-name /${var.name}/api --filter-pattern '{ $.boot_ms = * }' (phases_ms says where the time went)"
        book      = "api-failing"
        namespace = var.name, metric = "BootMs", dimensions = {}
        statistic = "Maximum", below = null, above = 10000, period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "boot-failed" = {
        says      = "A process failed to boot, or was ended as its boot hung (BOOT_TIMEOUT_SEC, 10 s). First: aws logs filter-log-events --log-group-name /${var.name}/api --filter-pattern '\"boot\"' (and of /${var.name}/worker)"
        book      = "api-failing"
        namespace = var.name, metric = "BootFailures", dimensions = {}
        statistic = "Sum", below = null, above = 0, period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "api-memory" = {
        says      = "The API uses over 80 % of its memory. First: the dashboard; a restart helps for now: aws ecs update-service --cluster ${var.name} --service api --force-new-deployment"
        book      = "api-failing"
        namespace = "AWS/ECS", metric = "MemoryUtilization", dimensions = local.service_dimensions.api
        statistic = "Maximum", below = null, above = 80, period_sec = 60, periods = 3, silence = "notBreaching"
      }
      "worker-memory" = {
        says      = "The worker uses over 80 % of its memory. First: the dashboard; a restart helps for now: aws ecs update-service --cluster ${var.name} --service worker --force-new-deployment"
        book      = "leader-lost"
        namespace = "AWS/ECS", metric = "MemoryUtilization", dimensions = local.service_dimensions.worker
        statistic = "Maximum", below = null, above = 80, period_sec = 60, periods = 3, silence = "notBreaching"
      }
      "health-failures" = {
        says      = "More than 5 health checks in 5 minutes were answered with an error. First: aws logs tail /${var.name}/api --since 15m --filter-pattern '{ $.level = \"warning\" || $.level = \"error\" }'"
        book      = "api-failing"
        namespace = var.name, metric = "HealthFailures", dimensions = {}
        statistic = "Sum", below = null, above = 5, period_sec = 300, periods = 1, silence = "notBreaching"
      }
      "api-unhealthy-task" = { # a task that hangs answers no health check, and logs none
        says      = "An API task has been unhealthy for 5 minutes and was not replaced. First: aws ecs describe-services --cluster ${var.name} --services api --query 'services[0].events[:5]'"
        book      = "api-failing"
        namespace = "AWS/ApplicationELB", metric = "UnHealthyHostCount", dimensions = local.stable_dimensions
        statistic = "Maximum", below = null, above = 0, period_sec = 60, periods = 5, silence = "notBreaching"
      }
      "access-denied" = {
        says      = "AWS denied a call: a role's policy and the code do not fit, or an endpoint's. First: aws logs filter-log-events --log-group-name /${var.name}/api --filter-pattern AccessDenied (and of /${var.name}/worker)"
        book      = "store-throttled"
        namespace = var.name, metric = "AccessDenied", dimensions = {}
        statistic = "Sum", below = null, above = 0, period_sec = 300, periods = 1, silence = "notBreaching"
      }
      "credentials-refused" = {
        says      = "Over 100 requests in 5 minutes with a wrong token: a script with an old one, or somebody who tries. First: aws logs tail /${var.name}/api --since 15m --filter-pattern '{ $.status = 401 }'"
        book      = "key-leaked"
        namespace = var.name, metric = "CredentialsRefused", dimensions = {}
        statistic = "Sum", below = null, above = 100, period_sec = 300, periods = 1, silence = "notBreaching"
      }
      "api-crashes" = { # also sends a deployment back (api.tf)
        says      = "The API crashed in over 5 requests in a minute: a bug of ours. First: aws logs tail /${var.name}/api --since 15m --filter-pattern '{ $.event = \"request crashed\" }'"
        book      = "api-failing"
        namespace = var.name, metric = "Crashes", dimensions = {}
        statistic = "Sum", below = null, above = 5, period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "api-unreachable" = {
        says      = "The load balancer itself answered over 20 requests in 5 minutes with 502, 503 or 504. First: sandbox-broker status; aws logs tail /${var.name}/api --since 15m"
        book      = "api-failing"
        namespace = "AWS/ApplicationELB", metric = "HTTPCode_ELB_5XX_Count", dimensions = local.alb_dimensions
        statistic = "Sum", below = null, above = 20, period_sec = 300, periods = 1, silence = "notBreaching"
      }
      "alert-fired" = {
        says      = "The worker told of trouble with deletions; its line says what to do. First: aws logs tail /${var.name}/worker --since 15m --filter-pattern '{ $.event = \"alert fired\" }'"
        book      = "provider-down"
        namespace = var.name, metric = "AlertsFired", dimensions = {}
        statistic = "Sum", below = null, above = 0, period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "table-writes" = {
        says      = "The table takes over 80 % of the writes that it is warm for. Raise burst_allocations_per_sec before the next course, and look what writes: sandbox-broker status"
        book      = "store-throttled"
        namespace = "AWS/DynamoDB", metric = "ConsumedWriteCapacityUnits", dimensions = { TableName = local.table_name }
        statistic = "Sum", below = null, above = floor(0.8 * 60 * local.warmed.table.WriteUnitsPerSecond), period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "table-reads" = {
        says      = "The table takes over 80 % of the reads that it is warm for. Look what reads: sandbox-broker status"
        book      = "store-throttled"
        namespace = "AWS/DynamoDB", metric = "ConsumedReadCapacityUnits", dimensions = { TableName = local.table_name }
        statistic = "Sum", below = null, above = floor(0.8 * 60 * local.warmed.table.ReadUnitsPerSecond), period_sec = 60, periods = 1, silence = "notBreaching"
      }
      "table-throttled" = {
        says      = "DynamoDB throttles writes of the table: allocations answer 503 and are repeated by the scripts. First: the dashboard; is it one hot partition, or the whole?"
        book      = "store-throttled"
        namespace = "AWS/DynamoDB", metric = "WriteThrottleEvents", dimensions = { TableName = local.table_name }
        statistic = "Sum", below = null, above = 0, period_sec = 60, periods = 1, silence = "notBreaching"
      }
    },
    {
      for index in local.indexes : "${lower(index)}-writes" => {
        says      = "${index} takes over 80 % of the writes that it is warm for. Raise burst_allocations_per_sec before the next course"
        book      = "store-throttled"
        namespace = "AWS/DynamoDB", metric = "ConsumedWriteCapacityUnits", dimensions = { TableName = local.table_name, GlobalSecondaryIndexName = index }
        statistic = "Sum", below = null, above = floor(0.8 * 60 * local.warmed.index.WriteUnitsPerSecond), period_sec = 60, periods = 1, silence = "notBreaching"
      }
    },
    {
      for index in local.indexes : "${lower(index)}-throttled" => {
        says      = "DynamoDB throttles writes of ${index}, and with it the table's. More shards for the largest tenant (DDB_SHARDS), or a larger burst_allocations_per_sec"
        book      = "store-throttled"
        namespace = "AWS/DynamoDB", metric = "WriteThrottleEvents", dimensions = { TableName = local.table_name, GlobalSecondaryIndexName = index }
        statistic = "Sum", below = null, above = 0, period_sec = 60, periods = 1, silence = "notBreaching"
      }
    },
    # What bin/canary goes back at. Its share of the requests is small: a release that fails or is slow only there would
    # hide in the numbers of all, and a task that answers each student with 503 is healthy to the load balancer.
    {
      for alarm, what in {
        "canary-errors" = {
          says      = "The canary answered over 2 requests in 5 minutes with 5xx. First: bin/canary back (it goes back by itself where it runs); then aws logs tail /${var.name}/api --since 15m --filter-pattern '{ $.status >= 500 }'"
          namespace = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", dimensions = local.canary_dimensions
          statistic = "Sum", below = null, above = 2, period_sec = 300, periods = 1, silence = "notBreaching", percentile = null
          book      = "api-failing"
        }
        "canary-slow" = {
          says      = "One in twenty of the canary's answers took over a second, for 3 minutes. First: bin/canary back (it goes back by itself where it runs); then the dashboard"
          namespace = "AWS/ApplicationELB", metric = "TargetResponseTime", dimensions = local.canary_dimensions
          statistic = null, below = null, above = 1, period_sec = 60, periods = 3, silence = "notBreaching", percentile = "p95"
          book      = "api-failing"
        }
      } : alarm => what if var.canary_image_tag != null
    },
    {
      for tenant, least in var.pool_low : "pool-low-${tenant}" => {
        says      = "Tenant ${tenant} has fewer than ${least} available sandboxes. First: sandbox-broker status; then sandbox-broker sync, or more accounts from the provider"
        book      = "pool-empty"
        namespace = var.name, metric = "PoolAvailable", dimensions = { Tenant = tenant }
        statistic = "Minimum", below = least, above = null, period_sec = local.silent_sec, periods = 1, silence = "notBreaching"
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "main" {
  for_each = { for alarm, what in local.alarms : alarm => what if local.released }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.says}\nRunbook: docs/runbooks/${each.value.book}.md"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  extended_statistic  = try(each.value.percentile, null)
  period              = each.value.period_sec
  evaluation_periods  = each.value.periods
  comparison_operator = each.value.above != null ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = each.value.above != null ? each.value.above : each.value.below
  treat_missing_data  = each.value.silence

  evaluate_low_sample_count_percentiles = try(each.value.percentile, null) == null ? null : "ignore" # one slow answer of three says little

  alarm_actions = [aws_sns_topic.alarms.arn]
  ok_actions    = [aws_sns_topic.alarms.arn]
}

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:CloudWatch cannot publish to a topic under the AWS-managed key; what passes are names of alarms
  name = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

data "aws_iam_policy_document" "alarms" {
  statement {
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

# Of the whole account: a budget of tagged costs alone stays silent until somebody has activated the tag for billing.
resource "aws_budgets_budget" "month" {
  name         = "${var.name}-month"
  budget_type  = "COST"
  limit_amount = tostring(var.monthly_budget_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  notification {
    notification_type         = "ACTUAL"
    comparison_operator       = "GREATER_THAN"
    threshold                 = 80
    threshold_type            = "PERCENTAGE"
    subscriber_sns_topic_arns = [aws_sns_topic.alarms.arn]
  }

  notification {
    notification_type         = "FORECASTED"
    comparison_operator       = "GREATER_THAN"
    threshold                 = 100
    threshold_type            = "PERCENTAGE"
    subscriber_sns_topic_arns = [aws_sns_topic.alarms.arn]
  }

  depends_on = [aws_sns_topic_policy.alarms]
}
