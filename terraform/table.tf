# The one table: keys, indexes, projection and TTL as broker/store/table.py has them (a test compares both).

locals {
  table_name = coalesce(var.table_name, var.name)
  table_arn  = "arn:${data.aws_partition.current.partition}:dynamodb:${var.region}:${data.aws_caller_identity.current.account_id}:table/${local.table_name}"
  indexes    = [local.built.core.DDB_GSI1_NAME, local.built.core.DDB_GSI2_NAME]
  index_arns = [for index in local.indexes : "${local.table_arn}/index/${index}"]

  # An allocation writes a claim, the sandbox, an event and a quota slot in one transaction, which doubles what a write costs:
  # 8 units, of items of up to 1 KB. The sandbox leaves a key of StatusIndex and takes another, and appears in
  # TrackIndex beside its event: 2 units each. The worker and the release that follows get as much again.
  warm = {
    table_writes = 10 * var.burst_allocations_per_sec * 2
    table_reads  = 10 * var.burst_allocations_per_sec
    index_writes = 4 * var.burst_allocations_per_sec * 2
    index_reads  = 10 * var.burst_allocations_per_sec
  }
  # What an on-demand table serves from its first second on. AWS refuses to warm below it.
  cold = { writes = 4000, reads = 12000 }

  warmed = {
    table = {
      WriteUnitsPerSecond = max(local.cold.writes, local.warm.table_writes)
      ReadUnitsPerSecond  = max(local.cold.reads, local.warm.table_reads)
    }
    index = {
      WriteUnitsPerSecond = max(local.cold.writes, local.warm.index_writes)
      ReadUnitsPerSecond  = max(local.cold.reads, local.warm.index_reads)
    }
  }
  needs_warming = local.warmed.table.WriteUnitsPerSecond > local.cold.writes
}

resource "aws_dynamodb_table" "main" {
  #checkov:skip=CKV_AWS_119:the account's AWS-managed key encrypts, and CloudTrail tells of its use; with a key of our own both task roles would need KMS, and a disabled key would take every allocation with it
  name         = local.table_name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "pk"
  range_key    = "sk"

  deletion_protection_enabled = var.deletion_protection

  dynamic "attribute" {
    for_each = toset(["pk", "sk", "gsi1pk", "gsi1sk", "gsi2pk", "gsi2sk"])
    content {
      name = attribute.value
      type = "S"
    }
  }

  global_secondary_index {
    name            = local.built.core.DDB_GSI1_NAME
    hash_key        = "gsi1pk"
    range_key       = "gsi1sk"
    projection_type = "ALL"
  }

  global_secondary_index {
    name            = local.built.core.DDB_GSI2_NAME
    hash_key        = "gsi2pk"
    range_key       = "gsi2sk"
    projection_type = "INCLUDE"
    non_key_attributes = [
      "tenant", "sandbox_id", "state", "version", "name", "external_id", "since", "holder", "track",
      "allocated_at", "expires_at", "actor", "action", "before", "after", "request_id",
    ]
  }

  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled = true # by the account's AWS-managed key
  }
}

# Warm throughput is not in this release of the AWS provider (5.100): the AWS CLI sets it. It only ever rises, so
# that a lower burst changes nothing here, and nothing at AWS.
resource "terraform_data" "warm_throughput" {
  count = local.needs_warming ? 1 : 0

  triggers_replace = { table = aws_dynamodb_table.main.arn, warmed = local.warmed }

  input = {
    table = local.warmed.table
    indexes = [
      for index in local.indexes : { Update = { IndexName = index, WarmThroughput = local.warmed.index } }
    ]
  }

  provisioner "local-exec" {
    interpreter = ["/bin/sh", "-ec"]
    command     = <<-EOT
      aws dynamodb update-table --region "$REGION" --table-name "$TABLE" --warm-throughput "$WARM_TABLE" \
        --global-secondary-index-updates "$WARM_INDEXES" --query TableDescription.TableStatus
      aws dynamodb wait table-exists --region "$REGION" --table-name "$TABLE"
    EOT
    environment = {
      REGION       = var.region
      TABLE        = aws_dynamodb_table.main.name
      WARM_TABLE   = jsonencode(self.input.table)
      WARM_INDEXES = jsonencode(self.input.indexes)
    }
  }
}
