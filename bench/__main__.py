"""`python -m bench`: run benches, print what they found, write it to build/bench/."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import uvloop

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
from bench.frame import Bench, Options, Result, tell
from bench.plots import HOW, can_draw, draw
from bench.rig import RigFailed
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
DIRECTORY = Path("build/bench")

EPILOG = """
benches:
{benches}

examples:
  make bench                                    all of them, as they are meant
  make bench ARGS="throughput burst"            some
  make bench ARGS="throughput --seconds 60"     longer blocks: less noise
  make bench-smoke                              tiny sizes: does every bench run?

Tables go to standard output; they, as JSON, and the plots to build/bench/.
The exit code is 1 where a bench found its own numbers wrong, as where an answer was
no 201 or a sandbox was handed out twice.
"""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHES]:
        parser.error(f"no bench is called {unknown[0]}; there are: {', '.join(BENCHES)}")
    options = Options(quick=given.quick, seconds=given.seconds, most=given.most, profile=given.profile)
    command = shlex.join(["python", "-m", "bench", *(sys.argv[1:] if arguments is None else arguments)])
    facts = conditions(command)
    given.out.mkdir(parents=True, exist_ok=True)
    print("\n".join(f"{name + ':':<13} {fact}" for name, fact in facts.items()))
    if options.quick:
        print("Quick: it shows that the benches run; the numbers mean nothing.")
    if not can_draw():
        print(HOW)
    failed = [name for name in given.names or BENCHES if not _run(BENCHES[name], options, facts, given.out)]
    if failed:
        sys.stderr.write(f"bench: {', '.join(failed)} failed\n")
    return 1 if failed else 0


def _run(bench: Bench, options: Options, facts: dict[str, str], directory: Path) -> bool:
    """Run one bench and tell what it found; whether that is to be believed."""
    print(f"\n== {bench.name}: {bench.question}\n", flush=True)
    tell(f"{bench.name} begins")
    began = time.monotonic()
    try:
        result = uvloop.run(bench.run(options))
    except (RigFailed, EngineFailed) as error:
        sys.stderr.write(f"bench: {bench.name}: {error}\n")
        return False
    tell(f"{bench.name} took {time.monotonic() - began:.0f} s")
    _write(bench, result, facts, directory)
    for table in result.tables:
        print(table.text() + "\n", flush=True)
    for plot in result.plots if can_draw() else []:
        print(f"plot: {draw(plot, directory)}")
    problems = result.problems()
    for problem in problems:
        sys.stderr.write(f"bench: {bench.name}: {problem}\n")
    return not problems


def _write(bench: Bench, result: Result, facts: dict[str, str], directory: Path) -> None:
    tables = [table.as_json() for table in result.tables]
    whole = {"bench": bench.name, "question": bench.question, "conditions": facts, "tables": tables}
    text = json.dumps(whole | {"problems": result.problems()}, indent=1)
    (directory / f"{bench.name}.json").write_text(text + "\n")


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, BENCHES))
    benches = "\n".join(f"  {bench.name:<{width}}  {bench.question}" for bench in BENCHES.values())
    parser = argparse.ArgumentParser(
        "python -m bench",
        description="Measure the broker on this machine: real processes, a local store, a load from outside.",
        epilog=EPILOG.format(benches=benches),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="the benches to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that they run")
    parser.add_argument("--seconds", type=float, help="length of each measured block")
    parser.add_argument("--most", type=int, help="largest size of growth and sync (default: 10000 each)")
    parser.add_argument("--profile", action="store_true", help="tell process ids, for a profiler")
    parser.add_argument("--out", type=Path, default=DIRECTORY, help="where results go (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
