"""Whatever logs, alerts, help and our own messages tell people to type works as it is written."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cli.main import app

ROOT = Path(__file__).parents[2]
OTHERS = [*(ROOT / "worker").rglob("*.py"), *(ROOT / "monitoring").glob("*.yml"), *(ROOT / "docs").rglob("*.md")]
OTHERS += [ROOT / "README.md"]
OURS = [*(ROOT / "cli").rglob("*.py")]
REASON = re.compile(r"'(…|\.\.\.)'")
PLACEHOLDER = re.compile(r"<\w+>|\{[^{}]*\}|\bID\b")
END = re.compile(r"""[.,:;](?=["'`\s]|$)|["`();|]|\s[-=#>]\s|\s{2,}""")


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Every command with its path."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        elif isinstance(command, TyperCommand):
            yield (*path, name), command


def main_group() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


COMMANDS = dict(commands(main_group()))


def parses(words: list[str]) -> bool:
    """Whether these words are a command with its options and arguments; nothing is run."""
    command, name = main_group(), "sandbox-broker"
    rest = list(words)
    while isinstance(command, TyperGroup):
        if not rest:
            return command.invoke_without_command
        if (name := rest.pop(0)) not in command.commands:
            return False
        command = command.commands[name]  # type: ignore[assignment]
    try:
        command.make_context(name, rest)
    except (typer.TyperException, typer.Exit):
        return False
    return True


def hints(text: str, program: str) -> list[str]:
    """What follows the program's name, up to where the sentence goes on; placeholders filled in."""
    filled = re.sub(r"\\\n\s*", "", REASON.sub("'a test'", text))
    said = [hint for line in filled.splitlines() for hint in re.split(rf"{program} (?=[a-z])", line)[1:]]
    return [END.split(PLACEHOLDER.sub("4711", hint), maxsplit=1)[0] for hint in said]


def spoken(hint: str) -> list[str]:
    """The words of a hint that are a command; what may follow is the sentence around it."""
    words = shlex.split(hint)
    for count in range(len(words), 0, -1):
        if parses(words[:count]):
            left = words[count:]
            assert not any(word.startswith("-") or word == "4711" for word in left), f"not understood: {hint}"
            assert not left or tuple(words[: count + 1]) not in COMMANDS, f"lacks something: {hint}"
            return words[:count]
    raise AssertionError(f"no command: {hint}")


def test_every_hint_of_the_worker_and_of_the_alerts_is_a_command() -> None:
    found = [(path.name, hint) for path in OTHERS for hint in hints(path.read_text(), "sandbox-broker")]
    understood = {" ".join(spoken(hint)) for _, hint in found}
    assert len(found) >= 11
    assert understood >= {
        "sync --confirm --reason a test",
        "dead-letters",
        "retry 4711",
        "list --status pending_deletion",
        "list --status allocated",
        "reconcile",
        "jobs requeue 4711",
        "bulk retry --reason a test",
    }


def test_every_hint_of_the_cli_itself_is_a_command() -> None:
    text = "\n".join(path.read_text() for path in OURS)
    understood = {" ".join(spoken(hint)) for hint in hints(text, r"\{PROGRAM\}")}
    assert understood >= {"jobs watch 4711", "jobs cancel 4711", "jobs requeue 4711", "status"}
    assert any(said.startswith("sync --confirm --reason") for said in understood)


def test_what_is_no_command_is_recognised_as_none() -> None:
    for wrong in (
        "sync --force",
        "jobs restart 4711",
        "list --status stuck",
        "retry",
        "jobs requeue",
        "unstick",
        "mode open",
    ):
        with pytest.raises(AssertionError):
            spoken(wrong)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_has_examples_that_parse_and_fits_80_columns(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    text = command.get_help(command.make_context(path[-1], [], resilient_parsing=True))

    _, heading, examples = text.partition("Examples:\n")
    assert heading
    lines = examples.partition("\n\n")[0].splitlines()
    assert lines
    for line in lines:
        (hint,) = re.findall(r"sandbox-broker (.*?)(?: [|>]|$)", line)
        assert parses(shlex.split(hint)), line
    assert any(f"sandbox-broker {' '.join(path)}" in line for line in lines)
    assert max(map(len, text.splitlines())) <= 80


def test_every_command_that_prints_data_can_print_json() -> None:
    without = {path for path, command in COMMANDS.items() if not any("--json" in p.opts for p in command.params)}
    assert without == {("create-table",)}


def test_no_option_takes_a_token() -> None:
    """Whoever looks at the processes of this machine would see it."""
    params = [param for command in (*COMMANDS.values(), main_group()) for param in command.params]
    options = {option for param in params for option in param.opts}
    assert {option for option in options if "token" in option or "password" in option} == {"--token-file"}


def test_the_first_help_fits_80_columns_and_cuts_no_summary() -> None:
    group = main_group()
    text = group.get_help(group.make_context("sandbox-broker", [], resilient_parsing=True))

    assert "..." not in text.partition("Commands:")[2]
    assert max(map(len, text.splitlines())) <= 80
    for hint in re.findall(r"^    sandbox-broker (.*?)  ", text, re.MULTILINE):
        assert parses(shlex.split(hint)), hint
