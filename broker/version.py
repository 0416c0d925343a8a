"""The release, as /v1/meta and the logs tell it."""

from typing import Final

VERSION: Final = "0.1.0"
