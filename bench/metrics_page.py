"""What a process tells on /metrics."""

import re
from collections import Counter
from urllib.request import urlopen

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series(port: int, name: str) -> list[tuple[dict[str, str], float]]:
    """Every series of this name: its labels and its value."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        text = page.read().decode()
    found = []
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        if head == name or head.startswith(name + "{"):
            found.append((dict(_LABEL.findall(head)), float(value)))
    return found


def value(port: int, name: str, **labels: str) -> float:
    """The sum of the series that have these labels; 0 where there is none yet."""
    return sum(number for found, number in series(port, name) if labels.items() <= found.items())


def by(label: str, name: str, *ports: int) -> Counter[str]:
    """The series of this name, over processes, by one label."""
    total: Counter[str] = Counter()
    for port in ports:
        for labels, number in series(port, name):
            total[labels.get(label, "")] += int(number)
    return total
