"""A federation of two hospitals as folders that are copied, broken, finished and examined."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from federation.signing import SignedDocument
from tests.chaos.interposer import Plan
from tests.chaos.programs import PART, Job, Program
from tests.e2e.world import free_port, records
from tests.tiny import build_tiny_model

HOSPITALS = ("a", "b")
_URL_PORT = 8443
_LONGEST_WAIT = 60.0


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass
class Federation:
    """Homes below ``root``: ``disk/coordinator``, ``disk/a`` and ``disk/b``; logs beside them."""

    root: Path
    models: Path
    part: int = PART
    port: int = field(default_factory=free_port)
    _numbers: Iterator[int] = field(default_factory=count)
    _programs: list[tuple[str, Program]] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        """What the interposer watches."""
        return self.root / "disk"

    def home(self, name: str) -> Path:
        """The home of ``coordinator`` or of a hospital."""
        return self.disk / name

    @property
    def answers(self) -> Path:
        """Every answer that an appliance saw, one JSON line each."""
        return self.root / "answers.jsonl"

    def start(self, name: str, *arguments: str, plan: Plan | None = None) -> Program:
        """Start a command of the coordinator or of a hospital."""
        job = Job(
            "coordinator" if name == "coordinator" else "appliance",
            ("--home", str(self.home(name)), *arguments),
            {"FEDMED_MODELS": str(self.models), "FEDMED_ENGINE_THREADS": "1"},
            self.root / f"{next(self._numbers):03d}-{name}-{arguments[0]}.out",
            self.answers,
            plan,
            self.part,
        )
        program = Program(job)
        self._programs.append((f"{name}-{arguments[0]}", program))
        return program

    def runs(self, name: str) -> list[Program]:
        """The programs started so far under a name such as a-train, in order."""
        return [program for started, program in self._programs if started == name]

    def run(self, name: str, *arguments: str) -> Program:
        """Run a command that must succeed."""
        return succeeded(self.start(name, *arguments))

    def serve(self, plan: Plan | None = None) -> Program:
        """Start the coordinator's server; it may not answer yet."""
        return self.start("coordinator", "serve", "--port", str(self.port), plan=plan)

    def train(self, hospital: str, plan: Plan | None = None) -> Program:
        """Start a hospital's part in round 1."""
        return self.start(hospital, "train", "--round", "1", "--json", plan=plan)

    def copy(self, target: Path) -> Federation:
        """The same federation in another folder, at a port of its own."""
        shutil.copytree(self.disk, target / "disk")
        copied = Federation(target, self.models, self.part)
        copied.move_to(copied.port)
        return copied

    def move_to(self, port: int) -> None:
        """Let the hospitals connect to ``port``."""
        for hospital in HOSPITALS:
            file = self.home(hospital) / "enrolment.json"
            enrolment = json.loads(file.read_text())
            file.write_text(json.dumps({**enrolment, "url": f"https://127.0.0.1:{port}"}))

    @contextmanager
    def serving(self) -> Iterator[Program]:
        """A server that answers, for the length of a block."""
        server = self.serve()
        try:
            until(lambda: '"serving"' in server.err, "the server to answer")
            yield server
        finally:
            server.stop()


def succeeded(program: Program) -> Program:
    """Wait for a program's end. Raises Broken when it failed or hangs."""
    if (code := program.wait(_LONGEST_WAIT)) != 0:
        raise Broken(f"{' '.join(program.job.arguments)} ended with {code}: {program.err}")
    return program


def until(met: Any, what: str, seconds: float = _LONGEST_WAIT) -> None:  # noqa: ANN401
    """Wait for a condition. Raises Broken when it does not come."""
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)


@dataclass
class Stages:
    """The same federation before round 1, in it with b's update delivered, and after it."""

    folder: Path
    rank: int = 4
    part: int = PART

    def again(self, name: str, *, rank: int, part: int) -> Stages:
        """The same two hospitals in a round of another rank, sent in other parts."""
        other = Stages(self.folder / name, rank, part)
        other.joined = self.joined
        return other

    @cached_property
    def joined(self) -> Federation:
        """Both hospitals are members and have data; no round yet."""
        models = self.folder / "models"
        build_tiny_model(models / "tiny")
        made = Federation(self.folder / "joined", models, self.part)
        made.disk.mkdir(parents=True)
        made.run("coordinator", "init", "--federation", "chaos", "--port", str(made.port))
        with made.serving():
            for hospital in HOSPITALS:
                invite = made.root / f"{hospital}.json"
                made.run("coordinator", "invite", hospital, "--out", str(invite))
                enrolled = made.run(hospital, "enrol", str(invite), "--json").events()[-1]
                seen = enrolled["fingerprint"]
                made.run("coordinator", "approve", hospital, "--fingerprint", seen)
                data = made.root / f"{hospital}.jsonl"
                data.write_text(records(hospital, 40))
                made.run(hospital, "data", "import", str(data))
        return made

    def open_round(self, federation: Federation, plan: Plan | None = None) -> Program:
        """Start opening round 1."""
        options = ("--steps", "3", "--batch-size", "4", "--rank", str(self.rank))
        base = str(federation.models / "tiny")
        return federation.start(
            "coordinator", "round", "open", "--base", base, *options, "--json", plan=plan
        )

    @cached_property
    def opened(self) -> Federation:
        """Round 1 is open, nobody has delivered."""
        made = self.joined.copy(self.folder / "opened")
        made.part = self.part
        succeeded(self.open_round(made))
        return made

    @cached_property
    def half(self) -> Federation:
        """Round 1 is open and b's update is accepted."""
        made = self.opened.copy(self.folder / "half")
        with made.serving():
            succeeded(made.train("b"))
        return made

    @cached_property
    def published(self) -> Federation:
        """Round 1 is published, nobody has fetched the adapter."""
        made = self.half.copy(self.folder / "published")
        with made.serving():
            succeeded(made.train("a"))
            until(lambda: state(made) == "published", "the round to be published")
        return made

    @cached_property
    def undisturbed(self) -> bytes:
        """The adapter that round 1 publishes when nothing goes wrong."""
        made = self.published.copy(self.folder / "undisturbed")
        with made.serving():
            made.run("a", "sync", "--no-evaluate")
        return global_adapter(made, "a").read_bytes()


def state(federation: Federation) -> str:
    """The round's state, as the coordinator's own command tells it."""
    told: str = federation.run("coordinator", "status", "--json").events()[-1]["state"]
    return told


def global_adapter(federation: Federation, hospital: str) -> Path:
    """Where a hospital keeps what round 1 published."""
    folder = federation.home(hospital) / "adapters" / "global" / "0001"
    return folder / "adapter_model.safetensors"


def body(file: Path) -> dict[str, Any]:
    """What a signed document on disk says."""
    document = SignedDocument.model_validate_json(file.read_bytes())
    said: dict[str, Any] = json.loads(document.body)
    return said


def round_file(federation: Federation, hospital: str, name: str) -> Path:
    """A file of a hospital's part in round 1."""
    return federation.home(hospital) / "rounds" / "0001" / name
