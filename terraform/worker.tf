# The worker: one. A new one starts after the old one has ended, so that two never overlap by design; the leader's
# lease in the table is for when they do all the same (docs/adr/0009).

resource "aws_ecs_task_definition" "worker" {
  count = local.released ? 1 : 0

  family                   = "${var.name}-worker"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = local.sizes.worker.cpu
  memory                   = local.sizes.worker.memory
  task_role_arn            = aws_iam_role.task["worker"].arn
  execution_role_arn       = aws_iam_role.execution["worker"].arn
  skip_destroy             = true # earlier revisions are what a rollback goes back to

  container_definitions = jsonencode([merge(local.container.worker, {
    image = "${aws_ecr_repository.image["worker"].repository_url}:${coalesce(var.worker_image_tag, var.image_tag)}"
  })])

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }
}

resource "aws_ecs_service" "worker" {
  count = local.released ? 1 : 0

  name             = "worker"
  cluster          = aws_ecs_cluster.main.id
  task_definition  = aws_ecs_task_definition.worker[0].arn
  launch_type      = "FARGATE"
  platform_version = "LATEST"
  desired_count    = 1
  propagate_tags   = "SERVICE"

  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100
  availability_zone_rebalancing      = "DISABLED" # it would start the new one first

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = [for subnet in aws_subnet.worker : subnet.id]
    security_groups  = [aws_security_group.worker.id]
    assign_public_ip = false
  }

  depends_on = [
    aws_iam_role_policy.task, aws_iam_role_policy.execution, aws_route.provider,
    aws_vpc_endpoint.dynamodb, aws_vpc_endpoint.s3, aws_vpc_endpoint.interface,
  ]
}
