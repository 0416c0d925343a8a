"""The tables of terraform/README.md, from the configuration: `python -m tests.terraform.readme` prints them."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from local.engine import ROOT

SOURCE: Final = ROOT / "terraform"
_BLOCK: Final = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """A variable or an output as it is declared."""

    kind: str
    name: str
    description: str
    default: str | None  # None: it has to be said
    validated: bool


def entries(kind: str) -> Iterator[Entry]:
    for file in sorted(SOURCE.glob("*.tf")):
        for found, name, body in _BLOCK.findall(file.read_text()):
            if found == kind:
                description = re.search(r'^  description = "(.*)"$', body, re.MULTILINE)
                default = re.search(r"^  default += (.*)$", body, re.MULTILINE)
                yield Entry(
                    kind,
                    name,
                    description[1] if description else "",
                    default[1] if default else None,
                    "validation {" in body,
                )


def variables_table() -> str:
    rows = [
        f"| `{entry.name}` | {'–' if entry.default is None else f'`{entry.default}`'} | {entry.description} |"
        for entry in entries("variable")
    ]
    return "\n".join(["| variable | default | |", "|---|---|---|", *rows])


def outputs_table() -> str:
    return "\n".join(
        ["| output | |", "|---|---|", *(f"| `{e.name}` | {e.description} |" for e in entries("output"))]
    )


if __name__ == "__main__":
    sys.stdout.write(f"{variables_table()}\n\n{outputs_table()}\n")
