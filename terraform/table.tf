# The one table: keys, indexes, projection and TTL as broker/store/table.py has them (a test compares both).

locals {
  table_name = coalesce(var.table_name, var.name)
  table_arn  = "arn:${data.aws_partition.current.partition}:dynamodb:${var.region}:${data.aws_caller_identity.current.account_id}:table/${local.table_name}"
  indexes    = [local.built.core.DDB_GSI1_NAME, local.built.core.DDB_GSI2_NAME]
  index_arns = [for index in local.indexes : "${local.table_arn}/index/${index}"]

  # An allocation writes a claim, the sandbox, an event and under a quota a slot in one transaction, which doubles what
  # a write costs: 8 units, of items of up to 1 KB. The sandbox leaves a key of StatusIndex and takes another, and
  # appears in TrackIndex beside its event: 2 units each (`make bench ARGS=units`). And a quarter to spare; what the
  # worker deletes comes later, and slower. Reads are few: what a table has from its first second on is enough.
  warm = {
    table_writes = 10 * var.burst_allocations_per_sec
    index_writes = ceil(2.5 * var.burst_allocations_per_sec)
  }
  # What an on-demand table, and each index, serves from its first second on. AWS refuses to warm below it.
  cold = { writes = 4000, reads = 12000 }

  warmed = {
    table = {
      WriteUnitsPerSecond = max(local.cold.writes, local.warm.table_writes)
      ReadUnitsPerSecond  = local.cold.reads
    }
    index = {
      WriteUnitsPerSecond = max(local.cold.writes, local.warm.index_writes)
      ReadUnitsPerSecond  = local.cold.reads
    }
  }
  needs_warming = local.warmed.table.WriteUnitsPerSecond > local.cold.writes

  # What is asked of `aws dynamodb describe-table` (JMESPath): the warm throughput that is there, or the wanted one where that is more.
  raised = {
    for place, at in { table = "Table.WarmThroughput", index = "WarmThroughput" } : place => format("{%s}", join(", ", [
      for unit, wanted in local.warmed[place] : "${unit}: max([${at}.${unit} || `0`, `${wanted}`])"
    ]))
  }

  # One takes 1,000 writes a second, and an event is 2 of an allocation's: so 64 % of it, as a hash spreads them unevenly.
  allocations_per_shard = 320
  shards                = try(tonumber(lookup(var.settings, "DDB_SHARDS", local.defaults.core.DDB_SHARDS)), 0) # no number: the plan says so
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

# Warm throughput is not in this release of the AWS provider (5.100): the AWS CLI sets it. It only ever rises: traffic
# raises it, too, and AWS refuses to lower it. So what is there is asked for first, and what is more stays.
resource "terraform_data" "warm_throughput" {
  count = local.needs_warming ? 1 : 0

  triggers_replace = { table = aws_dynamodb_table.main.arn, warmed = local.warmed }

  input = {
    table = local.raised["table"]
    index = "Table.GlobalSecondaryIndexes[].{Update: {IndexName: IndexName, WarmThroughput: ${local.raised["index"]}}}"
  }

  provisioner "local-exec" {
    interpreter = ["/bin/sh", "-ec"]
    command     = <<-EOT
      warm() { aws dynamodb describe-table --region "$REGION" --table-name "$TABLE" --output json --query "$1"; }
      table=$(warm "$WARM_TABLE")
      indexes=$(warm "$WARM_INDEXES")
      aws dynamodb update-table --region "$REGION" --table-name "$TABLE" --warm-throughput "$table" \
        --global-secondary-index-updates "$indexes" --query TableDescription.TableStatus
      aws dynamodb wait table-exists --region "$REGION" --table-name "$TABLE"
    EOT
    environment = {
      REGION       = var.region
      TABLE        = aws_dynamodb_table.main.name
      WARM_TABLE   = self.input.table
      WARM_INDEXES = self.input.index
    }
  }
}
