"""One moto and one initialised workspace a module; skipped where terraform or its provider is not installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.terraform.workspace import Workspace, aws, missing, workspace


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    if why := missing():
        pytest.skip(why)
    with aws() as url:
        yield url


@pytest.fixture(scope="module")
def terraform(aws_url: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder: Path = tmp_path_factory.mktemp("terraform")
    return workspace(folder, aws_url)
