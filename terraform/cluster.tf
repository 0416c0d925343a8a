# What API and worker have in common. The numbers of times stand here once.

locals {
  released = var.image_tag != null

  api_port    = 8080
  worker_port = 9090

  # A request takes 15 s at the most (REQUEST_TIMEOUT_SEC): the load balancer lets those in hand end, within the drain.
  deregistration_sec = 20
  start_sec          = 60

  sizes = {
    api    = { cpu = 512, memory = 1024 }
    worker = { cpu = 512, memory = 1024 } # a listing is streamed; a page of 8 MB takes about ten times that while it is parsed
  }

  # Of each process, whatever image it runs: no root, nothing to write to, no privileges, and what K2 says of its health.
  container = {
    for process, port in { api = local.api_port, worker = local.worker_port } : process => {
      name                     = process
      essential                = true
      user                     = "10001:10001"
      readonlyRootFilesystem   = true
      privileged               = false
      linuxParameters          = { capabilities = { drop = ["ALL"] } }
      stopTimeout              = var.stop_timeout_sec
      portMappings             = [{ containerPort = port, hostPort = port, protocol = "tcp" }]
      environment              = [for variable in sort(keys(local.environment[process])) : { name = variable, value = local.environment[process][variable] }]
      healthCheck = {
        command = [ # as in the Dockerfile, which Fargate does not read; a test compares them
          "CMD", "python", "-c",
          "import http.client as h, os; c = h.HTTPConnection('localhost', int(os.environ.get('${upper(process)}_PORT', ${port})), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)",
        ]
        interval    = 30
        timeout     = 5
        retries     = 3
        startPeriod = local.start_sec
      }
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.process[process].name
          awslogs-region        = var.region
          awslogs-stream-prefix = process
          mode                  = "non-blocking" # a CloudWatch that is slow stalls no request
          max-buffer-size       = "8m"
        }
      }
    }
  }
}

resource "aws_ecs_cluster" "main" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}
