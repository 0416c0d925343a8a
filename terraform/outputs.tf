output "load_balancer_name" {
  description = "DNS name of the load balancer: the target of the record for the certificate's name."
  value       = aws_lb.main.dns_name
}

output "load_balancer_zone" {
  description = "Hosted zone of the load balancer, for an alias record in Route 53."
  value       = aws_lb.main.zone_id
}

output "https_listener_arn" {
  description = "The listener whose weights a canary moves."
  value       = aws_lb_listener.https.arn
}

output "target_group_arns" {
  description = "Target groups of the API, by lane: stable, canary."
  value       = { for lane, group in aws_lb_target_group.api : lane => group.arn }
}

output "table_name" {
  description = "The table (DDB_TABLE_NAME)."
  value       = aws_dynamodb_table.main.name
}

output "repositories" {
  description = "Where the images of api and worker are pushed to."
  value       = { for process, repository in aws_ecr_repository.image : process => repository.repository_url }
}

output "secret_names" {
  description = "The secrets whose values the operator puts in, by what reads them."
  value = merge(
    { for variable, secret in aws_secretsmanager_secret.api : variable => secret.name },
    { for key, secret in aws_secretsmanager_secret.worker : key => secret.name },
  )
}

output "cluster_name" {
  description = "The ECS cluster."
  value       = aws_ecs_cluster.main.name
}

output "service_names" {
  description = "The services that run in it."
  value       = concat([for service in aws_ecs_service.api : service.name], aws_ecs_service.worker[*].name)
}

output "task_role_arns" {
  description = "What the code of api and worker may call, by process."
  value       = { for process, role in aws_iam_role.task : process => role.arn }
}

output "log_groups" {
  description = "Where api and worker log, by process."
  value       = { for process, group in aws_cloudwatch_log_group.process : process => group.name }
}

output "alarm_topic_arn" {
  description = "The topic of all alarms, for a pager's subscription."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_url" {
  description = "The dashboard."
  value       = "https://${var.region}.console.aws.amazon.com/cloudwatch/home?region=${var.region}#dashboards/dashboard/${aws_cloudwatch_dashboard.main.dashboard_name}"
}

output "worker_addresses" {
  description = "The addresses that the worker calls the provider from, for the provider's allow list."
  value       = sort([for address in aws_eip.nat : address.public_ip])
}

output "region" {
  description = "AWS region of everything."
  value       = var.region
}

output "registry" {
  description = "The registry of the repositories, for docker login."
  value       = split("/", aws_ecr_repository.image["api"].repository_url)[0]
}
