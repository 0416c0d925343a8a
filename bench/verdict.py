"""Whether what a load was answered is what a bench may count: each a 201, and no sandbox twice."""

from collections import Counter

from bench.load import Outcome


def wrong(outcome: Outcome, who: str, taken: set[str]) -> list[str]:
    """What is wrong with answers to allocations, in sentences; their sandboxes are added to `taken`."""
    problems = []
    others = Counter(status for status in outcome.statuses if status != 201)
    missing = outcome.unanswered + outcome.unsent
    if others or missing:
        said = [f"{count} answers were {status}" for status, count in sorted(others.items())]
        said += [f"{missing} did not come"] if missing else []
        problems.append(f"{who}: of {outcome.asked + outcome.unsent} requests {', '.join(said)}")
    ids = [str(id_) for id_, status in zip(outcome.kept, outcome.statuses, strict=True) if status == 201]
    if len(taken | set(ids)) < len(taken) + len(ids):
        problems.append(f"{who}: a sandbox was handed out twice")
    taken.update(ids)
    return problems
