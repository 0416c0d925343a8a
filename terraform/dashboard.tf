# One screen for the night: are there sandboxes, do requests get through, do the processes live, does the table keep up.

locals {
  charts = [
    {
      title   = "Available sandboxes, by tenant"
      stat    = "Minimum"
      metrics = [[{ expression = "SEARCH('{${var.name},Tenant} MetricName=\"PoolAvailable\"', 'Minimum', 60)", id = "pools" }]]
    },
    {
      title = "Requests, and what the load balancer answered itself"
      stat  = "Sum"
      metrics = [
        ["AWS/ApplicationELB", "RequestCount", "LoadBalancer", aws_lb.main.arn_suffix],
        [".", "HTTPCode_Target_4XX_Count", ".", "."],
        [".", "HTTPCode_Target_5XX_Count", ".", "."],
        [".", "HTTPCode_ELB_5XX_Count", ".", "."],
      ]
    },
    {
      title   = "Time to answer, 99th percentile (s)"
      stat    = "p99"
      metrics = [["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", aws_lb.main.arn_suffix]]
    },
    {
      title = "API tasks"
      stat  = "Maximum"
      metrics = concat([
        for lane, group in aws_lb_target_group.api :
        ["AWS/ApplicationELB", "HealthyHostCount", "TargetGroup", group.arn_suffix, "LoadBalancer", aws_lb.main.arn_suffix, { label = "${lane} healthy" }]
        ], [
        for lane, group in aws_lb_target_group.api :
        ["AWS/ApplicationELB", "UnHealthyHostCount", "TargetGroup", group.arn_suffix, "LoadBalancer", aws_lb.main.arn_suffix, { label = "${lane} unhealthy" }]
      ])
    },
    {
      title = "CPU and memory (%)"
      stat  = "Maximum"
      metrics = [
        for pair in setproduct(["api", "worker"], ["CPUUtilization", "MemoryUtilization"]) :
        ["AWS/ECS", pair[1], "ClusterName", var.name, "ServiceName", pair[0]]
      ]
    },
    {
      title = "The table: units consumed a minute"
      stat  = "Sum"
      metrics = [
        ["AWS/DynamoDB", "ConsumedWriteCapacityUnits", "TableName", local.table_name],
        [".", "ConsumedReadCapacityUnits", ".", "."],
        [".", "WriteThrottleEvents", ".", "."],
        [".", "ReadThrottleEvents", ".", "."],
      ]
    },
    {
      title   = "From the logs"
      stat    = "Sum"
      metrics = [for metric, filter in local.filters : [var.name, metric] if filter.value == "1"]
    },
    {
      title   = "Turned away by WAF"
      stat    = "Sum"
      metrics = [for rule in ["address", "common", "known-bad-inputs"] : ["AWS/WAFV2", "BlockedRequests", "WebACL", var.name, "Region", var.region, "Rule", "${var.name}-${rule}"]]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "main" {
  dashboard_name = var.name
  dashboard_body = jsonencode({
    widgets = concat(
      [
        for index, chart in local.charts : {
          type   = "metric"
          x      = 12 * (index % 2)
          y      = 6 * floor(index / 2)
          width  = 12
          height = 6
          properties = {
            title   = chart.title, stat = chart.stat, period = 60, region = var.region, view = "timeSeries"
            metrics = chart.metrics
          }
        }
      ],
      [
        {
          type   = "log"
          x      = 0
          y      = 6 * ceil(length(local.charts) / 2)
          width  = 24
          height = 8
          properties = {
            title  = "What went wrong last"
            region = var.region
            view   = "table"
            query  = "SOURCE '/${var.name}/api' | SOURCE '/${var.name}/worker' | fields at, process, level, event, tenant, why, request_id | filter level in ['warning', 'error', 'critical'] | sort @timestamp desc | limit 50"
          }
        },
      ],
    )
  })
}
