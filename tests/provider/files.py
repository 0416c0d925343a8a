"""Files that hold a secret, and how they change."""

import os
from pathlib import Path


def write(path: Path, value: str | bytes | None) -> None:
    """As an agent renews a file; None removes it."""
    path.unlink(missing_ok=True)
    if value is not None:
        path.write_bytes(value.encode() if isinstance(value, str) else value)


def write_without_a_trace(path: Path, value: str) -> None:
    """The same file, size and times, another content."""
    before = path.stat()
    with path.open("r+") as file:
        file.write(value)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
