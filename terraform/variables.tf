# What has no default has to be said; everything else is safe as it is.

variable "region" {
  description = "AWS region of everything, such as eu-central-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region must be the name of an AWS region, such as eu-central-1."
  }
}

variable "certificate_arn" {
  description = "ACM certificate of the name that students' scripts call, in the same region. It must be issued already."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[A-Za-z0-9-]+$", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of an ACM certificate: arn:aws:acm:REGION:ACCOUNT:certificate/ID."
  }

  validation {
    condition     = try(split(":", var.certificate_arn)[3], "") == var.region
    error_message = "certificate_arn must be of the same region as the load balancer (region)."
  }
}

variable "provider_url" {
  description = "Where the cloud provider's API is (CSP_BASE_URL)."
  type        = string

  validation {
    condition     = can(regex("^https://[^/@:]+(:443)?(/.*)?$", var.provider_url))
    error_message = "provider_url must be https on port 443, and name no user: the worker reaches no other port."
  }
}

variable "name" {
  description = "What everything is called, or begins with: the table, the cluster, roles, log groups, secrets. Two installations in one account need two names."
  type        = string
  default     = "sandbox-broker"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,19}$", var.name)) && !endswith(var.name, "-")
    error_message = "name must be 3 to 20 of a-z 0-9 -, begin with a letter and not end with a dash: a target group's name has room for no more."
  }
}

variable "image_tag" {
  description = "Tag of the images of API and worker that run. Null: the repositories, the table, the secrets and everything else, and nothing that runs yet."
  type        = string
  default     = null

  validation {
    condition     = var.image_tag == null || can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image_tag))
    error_message = "image_tag must be a tag, such as 0.1.0, not a whole image name."
  }

  validation {
    condition     = var.image_tag != "latest"
    error_message = "image_tag must name one release: tags cannot be overwritten, and latest could not be rolled back to."
  }
}

variable "worker_image_tag" {
  description = "Tag of the worker's image where it is not image_tag: the worker is replaced before the API. Null: image_tag."
  type        = string
  default     = null

  validation {
    condition     = var.worker_image_tag == null || var.image_tag != null
    error_message = "worker_image_tag needs an image_tag: the API's."
  }

  validation {
    condition     = var.worker_image_tag == null || (can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.worker_image_tag)) && var.worker_image_tag != "latest")
    error_message = "worker_image_tag must be the tag of one release, such as 0.2.0: not a whole image name, and not latest."
  }
}

variable "canary_image_tag" {
  description = "Tag of the next release's API image, which runs beside image_tag and gets canary_weight of the requests. Null: there is none."
  type        = string
  default     = null

  validation {
    condition     = var.canary_image_tag == null || var.image_tag != null
    error_message = "canary_image_tag needs an image_tag that it runs beside."
  }

  validation {
    condition     = var.canary_image_tag == null || (can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.canary_image_tag)) && var.canary_image_tag != "latest")
    error_message = "canary_image_tag must be the tag of one release, such as 0.2.0: not a whole image name, and not latest."
  }
}

variable "canary_weight" {
  description = "Percent of the requests that go to canary_image_tag."
  type        = number
  default     = 0

  validation {
    condition     = var.canary_weight >= 0 && var.canary_weight <= 100 && floor(var.canary_weight) == var.canary_weight
    error_message = "canary_weight must be a whole number from 0 to 100."
  }

  validation {
    condition     = var.canary_weight == 0 || var.canary_image_tag != null
    error_message = "canary_weight sends requests to a canary that does not run: set canary_image_tag, or 0."
  }
}

variable "table_name" {
  description = "The table, where it is not called name: one that was restored (ROLLBACK_PLAN.md). Null: name."
  type        = string
  default     = null

  validation {
    condition     = var.table_name == null || can(regex("^[A-Za-z0-9_.-]{3,255}$", var.table_name))
    error_message = "table_name must be the name of a table: 3 to 255 of A-Z a-z 0-9 _ . -."
  }
}

variable "api_tasks" {
  description = "How few and how many tasks of the API run; the load decides between them."
  type        = object({ min = number, max = number })
  default     = { min = 2, max = 10 }

  validation {
    condition     = var.api_tasks.min >= 2 && var.api_tasks.max >= var.api_tasks.min && var.api_tasks.max <= 100
    error_message = "api_tasks needs a min of 2 or more, so that the loss of a zone is none of the service, and a max from there to 100."
  }
}

variable "drain_timeout_sec" {
  description = "What a process may take to drain (GRACEFUL_SHUTDOWN_TIMEOUT_SEC)."
  type        = number
  default     = 30

  validation {
    condition     = var.drain_timeout_sec >= 20 && var.drain_timeout_sec < var.stop_timeout_sec
    error_message = "drain_timeout_sec must be at least 20 (a request may take 15 s, the notice 5 s) and less than stop_timeout_sec: ECS kills what has not drained by then."
  }
}

variable "stop_timeout_sec" {
  description = "How long ECS waits after SIGTERM until it kills."
  type        = number
  default     = 35

  validation {
    condition     = var.stop_timeout_sec <= 120
    error_message = "stop_timeout_sec must be 120 or less: Fargate allows no more."
  }
}

variable "burst_allocations_per_sec" {
  description = "Students who start in the same second: the table and its indexes are warm for so many allocations. Up to 400 a new on-demand table serves as it is; for more, apply warms it with the AWS CLI, which is paid for once, and DDB_SHARDS must be one for each 320."
  type        = number
  default     = 400

  validation {
    condition     = var.burst_allocations_per_sec >= 1 && var.burst_allocations_per_sec <= 10000
    error_message = "burst_allocations_per_sec must be from 1 to 10000."
  }

  validation {
    condition     = var.burst_allocations_per_sec <= local.allocations_per_shard * local.shards
    error_message = "burst_allocations_per_sec of ${var.burst_allocations_per_sec} is more than ${local.shards} shards take: settings = { DDB_SHARDS = \"${ceil(var.burst_allocations_per_sec / local.allocations_per_shard)}\" } or more, up to 64. It is never lowered again (docs/performance.md)."
  }
}

variable "students_behind_one_address" {
  description = "The largest class, or all of a lab platform's hosts, that come from one address. WAF's limit for an address is 20 requests in 5 minutes for each of them."
  type        = number
  default     = 1000

  validation {
    condition     = var.students_behind_one_address >= 200 && var.students_behind_one_address <= 100000
    error_message = "students_behind_one_address must be from 200 to 100000: a lower limit would shut a course out."
  }
}

variable "allowed_cidrs" {
  description = "IPv4 networks that may call the API."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.allowed_cidrs) > 0 && alltrue([for cidr in var.allowed_cidrs : can(cidrnetmask(cidr))])
    error_message = "allowed_cidrs must hold IPv4 networks, such as 203.0.113.0/24, and at least one."
  }
}

variable "provider_cidrs" {
  description = "IPv4 networks of the cloud provider's API, which the worker may call on port 443. Narrow it where the provider names its addresses."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.provider_cidrs) > 0 && alltrue([for cidr in var.provider_cidrs : can(cidrnetmask(cidr))])
    error_message = "provider_cidrs must hold IPv4 networks, such as 203.0.113.0/24, and at least one."
  }
}

variable "vpc_cidr" {
  description = "IPv4 network of the VPC."
  type        = string
  default     = "10.40.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]), 32) <= 22
    error_message = "vpc_cidr must be an IPv4 network of /22 or larger."
  }
}

variable "zones" {
  description = "Letters of the two availability zones. Named, not looked up: a zone that AWS adds moves nothing."
  type        = list(string)
  default     = ["a", "b"]

  validation {
    condition     = length(distinct(var.zones)) == 2 && length(var.zones) == 2 && alltrue([for letter in var.zones : can(regex("^[a-z]$", letter))])
    error_message = "zones must be two different letters, such as a and b."
  }
}

variable "tenant_provider_secrets" {
  description = "Tenants with a provider of their own: for each a secret NAME/TENANT/csp is made, which the worker may read (tenants create --provider-secret)."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for tenant in var.tenant_provider_secrets : can(regex("^[A-Za-z0-9._-]{1,64}$", tenant))])
    error_message = "tenant_provider_secrets must hold names of tenants: 1 to 64 of A-Z a-z 0-9 . _ -."
  }
}

variable "settings" {
  description = "Settings of the broker that are not to have their defaults, by environment variable; settings.tf has the list."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setsubtract(keys(var.settings), local.settable)) == 0
    error_message = "settings holds what cannot be set here: ${join(", ", setsubtract(keys(var.settings), local.settable))}. settings.tf has the list; secrets and what follows from other variables are not in it."
  }
}

variable "collector" {
  description = "Where both processes send their spans (TRACING=otlp), such as https://otel.example.internal:4318, and the security group that listens there, in this VPC or a peered one. Null: TRACING=off."
  type        = object({ endpoint = string, security_group_id = string })
  default     = null

  validation {
    condition     = var.collector == null || (can(regex("^https://[A-Za-z0-9.-]+:[0-9]{1,5}$", var.collector.endpoint)) && can(regex("^sg-[0-9a-f]+$", var.collector.security_group_id)))
    error_message = "collector must have an endpoint https://HOST:PORT, without a path, and the security_group_id (sg-...) of what listens there."
  }
}

variable "pool_low" {
  description = "For each tenant: with fewer available sandboxes there is an alarm."
  type        = map(number)
  default     = { default = 20 }

  validation {
    condition     = alltrue([for least in values(var.pool_low) : least >= 1])
    error_message = "pool_low must hold numbers of 1 or more; leave a tenant out to have no alarm for it."
  }
}

variable "alarm_emails" {
  description = "Who is told of alarms; each confirms once, by a link in a mail from AWS."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "alarm_emails must hold e-mail addresses."
  }
}

variable "monthly_budget_usd" {
  description = "What the whole AWS account may cost a month: there is an alarm at 80 % spent, and when 100 % is forecast."
  type        = number
  default     = 500

  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "monthly_budget_usd must be more than 0."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 90

  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "log_retention_days must be one of 30, 60, 90, 120, 150, 180, 365, 400, 545, 731: CloudWatch knows no others, and events are kept for 30."
  }
}

variable "access_log_bucket" {
  description = "S3 bucket that takes the load balancer's access log. Null: none is written; the API logs every request that reaches it."
  type        = string
  default     = null
}

variable "deletion_protection" {
  description = "Whether the table and the load balancer refuse to be destroyed."
  type        = bool
  default     = true
}
