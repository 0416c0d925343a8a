# Who may open a connection to whom. Names are resolved by the VPC's own resolver, which no group has to allow.

resource "aws_security_group" "alb" {
  name        = "${var.name}-alb"
  description = "The load balancer: from the callers, to the API"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-alb" }
}

resource "aws_security_group" "api" {
  name        = "${var.name}-api"
  description = "The API: from the load balancer, to the endpoints"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-api" }
}

resource "aws_security_group" "worker" {
  name        = "${var.name}-worker"
  description = "The worker: from nobody, to the provider and the endpoints"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-worker" }
}

resource "aws_security_group" "endpoints" {
  name        = "${var.name}-endpoints"
  description = "The interface endpoints: from API and worker"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-endpoints" }
}

resource "aws_vpc_security_group_ingress_rule" "alb" {
  for_each = { for pair in setproduct(var.allowed_cidrs, ["80", "443"]) : "${pair[0]} ${pair[1]}" => pair }

  #checkov:skip=CKV_AWS_260:port 80 answers with a redirect to https and with nothing else
  security_group_id = aws_security_group.alb.id
  description       = each.value[1] == "80" ? "redirected to https" : "https"
  cidr_ipv4         = each.value[0]
  ip_protocol       = "tcp"
  from_port         = tonumber(each.value[1])
  to_port           = tonumber(each.value[1])
}

resource "aws_vpc_security_group_egress_rule" "alb_api" {
  security_group_id            = aws_security_group.alb.id
  description                  = "requests and health checks"
  referenced_security_group_id = aws_security_group.api.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
}

resource "aws_vpc_security_group_ingress_rule" "api_alb" {
  security_group_id            = aws_security_group.api.id
  description                  = "requests and health checks"
  referenced_security_group_id = aws_security_group.alb.id
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
}

locals {
  tasks          = { api = aws_security_group.api.id, worker = aws_security_group.worker.id }
  collector_port = var.collector == null ? null : tonumber(regex("[0-9]+$", var.collector.endpoint))
}

resource "aws_vpc_security_group_egress_rule" "endpoints" {
  for_each = local.tasks

  security_group_id            = each.value
  description                  = "secrets, logs, images"
  referenced_security_group_id = aws_security_group.endpoints.id
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_security_group_egress_rule" "dynamodb" {
  for_each = local.tasks

  security_group_id = each.value
  description       = "the table"
  prefix_list_id    = aws_vpc_endpoint.dynamodb.prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  for_each = local.tasks

  security_group_id = each.value
  description       = "the images' layers"
  prefix_list_id    = aws_vpc_endpoint.s3.prefix_list_id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "collector" {
  for_each = var.collector == null ? {} : local.tasks

  security_group_id            = each.value
  description                  = "spans"
  referenced_security_group_id = var.collector.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.collector_port
  to_port                      = local.collector_port
}

resource "aws_vpc_security_group_egress_rule" "provider" {
  for_each = toset(var.provider_cidrs)

  security_group_id = aws_security_group.worker.id
  description       = "the provider"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  for_each = local.tasks

  security_group_id            = aws_security_group.endpoints.id
  description                  = each.key
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}
