"""Each alert leads to a runbook, each runbook to alerts that exist; what is to be typed can be typed."""

import re
import shlex
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from tests.cli.test_hints import hints, parses, spoken
from tests.monitoring.promtool import ROOT
from tests.monitoring.test_alert_rules import rules
from tests.monitoring.test_dashboard import panels

FOLDER = ROOT / "docs" / "runbooks"
BOOKS = sorted(FOLDER.glob("*.md"))
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
MOST_WORDS = 450
READS = (
    *("status", "list", "show", "events", "history", "dead-letters", "reconcile"),
    *("jobs list", "jobs show", "keys list", "keys show", "pools list", "tenants list", "tenants show"),
)
CALLED = {"sandbox-broker", "aws", "curl"}


def commands(book: Path) -> list[str]:
    """The lines of its blocks."""
    return [line for block in BLOCK.findall(book.read_text()) for line in block.splitlines() if line.strip()]


def everything_to_type(book: Path) -> list[str]:
    """Also what stands in its sentences and tables."""
    inline = re.findall(r"`((?:sandbox-broker|aws|curl) [^`]+)`", book.read_text())
    return commands(book) + inline


def reads(command: str) -> bool:
    """Whether it changes nothing, so that a test can run it as it is."""
    program, _, rest = command.partition(" ")
    return program == "curl" or (
        program == "sandbox-broker"
        and (
            rest.endswith("--dry-run")
            or rest == "mode"
            or any(f"{rest} ".startswith(f"{known} ") for known in READS)
        )
    )


@pytest.mark.parametrize("alert", rules(), ids=str)
def test_an_alert_leads_to_a_runbook_that_begins_with_its_name(alert: str) -> None:
    book = ROOT / rules()[alert]["annotations"]["runbook"]

    assert book in BOOKS
    assert alert in re.split(r"\W+", book.read_text().splitlines()[0])


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_begins_with_alerts_that_exist_and_lead_to_it_and_then_the_first_command(book: Path) -> None:
    first, _, rest = book.read_text().partition("\n")
    named = first.removeprefix("# ").split(", ")

    assert named
    for alert in named:
        assert rules()[alert]["annotations"]["runbook"] == str(book.relative_to(ROOT))
    assert rest.startswith("\n```sh\n")
    assert "**Over when**" in rest
    assert len(rest.split()) <= MOST_WORDS, "nobody reads it at 3 a.m."


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbooks_alerts_and_links_exist(book: Path) -> None:
    text = book.read_text()
    alike = {word for word in re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", text) if _like_an_alert(word)}

    assert alike <= set(rules())
    for link in LINK.findall(text):
        assert (book.parent / link).exists(), link
    for title in re.findall(r"\*([A-Z][^*]+)\*(?!\*)", text.replace("**", "")):
        assert title in {panel["title"] for panel in panels()}, title


def _like_an_alert(word: str) -> bool:
    """Begins or ends as one: a name that was left behind when the alert was renamed."""
    parts = [re.findall("[A-Z][a-z]+", name) for name in rules()]
    return re.findall("[A-Z][a-z]+", word)[0] in {p[0] for p in parts} and not word.endswith(
        ("Error", "Exception")
    )


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_whatever_is_to_be_typed_can_be_typed(book: Path) -> None:
    assert commands(book)
    for command in everything_to_type(book):
        words = shlex.split(re.sub(r"<[\w-]+>", "4711", command).partition(" > ")[0])
        assert words[0] in CALLED, command
        if words[0] == "sandbox-broker":
            assert parses(words[1:]), command
        elif words[0] == "aws":
            _is_of_aws(words[1:])


def _is_of_aws(words: list[str]) -> None:
    """Service, operation and options stand in the client's own model; what the operation needs is given."""
    service, operation, *options = words
    model: Any = botocore.session.get_session().get_service_model(service)
    named = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(named[operation]).input_shape
    given = {option.removeprefix("--").removeprefix("no-") for option in options if option.startswith("--")}
    known = {xform_name(name, "-") for name in shape.members}

    assert given <= known, words
    assert {xform_name(name, "-") for name in shape.required_members} <= given, words


def test_what_an_alert_says_first_is_a_command_of_the_cli_where_it_is_one() -> None:
    said = [hint for rule in rules().values() for hint in hints(rule["annotations"]["action"], "sandbox-broker")]

    assert len(said) >= 12
    assert all(spoken(hint) for hint in said)


def test_what_is_not_understood_is_seen() -> None:
    assert not reads("sandbox-broker sync --confirm --reason 'INC-4711'")
    assert reads("sandbox-broker list --status allocated")
    for wrong in (["dynamodb", "update-table", "--table-name", "t", "--warm", "1"], ["dynamodb", "update-table"]):
        with pytest.raises(AssertionError):
            _is_of_aws(wrong)
