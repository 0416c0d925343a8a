# Where the images come from. A tag, once pushed, is that image for good.

locals {
  images = { api = "Dockerfile", worker = "Dockerfile.worker" }
}

resource "aws_ecr_repository" "image" {
  for_each = local.images

  #checkov:skip=CKV_AWS_136:images hold no secret; AES256 encrypts them
  name                 = "${var.name}/${each.key}"
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "image" {
  for_each = aws_ecr_repository.image

  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "what a build left without a tag"
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
      action       = { type = "expire" }
    }]
  })
}
