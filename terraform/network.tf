# Three kinds of subnets, one of each in two zones:
#   public  the load balancer and the NAT gateways
#   api     no way out: what the API needs it reaches through endpoints
#   worker  a way out to the provider, and the same endpoints

locals {
  zones = { for index, letter in var.zones : "${var.region}${letter}" => index }
}

resource "aws_vpc" "main" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true # the interface endpoints answer under the services' own names

  tags = { Name = var.name }
}

resource "aws_default_security_group" "unused" {
  vpc_id = aws_vpc.main.id # without rules: what names no security group reaches nothing

  tags = { Name = "${var.name}-unused" }
}

resource "aws_subnet" "public" {
  for_each = local.zones

  vpc_id                  = aws_vpc.main.id
  availability_zone       = each.key
  cidr_block              = cidrsubnet(var.vpc_cidr, 4, each.value)
  map_public_ip_on_launch = false

  tags = { Name = "${var.name}-public-${each.key}" }
}

resource "aws_subnet" "api" {
  for_each = local.zones

  vpc_id            = aws_vpc.main.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, 4 + each.value)

  tags = { Name = "${var.name}-api-${each.key}" }
}

resource "aws_subnet" "worker" {
  for_each = local.zones

  vpc_id            = aws_vpc.main.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, 8 + each.value)

  tags = { Name = "${var.name}-worker-${each.key}" }
}

resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id

  tags = { Name = var.name }
}

resource "aws_eip" "nat" {
  for_each = local.zones

  domain = "vpc"

  tags = { Name = "${var.name}-nat-${each.key}" }
}

# One a zone: the worker moves to the other zone when one is lost, and finds a way out there.
resource "aws_nat_gateway" "worker" {
  for_each = local.zones

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags       = { Name = "${var.name}-${each.key}" }
  depends_on = [aws_internet_gateway.main]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-public" }
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main.id
}

resource "aws_route_table" "api" {
  vpc_id = aws_vpc.main.id # no routes but the VPC's own and the gateway endpoints'

  tags = { Name = "${var.name}-api" }
}

resource "aws_route_table" "worker" {
  for_each = local.zones

  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-worker-${each.key}" }
}

resource "aws_route" "provider" {
  for_each = local.zones

  route_table_id         = aws_route_table.worker[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.worker[each.key].id
}

resource "aws_route_table_association" "public" {
  for_each = local.zones

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table_association" "api" {
  for_each = local.zones

  subnet_id      = aws_subnet.api[each.key].id
  route_table_id = aws_route_table.api.id
}

resource "aws_route_table_association" "worker" {
  for_each = local.zones

  subnet_id      = aws_subnet.worker[each.key].id
  route_table_id = aws_route_table.worker[each.key].id
}

# What was refused: the first thing to look at when a task cannot reach something.
resource "aws_flow_log" "refused" {
  vpc_id          = aws_vpc.main.id
  traffic_type    = "REJECT"
  log_destination = aws_cloudwatch_log_group.flow.arn
  iam_role_arn    = aws_iam_role.flow.arn

  tags = { Name = "${var.name}-refused" }
}
