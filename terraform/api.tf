# The API: the stable release, and beside it a canary where one is named. Each has its own tasks and its own scaling.

locals {
  lanes = merge(
    local.released ? { stable = var.image_tag } : {},
    var.canary_image_tag != null ? { canary = var.canary_image_tag } : {},
  )
  api_services = { stable = "api", canary = "api-canary" }
}

resource "aws_ecs_task_definition" "api" {
  for_each = local.lanes

  family                   = "${var.name}-${local.api_services[each.key]}"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = local.sizes.api.cpu
  memory                   = local.sizes.api.memory
  task_role_arn            = aws_iam_role.task["api"].arn
  execution_role_arn       = aws_iam_role.execution["api"].arn
  skip_destroy             = true # earlier revisions are what a rollback goes back to

  container_definitions = jsonencode([merge(local.container.api, {
    image   = "${aws_ecr_repository.image["api"].repository_url}:${each.value}"
    secrets = [for variable in sort(keys(local.api_secrets)) : { name = variable, valueFrom = aws_secretsmanager_secret.api[variable].arn }]
  })])

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }
}

resource "aws_ecs_service" "api" {
  for_each = local.lanes

  name             = local.api_services[each.key]
  cluster          = aws_ecs_cluster.main.id
  task_definition  = aws_ecs_task_definition.api[each.key].arn
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  desired_count    = var.api_tasks.min
  propagate_tags   = "SERVICE"

  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = local.start_sec
  availability_zone_rebalancing      = "ENABLED"

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  alarms { # a release that starts well and then crashes goes back as well
    enable      = true
    rollback    = true
    alarm_names = [aws_cloudwatch_metric_alarm.main["api-crashes"].alarm_name]
  }

  network_configuration {
    subnets          = [for subnet in aws_subnet.api : subnet.id]
    security_groups  = [aws_security_group.api.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.api[each.key].arn
    container_name   = "api"
    container_port   = local.api_port
  }

  lifecycle {
    ignore_changes = [desired_count] # the load decides
  }

  # A task that starts without them would fail, and count against its release.
  depends_on = [
    aws_iam_role_policy.task, aws_iam_role_policy.execution, aws_lb_listener.https,
    aws_vpc_endpoint.dynamodb, aws_vpc_endpoint.s3, aws_vpc_endpoint.interface,
  ]
}

resource "aws_appautoscaling_target" "api" {
  for_each = local.lanes

  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.main.name}/${aws_ecs_service.api[each.key].name}"
  min_capacity       = var.api_tasks.min
  max_capacity       = var.api_tasks.max
}

# A course that starts is over before any scaling takes hold: the fewest tasks bear it. This is for what lasts.
resource "aws_appautoscaling_policy" "api" {
  for_each = local.lanes

  name               = "${local.api_services[each.key]}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.api[each.key].service_namespace
  scalable_dimension = aws_appautoscaling_target.api[each.key].scalable_dimension
  resource_id        = aws_appautoscaling_target.api[each.key].resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 50
    scale_out_cooldown = 30
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}
