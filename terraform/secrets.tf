# Where the secrets are kept. Their values never pass through terraform: the operator puts them in (README), so that no
# state and no plan holds one.

locals {
  # By the environment variable that ECS gives it to the API as.
  api_secrets = {
    BROKER_API_TOKEN   = "api-token"
    BROKER_ADMIN_TOKEN = "admin-token"
    API_KEY_PEPPER     = "key-pepper"
  }
  # What the worker reads itself, each time that it may have changed.
  worker_secrets = merge(
    { provider-token = "provider-token" },
    local.services_enabled ? { services-password = "services-password" } : {},
    { for tenant in var.tenant_provider_secrets : "tenant ${tenant}" => "${tenant}/csp" },
  )

  api_secret_arns    = [for variable in sort(keys(local.api_secrets)) : aws_secretsmanager_secret.api[variable].arn]
  worker_secret_arns = [for key in sort(keys(local.worker_secrets)) : aws_secretsmanager_secret.worker[key].arn]
}

resource "aws_secretsmanager_secret" "api" {
  for_each = local.api_secrets

  #checkov:skip=CKV_AWS_149:the AWS-managed key encrypts; who may read is said role by role in iam.tf
  #checkov:skip=CKV2_AWS_57:a token is rotated by who gives it out, with its users (docs/keys.md), not by a timer
  name                    = "${var.name}/${each.value}"
  description             = "Given to the API as ${each.key}"
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret" "worker" {
  for_each = local.worker_secrets

  #checkov:skip=CKV_AWS_149:the AWS-managed key encrypts; who may read is said role by role in iam.tf
  #checkov:skip=CKV2_AWS_57:the provider gives these tokens out and no API of it rotates them; a new value is taken up without a restart
  name                    = "${var.name}/${each.value}"
  description             = "Read by the worker"
  recovery_window_in_days = 7
}
