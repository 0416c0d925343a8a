"""`python -m bench`: run benches, print what they found, write it to build/bench/."""

import argparse
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import (
    burst,
    exhausted,
    growth,
    large_sync,
    memory,
    rates,
    scales,
    scrape,
    start,
    throughput,
    tracing,
    units,
)
from bench.conditions import conditions
from bench.frame import Bench, Options, tell
from bench.plots import HOW, can_draw
from bench.report import CannotWrite, Report, claimed
from bench.rig import RigFailed
from bench.stop import Stop, Stopped
from bench.surroundings import left_out
from local.engine import EngineFailed

BENCHES: dict[str, Bench] = {
    module.BENCH.name: module.BENCH
    for module in (
        scales,
        throughput,
        burst,
        scrape,
        units,
        growth,
        exhausted,
        rates,
        tracing,
        start,
        memory,
        large_sync,
    )
}
DIRECTORY: Final = Path("build/bench")
QUICK_DIRECTORY: Final = Path("build/bench-smoke")
LONGEST_S: Final = 3600.0
MOST_PAIRS: Final = 1_000_000
SIZED: Final = ("seconds", "most", "pairs", "profile")
"""The options that mean something to some benches alone."""

EPILOG = """
benches:
{benches}

what --most is of:
{sizes}

examples:
  make bench                                    all of them, as they are meant
  make bench ARGS="throughput burst"            some
  make bench ARGS="throughput --seconds 60"     longer blocks: less noise
  make bench ARGS="growth --most 100000"        up to the largest pool: six minutes
  make bench-smoke                              tiny sizes: does every bench run?

Tables go to standard output; they, as JSON, and the plots to build/bench/, those
of --quick to build/bench-smoke/.

A goal that is missed is told, in its table and at the end of the run, and is
no failure. The exit code is 1 where numbers are wrong, as where an answer was no 201
or a sandbox was handed out twice, where a bench could not run or a file not be
written; 2 where nothing was begun; 130 after Ctrl-C, 143 after SIGTERM.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHES]:
        parser.error(f"no bench is called {unknown[0]}; there are: {', '.join(BENCHES)}")
    names = list(dict.fromkeys(given.names or BENCHES))
    chosen = [BENCHES[name] for name in names]
    for bench in chosen:
        if given.most is not None and bench.most and (refusal := bench.most.refusal(given.most)):
            parser.error(f"argument --most: {bench.name} takes {refusal}, and not {given.most}")
    options = Options(
        quick=given.quick, seconds=given.seconds, most=given.most, pairs=given.pairs, profile=given.profile
    )
    directory = given.out or (QUICK_DIRECTORY if given.quick else DIRECTORY)
    try:
        with claimed(directory):
            command = as_typed(sys.argv[1:] if arguments is None else arguments)
            return run_all(chosen, options, command, directory)
    except CannotWrite as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2


def run_all(chosen: list[Bench], options: Options, command: str, directory: Path) -> int:
    """Run these; the exit code."""
    stop, report = Stop(), None
    try:
        with stop.listening():
            report = _begin(chosen, options, command, directory)
            failed = [bench.name for bench in chosen if not _run(bench, options, stop, report)]
            report.close()
            sys.stdout.flush()
    except Stopped as stopped:
        so_far = f"results so far are in {directory}/" if report and report.written else "there is no result yet"
        sys.stderr.write(f"bench: stopped; {so_far}\n")
        return stopped.exit_code
    except BrokenPipeError:  # as of `| head`: who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is buffered still
        return 141
    if failed:
        sys.stderr.write(f"bench: {', '.join(failed)} failed\n")
    return 1 if failed else 0


def _begin(chosen: list[Bench], options: Options, command: str, directory: Path) -> Report:
    """Say where and with what is measured."""
    facts = conditions(command)
    print("\n".join(f"{name + ':':<13} {fact}" for name, fact in facts.items()))
    if options.quick:
        print("Quick: it shows that the benches run; the numbers mean nothing.")
    if not can_draw():
        print(HOW)
    if unused := left_out():
        print(f"Set in your environment, and not passed on: {', '.join(unused)}.")
    for option in SIZED:
        deaf = [bench.name for bench in chosen if not bench.knows(option)]
        if getattr(options, option) and deaf:
            print(f"--{option} means nothing to {', '.join(deaf)}.")
    return Report(directory, facts, quick=options.quick)


def _run(bench: Bench, options: Options, stop: Stop, report: Report) -> bool:
    """Run one bench and tell what it found; whether that is to be believed."""
    print(f"\n== {bench.name}: {bench.question}\n", flush=True)
    tell(f"{bench.name} begins")
    began = time.monotonic()
    try:
        result = stop.run(bench.run(options))
    except (RigFailed, EngineFailed) as error:
        sys.stderr.write(f"bench: {bench.name}: {error}\n")
        return False
    tell(f"{bench.name} took {time.monotonic() - began:.0f} s")
    return report.tell(bench, result)


def as_typed(arguments: list[str]) -> str:
    """The command to repeat it with.

    >>> as_typed(["units", "--seconds", "3"])
    'make bench ARGS="units --seconds 3"'
    """
    text = shlex.join(arguments)
    if not text:
        return "make bench"
    plain = not set(text) & set('"$`\\')
    return f'make bench ARGS="{text}"' if plain else "make bench " + shlex.quote(f"ARGS={text}".replace("$", "$$"))


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, BENCHES))
    benches = "\n".join(f"  {bench.name:<{width}}  {bench.question}" for bench in BENCHES.values())
    sizes = "\n".join(
        f"  {bench.name:<{width}}  {bench.most.of}: {bench.most.refusal(0)}; usually {bench.most.usual}"
        for bench in BENCHES.values()
        if bench.most
    )
    parser = argparse.ArgumentParser(
        "python -m bench",
        description="Measure the broker on this machine: real processes, a local store, a load from outside.",
        epilog=EPILOG.format(benches=benches, sizes=sizes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="the benches to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that they run")
    parser.add_argument("--seconds", type=_seconds, help=f"length of each measured block {_of('seconds')}")
    parser.add_argument("--most", type=_whole(10**9), help=f"largest size, see below {_of('most')}")
    parser.add_argument(
        "--pairs",
        type=_whole(MOST_PAIRS),
        help=f"allocations, each released, beside which the API's memory is watched {_of('pairs')}",
    )
    parser.add_argument("--profile", action="store_true", help=f"tell process ids {_of('profile')}")
    parser.add_argument(
        "--out", type=Path, help=f"where results go (default: {DIRECTORY}, with --quick {QUICK_DIRECTORY})"
    )
    return parser


def _of(option: str) -> str:
    """Which benches take it."""
    return f"({', '.join(bench.name for bench in BENCHES.values() if bench.knows(option))})"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, up to {LONGEST_S:.0f}")
    return seconds


def _whole(limit: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= limit):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {limit}")
        return int(text)

    return whole


if __name__ == "__main__":
    sys.exit(main())
