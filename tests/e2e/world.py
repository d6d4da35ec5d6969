"""A federation made by its commands alone: a coordinator over HTTPS, hospitals with own homes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import tiny_model

PROGRAMS = Path(sysconfig.get_path("scripts"))
WORDS = ("heart", "lung", "kidney", "liver", "brain", "skin", "bone", "blood", "nerve", "eye")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        """The last line of standard output, JSON."""
        found: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return found


def finish(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Wait until a command that prints JSON lines has succeeded."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def records(hospital: str, n: int = 60) -> str:
    lines = [
        {
            "question": f"What does finding {i} of the {WORDS[i % 10]} at {hospital} mean?",
            "answer": f"A change of the {WORDS[(i * 7) % 10]} that is seen in {hospital}.",
        }
        for i in range(n)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


@dataclass
class World:
    """Everything of one test federation below ``root``."""

    root: Path
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None

    def environment(self, **more: str) -> dict[str, str]:
        """What every appliance command of this world runs with."""
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("FEDMED_")},
            "FEDMED_MODELS": str(self.root / "models"),
            "FEDMED_ENGINE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            **more,
        }

    def run(
        self, program: str, home: Path, *arguments: str, text: str = "", **environment: str
    ) -> Done:
        """Run a command without a terminal, with ``text`` as its standard input."""
        done = subprocess.run(
            [PROGRAMS / program, "--home", home, *arguments],
            env=self.environment(**environment),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def home(self, hospital: str) -> Path:
        return self.root / hospital

    def appliance(self, hospital: str, *arguments: str, text: str = "", **environment: str) -> Done:
        return self.run("appliance", self.home(hospital), *arguments, text=text, **environment)

    @contextmanager
    def following(
        self, hospital: str, *options: str, **environment: str
    ) -> Iterator[subprocess.Popen[str]]:
        """``appliance train --follow`` beside what happens inside; killed at its end."""
        process = subprocess.Popen(
            [PROGRAMS / "appliance", "--home", self.home(hospital), "train", "--follow", *options],
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def coordinator(self, *arguments: str) -> Done:
        return self.run("coordinator", self.root / "coordinator", *arguments)

    def must(self, done: Done) -> Done:
        """The command must have succeeded."""
        assert done.code == 0, done.err or done.out
        return done

    def set_up(self) -> None:
        """A base model, a coordinator's home, and its server."""
        shutil.copytree(tiny_model(), self.root / "models" / "tiny")
        self.must(self.coordinator("init", "--federation", "test", "--port", str(self.port)))
        self.serve()

    def serve(self) -> None:
        """Start the server and wait until it answers."""
        with (self.root / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [PROGRAMS / "coordinator", "--home", self.root / "coordinator", "serve"],
                stderr=log,
                stdout=log,
            )
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.root / "server.log").read_text())

    def stop(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait(20)
            self.server = None

    def invite(self, hospital: str) -> Path:
        file = self.root / f"{hospital}.invite.json"
        self.must(self.coordinator("invite", hospital, "--out", str(file)))
        return file

    def join(self, hospital: str) -> None:
        """Invite, enrol, approve, and import data."""
        enrolled = self.appliance(hospital, "enrol", str(self.invite(hospital)), "--json")
        seen = ("--fingerprint", str(self.must(enrolled).last["fingerprint"]))
        self.must(self.coordinator("approve", hospital, *seen))
        file = self.root / f"{hospital}.jsonl"
        file.write_text(records(hospital))
        self.must(self.appliance(hospital, "data", "import", str(file)))

    def open_round(self, *options: str) -> dict[str, Any]:
        """Open the next round on the tiny base model."""
        base = str(self.root / "models" / "tiny")
        common = ("--base", base, "--steps", "4", "--batch-size", "4", "--rank", "4")
        done = self.coordinator("round", "open", *common, *options, "--json")
        return self.must(done).last

    def await_published(self, hospital: str, number: int) -> None:
        """Wait, a bounded time, until the round is published."""
        for _ in range(100):
            status = self.appliance(hospital, "status", "--json").last
            if (status["round"], status["round_state"]) == (number, "published"):
                return
            time.sleep(0.2)
        raise AssertionError(f"round {number} is not published: {status}")
