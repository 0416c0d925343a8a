"""The settings of a run, from flags, else from the environment, else the defaults."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from simulator.faults import LAG_S, SERVICES, WAIT_S
from simulator.fields import Check, InvalidInput, whole
from simulator.manual import EPILOG

# These guard invented accounts; `python -m simulator` should just run.
DEFAULT_TOKEN = "simulator-token"  # noqa: S105
DEFAULT_EMAIL = "services@simulator.invalid"
DEFAULT_PASSWORD = "simulator-password"  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 9100
    sandboxes: int = 200
    noise: int = 3
    token: str = field(default=DEFAULT_TOKEN, repr=False)
    delete_latency_s: float = 0.2
    listing_lag_s: float = 0.0
    seed: int = 1
    services_per_account: int = 0
    services_email: str = DEFAULT_EMAIL
    services_password: str = field(default=DEFAULT_PASSWORD, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    name: str  # of the setting
    env: str
    number: Callable[[str], float] | None = None  # how its text becomes a number
    check: Check
    help: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        return "N" if self.number is int else self.name.rpartition("_")[2].upper()

    def read(self, given: str) -> Any:
        """The setting's value.

        Raises:
            ValueError: what it must be instead.
        """
        if self.number is None:
            return self.check(given)
        try:
            value: object = self.number(given)
        except ValueError:
            value = given  # which no check of a number accepts
        return self.check(value)


def _word(value: object) -> str:
    """A host, or a secret. The message never repeats it: the secret may be a real one."""
    if isinstance(value, str) and value and value.isascii() and value.isprintable() and " " not in value:
        return value
    raise ValueError("must be 1 or more printable ASCII characters without spaces")


OPTIONS = (
    Option(name="host", env="SIM_HOST", check=_word, help="the address to listen on"),
    Option(name="port", env="SIM_PORT", number=int, check=whole(0, 65535), help="the port; 0 takes any free one"),
    Option(
        name="sandboxes",
        env="SIM_SANDBOXES",
        number=int,
        check=whole(0, 1_000_000),
        help="how many usable sandboxes there are at the start",
    ),
    Option(
        name="noise",
        env="SIM_NOISE",
        number=int,
        check=whole(0, 100_000),
        help="how many standard or disabled accounts are listed among them",
    ),
    Option(
        name="token",
        env="CSP_API_TOKEN",
        check=_word,
        help="clients send it as 'Authorization: Token <token>'; others on this machine can read a flag, not "
        "the environment",
    ),
    Option(
        name="delete_latency_s",
        env="SIM_DELETE_LATENCY_S",
        number=float,
        check=WAIT_S,
        help="how long a deletion takes; the real provider takes 5 to 10 s",
    ),
    Option(
        name="listing_lag_s",
        env="SIM_LISTING_LAG_S",
        number=float,
        check=LAG_S,
        help="how long a deleted account is still listed",
    ),
    Option(
        name="seed",
        env="SIM_SEED",
        number=int,
        check=whole(0, 2**32 - 1),
        help="the same seed gives the same accounts and the same chances",
    ),
    Option(
        name="services_per_account",
        env="SIM_SERVICES_PER_ACCOUNT",
        number=int,
        check=SERVICES,
        help="how many in-sandbox services every sandbox has at the start",
    ),
    Option(
        name="services_email",
        env="SIM_SERVICES_EMAIL",
        check=_word,
        help="who may sign in at the in-sandbox services",
    ),
    Option(
        name="services_password",
        env="SIM_SERVICES_PASSWORD",
        check=_word,
        help="and with which password",
    ),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInput([f"{message}; --help lists the options"])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m simulator",
        description="Serves the cloud provider's HTTP API from invented accounts, with faults on demand.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = Settings()
    for option in OPTIONS:
        default = getattr(defaults, option.name)
        parser.add_argument(
            option.flag,
            dest=option.name,
            metavar=option.metavar,
            help=f"{option.help} [{option.env}; {default}]",
        )
    return parser


def read_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read every option. An empty environment variable counts as unset.

    Raises:
        InvalidInput: names each flag or variable that is not acceptable, and what it must be.
        SystemExit: --help was asked for, and given.
    """
    flags = vars(_parser().parse_args(arguments))
    values: dict[str, Any] = {}
    problems: list[str] = []
    for option in OPTIONS:
        given, source = flags[option.name], option.flag
        if given is None:
            given, source = environment.get(option.env) or None, option.env
        if given is None:
            continue
        try:
            values[option.name] = option.read(given)
        except ValueError as problem:
            problems.append(f"{source} {problem}")
    if problems:
        raise InvalidInput(problems)
    return Settings(**values)
