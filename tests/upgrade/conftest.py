"""The previous release's code, taken from git once a run."""

from pathlib import Path

import pytest

from tests.upgrade.releases import BEFORE_TENANTS, NotHere, extract, previous_release


def _code(commit: str, factory: pytest.TempPathFactory) -> Path:
    try:
        return extract(commit, factory.mktemp("release"))
    except NotHere as why:
        pytest.skip(f"the code of {commit} is not in this clone: {why}")


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the code of the newest release before this one is."""
    return _code(previous_release(), tmp_path_factory)


@pytest.fixture(scope="session")
def before_tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the code is whose workers elect by tenant."""
    return _code(BEFORE_TENANTS, tmp_path_factory)
