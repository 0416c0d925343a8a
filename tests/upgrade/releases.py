"""Two releases beside each other: this one, and the code of the previous one as git has it, as real processes."""

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from tests.api.process import ROOT, Process, a_process
from tests.worker.conftest import TOKEN

BEFORE_TENANTS = "863f64827975af97e5ed7db490b7d26f213a3c16"
"""The last commit before tenants had limits and providers: what stands for the previous release until one is
tagged, and for good where the worker's election of that time is what a test is about."""


class NotHere(Exception):
    """This clone has no such code: a shallow one, or no clone at all."""


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise NotHere(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def previous_release() -> str:
    """The newest tag before this commit, else the pinned commit."""
    try:
        return _git("describe", "--tags", "--abbrev=0", "HEAD^").decode().strip()
    except (NotHere, FileNotFoundError):
        return BEFORE_TENANTS


def extract(commit: str, to: Path) -> Path:
    """The tree of a commit below `to`.

    Raises:
        NotHere: this is no whole clone. In one that is, the commit must be there.
    """
    try:
        shallow = _git("rev-parse", "--is-shallow-repository").strip() == b"true"
    except FileNotFoundError:
        raise NotHere("git is not installed") from None
    try:
        archive = _git("archive", commit, "broker", "app", "worker")
    except NotHere as error:
        if not shallow:
            raise AssertionError(f"the pinned release is no commit of this repository: {error}") from error
        raise
    subprocess.run(["tar", "-x", "-C", str(to)], input=archive, check=True)
    return to


def an_api(code: Path, store_url: str, table_name: str, **more: str) -> AbstractContextManager[Process]:
    """`python -m app` of that code."""
    return a_process(code=code, DDB_ENDPOINT_URL=store_url, DDB_TABLE_NAME=table_name, **more)


def a_worker(
    code: Path, store_url: str, table_name: str, provider_url: str, **more: str
) -> AbstractContextManager[Process]:
    """`python -m worker` of that code, with short intervals."""
    variables = {
        "DDB_ENDPOINT_URL": store_url,
        "DDB_TABLE_NAME": table_name,
        "CSP_BASE_URL": provider_url,
        "CSP_API_TOKEN": TOKEN,
        "WORKER_HOST": "127.0.0.1",
        "CLEANUP_POLL_SEC": "0.1",
        "CLEANUP_LEASE_SEC": "1",
        "LEADER_LEASE_SEC": "1",
        "SYNC_INTERVAL_SEC": "1",
        "GRACE_PERIOD_MINUTES": "0",
        "AUTO_EXPIRY_INTERVAL_SEC": "0.5",
    }
    return a_process(module="worker", code=code, **(variables | more))
