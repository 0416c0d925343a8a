# The one public door: https, and http that is sent there.

resource "aws_lb" "main" {
  #checkov:skip=CKV_AWS_91:written where access_log_bucket is set; the API logs every request that reaches it
  #checkov:skip=CKV2_AWS_76:waf.tf has AWSManagedRulesKnownBadInputsRuleSet, which holds the rule against Log4j; nothing here runs Java
  name                       = var.name
  load_balancer_type         = "application"
  internal                   = false
  security_groups            = [aws_security_group.alb.id]
  subnets                    = [for subnet in aws_subnet.public : subnet.id]
  drop_invalid_header_fields = true
  enable_deletion_protection = var.deletion_protection
  idle_timeout               = 60 # the API keeps its side open for 75 s: it is never the one that closes first

  dynamic "access_logs" {
    for_each = var.access_log_bucket[*]
    content {
      bucket  = access_logs.value
      prefix  = var.name
      enabled = true
    }
  }

  depends_on = [aws_internet_gateway.main]
}

resource "aws_lb_target_group" "api" {
  for_each = toset(["stable", "canary"]) # both always, so that a canary begins and ends by weights alone

  #checkov:skip=CKV_AWS_378:TLS ends at the load balancer; behind it is this VPC's own network, from whose security groups alone the API is reached
  name                 = "${var.name}-${each.key}"
  vpc_id               = aws_vpc.main.id
  target_type          = "ip"
  protocol             = "HTTP"
  port                 = local.api_port
  deregistration_delay = local.deregistration_sec

  health_check {
    path                = "/readyz" # 503 while booting or draining; trouble of the store is 200: it is no reason to replace tasks
    matcher             = "200"
    interval            = 30
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.main.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type = "forward"

    forward {
      target_group {
        arn    = aws_lb_target_group.api["stable"].arn
        weight = 100 - var.canary_weight
      }
      target_group {
        arn    = aws_lb_target_group.api["canary"].arn
        weight = var.canary_weight
      }
    }
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.main.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

# Numbers name tenants, and each task has its own: for whoever scrapes inside the VPC, not for the internet.
resource "aws_lb_listener_rule" "metrics" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 10

  condition {
    path_pattern {
      values = ["/metrics"]
    }
  }

  action {
    type = "fixed-response"

    fixed_response {
      status_code  = "404"
      content_type = "application/json"
      message_body = jsonencode({ error = { code = "NOT_FOUND", message = "Not Found", request_id = "load-balancer" } })
    }
  }
}
