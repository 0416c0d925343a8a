# What the tasks need of AWS, without the internet. STS is not among it: a task's credentials come from ECS's own
# address on the host. Each endpoint lets through what the roles may do and no more, whoever's credentials are used.

locals {
  interface_endpoints = {
    secretsmanager = data.aws_iam_policy_document.endpoint_secrets.json
    logs           = data.aws_iam_policy_document.endpoint_logs.json
    "ecr.api"      = data.aws_iam_policy_document.endpoint_images.json
    "ecr.dkr"      = data.aws_iam_policy_document.endpoint_images.json
  }
}

resource "aws_vpc_endpoint" "dynamodb" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${var.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat([aws_route_table.api.id], [for table in aws_route_table.worker : table.id])
  policy            = data.aws_iam_policy_document.endpoint_table.json

  tags = { Name = "${var.name}-dynamodb" }
}

resource "aws_vpc_endpoint" "s3" { # ECR keeps the images' layers there
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat([aws_route_table.api.id], [for table in aws_route_table.worker : table.id])
  policy            = data.aws_iam_policy_document.endpoint_layers.json

  tags = { Name = "${var.name}-s3" }
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_endpoints

  vpc_id              = aws_vpc.main.id
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for subnet in aws_subnet.api : subnet.id]
  security_group_ids  = [aws_security_group.endpoints.id]
  policy              = each.value

  tags = { Name = "${var.name}-${each.key}" }
}

data "aws_iam_policy_document" "endpoint_table" {
  statement {
    actions   = local.table_actions
    resources = [local.table_arn]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }

  statement {
    actions   = local.index_actions
    resources = local.index_arns
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}

data "aws_iam_policy_document" "endpoint_secrets" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = concat(local.api_secret_arns, local.worker_secret_arns)
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}

data "aws_iam_policy_document" "endpoint_logs" {
  statement {
    actions   = local.log_actions
    resources = [for process in keys(local.images) : "${aws_cloudwatch_log_group.process[process].arn}:log-stream:${process}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}

data "aws_iam_policy_document" "endpoint_images" {
  statement {
    actions   = local.pull_actions
    resources = [for repository in aws_ecr_repository.image : repository.arn]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }

  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # IAM knows no resource for it
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}

data "aws_iam_policy_document" "endpoint_layers" {
  statement {
    actions   = ["s3:GetObject"]
    resources = ["arn:${data.aws_partition.current.partition}:s3:::prod-${var.region}-starport-layer-bucket/*"] # ECR's own
    principals {
      type        = "*"
      identifiers = ["*"]
    }
  }
}
