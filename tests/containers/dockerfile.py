"""Reads a Dockerfile, and takes its steps without Docker: each stage is a folder that stands for its root."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ABSOLUTE = re.compile(r"(?<![\w./:=-])/(?=\w)")


class StepFailed(Exception):
    """A RUN line ended with another code than 0; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Step:
    verb: str
    text: str

    def words(self) -> list[str]:
        return shlex.split(self.text)


@dataclass(slots=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def texts(self, verb: str) -> list[str]:
        return [step.text for step in self.steps if step.verb == verb]

    def last(self, verb: str) -> str:
        return self.texts(verb)[-1]

    def command(self) -> list[str]:
        return [str(word) for word in json.loads(self.last("CMD"))]

    def healthcheck(self) -> tuple[dict[str, str], list[str]]:
        """Its options, and its command."""
        options, _, command = self.last("HEALTHCHECK").partition(" CMD ")
        pairs = (word.removeprefix("--").split("=") for word in options.split())
        return dict(pairs), [str(word) for word in json.loads(command)]


def read(text: str) -> list[Stage]:
    """The stages of a Dockerfile. What stands before the first FROM is a stage without a base."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stages = [Stage("", "")]
    for line in filter(None, map(str.strip, joined.splitlines())):
        verb, _, rest = line.partition(" ")
        if verb == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].steps.append(Step(verb, rest.strip()))
    return stages


@dataclass
class Built:
    """What the steps left: a root, the environment and the folder that CMD starts in."""

    root: Path
    environment: dict[str, str]
    folder: Path

    def path(self, inside: str) -> Path:
        """An image's absolute path, here."""
        return self.root / inside.lstrip("/")

    def environment_with(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Of a process of this image: nothing of the machine's own environment."""
        return {**self.environment, **settings}


class Replay:
    """Takes COPY, ENV, WORKDIR and RUN. Every absolute path of a step means the stage's own root."""

    def __init__(self, context: Path, workshop: Path, python: Path) -> None:
        self._context = context
        self._workshop = workshop
        self._python = python
        self._stages: dict[str, Built] = {}

    def build(self, stages: list[Stage]) -> Built:
        """Take the steps of every stage; the last one is the image.

        Raises:
            StepFailed: a RUN line did not end with 0.
        """
        built = None
        for number, stage in enumerate(stages[1:]):
            root = self._workshop / f"stage-{number}"
            root.mkdir(parents=True)
            built = Built(root, {"PATH": f"{self._python.parent}:/usr/bin:/bin"}, root)
            self._stages[stage.name] = built
            for step in stage.steps:
                self._take(step, built)
        assert built is not None, "a Dockerfile needs a stage"
        return built

    def _take(self, step: Step, built: Built) -> None:
        if step.verb == "WORKDIR":
            built.folder = built.path(step.text)
            built.folder.mkdir(parents=True, exist_ok=True)
        elif step.verb == "ENV":
            for word in step.words():
                name, _, value = word.partition("=")
                value = value.replace("$PATH", built.environment["PATH"])
                built.environment[name] = _ABSOLUTE.sub(f"{built.root}/", value) if name != "PATH" else value
            self._own_path_first(built)
        elif step.verb == "COPY":
            self._copy(step.words(), built)
        elif step.verb == "RUN":
            self._run(step.text, built)

    @staticmethod
    def _own_path_first(built: Built) -> None:
        folders = built.environment["PATH"].split(":")
        inside = [str(built.path(folder)) if built.path(folder).is_dir() else folder for folder in folders]
        built.environment["PATH"] = ":".join(inside)

    def _copy(self, words: list[str], built: Built) -> None:
        flags = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        from_stage = self._stages[flags["from"]] if "from" in flags else None
        for source in sources:
            found = from_stage.path(source) if from_stage else self._context / source
            to = built.path(target) if target.startswith("/") else built.folder / target
            if found.is_dir():
                shutil.copytree(found, to, symlinks=True, dirs_exist_ok=True)
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, to)

    def _run(self, text: str, built: Built) -> None:
        inside = _ABSOLUTE.sub(f"{built.root}/", text)
        environment = {**_networked(), **built.environment}
        environment.pop("PIP_NO_CACHE_DIR", None)  # an image keeps no cache; the machine that tests does
        done = subprocess.run(
            ["sh", "-euc", inside],
            cwd=built.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"RUN {text}\n{done.stdout}{done.stderr}")


def _networked() -> dict[str, str]:
    """How this machine reaches a package index: pip's own variables, proxies, certificates."""
    wanted = re.compile(r"PIP_\w+|\w*(proxy|PROXY)|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|HOME|TMPDIR|XDG_\w+")
    return {name: value for name, value in os.environ.items() if wanted.fullmatch(name)}
