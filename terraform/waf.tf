# What is turned away before it reaches the API.

locals {
  # A course sits behind one address: a classroom's NAT, or the lab platform's, from whose hosts the setup scripts
  # call. In five minutes a script asks at most about 20 times: 10 attempts and 6 waits for a sandbox (its own
  # bounds), one release, one extension, a few looks. That for every student at once is what must get through:
  # 1,000 students give 20,000, 67 a second, which two tasks serve. The limit is against floods; what one student,
  # one credential or one wrong token may ask is the API's own to say (RATE_LIMIT_*).
  requests_per_student = 20
  requests_per_address = local.requests_per_student * var.students_behind_one_address
}

resource "aws_wafv2_web_acl" "main" {
  name        = var.name
  description = "The sandbox broker"
  scope       = "REGIONAL"

  default_action {
    allow {}
  }

  custom_response_body {
    key          = "rate-limited"
    content_type = "APPLICATION_JSON"
    content      = jsonencode({ error = { code = "RATE_LIMITED", message = "Too many requests from this address.", request_id = "firewall", retry_after = 30 } })
  }

  rule {
    name     = "address"
    priority = 10

    action {
      block {
        custom_response { # as the API says it: the setup scripts wait and ask again
          response_code            = 429
          custom_response_body_key = "rate-limited"
          response_header {
            name  = "Retry-After"
            value = "30"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        aggregate_key_type    = "IP"
        limit                 = local.requests_per_address
        evaluation_window_sec = 300
      }
    }

    visibility_config {
      metric_name                = "${var.name}-address"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  rule {
    name     = "known-bad-inputs"
    priority = 20

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesKnownBadInputsRuleSet"
      }
    }

    visibility_config {
      metric_name                = "${var.name}-known-bad-inputs"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  # Not the lists of anonymous or ill-reputed addresses: lab hosts stand in clouds, which the first holds, and a
  # single infected laptop puts a school's NAT on the second.
  rule {
    name     = "common"
    priority = 30

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesCommonRuleSet"

        rule_action_override {
          name = "SizeRestrictions_BODY" # 8 KB; a bulk operation names more, and the API has a bound of its own (64 KB)
          action_to_use {
            count {}
          }
        }
      }
    }

    visibility_config {
      metric_name                = "${var.name}-common"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  visibility_config {
    metric_name                = var.name
    cloudwatch_metrics_enabled = true
    sampled_requests_enabled   = true
  }
}

resource "aws_wafv2_web_acl_association" "alb" {
  resource_arn = aws_lb.main.arn
  web_acl_arn  = aws_wafv2_web_acl.main.arn
}

# Who was turned away, and by which rule: without the credential.
resource "aws_wafv2_web_acl_logging_configuration" "main" {
  resource_arn            = aws_wafv2_web_acl.main.arn
  log_destination_configs = [aws_cloudwatch_log_group.waf.arn]

  redacted_fields {
    single_header {
      name = "authorization"
    }
  }

  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }
    }
  }
}
