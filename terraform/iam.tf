# Who may do what at AWS. Two roles a process: the *task* role is what its code may call, the *execution* role what ECS
# needs to start it. The API's code may call the table and nothing else: its secrets are given to it at the start, by
# its execution role. The only `*` is ecr:GetAuthorizationToken's, for which IAM knows no resource.

locals {
  # Transactions need the actions of what is in them. Scan is asked for once, of one item, at the first start on a table.
  table_actions = [
    "dynamodb:BatchGetItem",
    "dynamodb:ConditionCheckItem",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:Scan",
    "dynamodb:UpdateItem",
  ]
  index_actions = ["dynamodb:Query"]
  pull_actions  = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
  log_actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]

  read_by_code  = { api = [], worker = local.worker_secret_arns }
  read_at_start = { api = local.api_secret_arns, worker = [] }
}

data "aws_iam_policy_document" "ecs" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }

    condition {
      test     = "ArnLike"
      variable = "aws:SourceArn"
      values   = ["arn:${data.aws_partition.current.partition}:ecs:${var.region}:${data.aws_caller_identity.current.account_id}:*"]
    }
  }
}

resource "aws_iam_role" "task" {
  for_each = local.images

  name               = "${var.name}-${each.key}-task"
  description        = "What the code of the ${each.key} may call"
  assume_role_policy = data.aws_iam_policy_document.ecs.json
}

resource "aws_iam_role_policy" "task" {
  for_each = local.images

  name   = "task"
  role   = aws_iam_role.task[each.key].name
  policy = data.aws_iam_policy_document.task[each.key].json
}

data "aws_iam_policy_document" "task" {
  for_each = local.images

  statement {
    sid       = "Table"
    actions   = local.table_actions
    resources = [local.table_arn]
  }

  statement {
    sid       = "Indexes"
    actions   = local.index_actions
    resources = local.index_arns
  }

  dynamic "statement" {
    for_each = length(local.read_by_code[each.key]) > 0 ? [local.read_by_code[each.key]] : []
    content {
      sid       = "Secrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = statement.value
    }
  }
}

resource "aws_iam_role" "execution" {
  for_each = local.images

  name               = "${var.name}-${each.key}-execution"
  description        = "What ECS needs to start the ${each.key}"
  assume_role_policy = data.aws_iam_policy_document.ecs.json
}

resource "aws_iam_role_policy" "execution" {
  for_each = local.images

  name   = "execution"
  role   = aws_iam_role.execution[each.key].name
  policy = data.aws_iam_policy_document.execution[each.key].json
}

data "aws_iam_policy_document" "execution" {
  for_each = local.images

  statement {
    sid       = "Registry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Image"
    actions   = local.pull_actions
    resources = [aws_ecr_repository.image[each.key].arn]
  }

  statement {
    sid       = "Log"
    actions   = local.log_actions
    resources = ["${aws_cloudwatch_log_group.process[each.key].arn}:log-stream:${each.key}/*"]
  }

  dynamic "statement" {
    for_each = length(local.read_at_start[each.key]) > 0 ? [local.read_at_start[each.key]] : []
    content {
      sid       = "Secrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = statement.value
    }
  }
}

# The VPC's own record of what it refused.
data "aws_iam_policy_document" "flow_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["vpc-flow-logs.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

data "aws_iam_policy_document" "flow" {
  statement {
    actions   = local.log_actions
    resources = ["${aws_cloudwatch_log_group.flow.arn}:log-stream:*"]
  }

  statement {
    actions   = ["logs:DescribeLogStreams"]
    resources = [aws_cloudwatch_log_group.flow.arn]
  }
}

resource "aws_iam_role" "flow" {
  name               = "${var.name}-flow"
  description        = "Writes what the VPC refused"
  assume_role_policy = data.aws_iam_policy_document.flow_assume.json
}

resource "aws_iam_role_policy" "flow" {
  name   = "flow"
  role   = aws_iam_role.flow.name
  policy = data.aws_iam_policy_document.flow.json
}
