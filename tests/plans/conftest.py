"""The emulated AWS of the plans; skipped where terraform or its provider is not installed."""

from tests.terraform.conftest import aws_url

__all__ = ["aws_url"]
