"""schemathesis on the OpenAPI document, against a real process: no 5xx, no undocumented status, no odd body."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.process import a_process
from tests.api.service import ADMIN_TOKEN, API_TOKEN
from tests.builders import NOW, TEST_CAUSE, a_sandbox
from tests.conftest import a_broker

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


async def fill(url: str, table_name: str) -> None:
    async with a_broker(url, table_name) as core:
        for number in range(1, 31):
            await core.sandboxes.add(a_sandbox(number=number), TEST_CAUSE, now=NOW)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("token", [API_TOKEN, ADMIN_TOKEN], ids=["track", "admin"])
def test_no_generated_request_gets_a_5xx_or_an_undocumented_answer(
    ministack: str, table_name: str, tmp_path: Path, token: str
) -> None:
    asyncio.run(fill(ministack, table_name))
    many = dict.fromkeys(
        ("RATE_LIMIT_PER_STUDENT", "RATE_LIMIT_PER_CREDENTIAL", "RATE_LIMIT_PER_ADDRESS"), "1000000/minute"
    )
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0\n')  # no worker runs: none waits
    with a_process(DDB_ENDPOINT_URL=ministack, DDB_TABLE_NAME=table_name, **many) as process:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{process.url}/v1/openapi.json"),
                *("--header", f"Authorization: Bearer {token}", "--checks", CHECKS),
                *("--max-examples", "40", "--seed", "1", "--suppress-health-check", "all"),
            ],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
