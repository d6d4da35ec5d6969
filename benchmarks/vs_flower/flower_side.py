"""Flower's side: SuperLink, two SuperNodes and an app of Flower's own FedAvg, over TLS.

Flower has an environment of its own, since it pins other versions of what we use.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.vs_flower.journal import Journal
from benchmarks.vs_flower.payload import Payload
from benchmarks.vs_flower.processes import PeakMemory, Program
from benchmarks.vs_flower.result import KillOutcome, RunOutcome
from tests.e2e.world import free_port

APP = Path(__file__).parent / "flower_app"
HOSPITALS = 2


@dataclass(frozen=True)
class Environment:
    """The environment that Flower is installed in, and certificate files for its server."""

    programs: Path
    certificate: Path
    key: Path
    authority: Path


class Federation:
    """One SuperLink and its SuperNodes below ``root``."""

    def __init__(self, root: Path, environment: Environment) -> None:
        root.mkdir(parents=True)
        self.root = root
        self.journal = Journal(root / "journal")
        self._programs = environment.programs
        self._variables = {
            "FLWR_HOME": str(root / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PATH": f"{environment.programs}:{os.environ['PATH']}",
        }
        port = free_port()
        tls = (
            *("--ssl-certfile", environment.certificate, "--ssl-keyfile", environment.key),
            *("--ssl-ca-certfile", environment.authority),
        )
        (root / "flwr").mkdir()
        (root / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
            f'root-certificates = "{environment.authority}"\n'
        )
        self.server = self._program(
            "server.log",
            *("flower-superlink", *tls, "--port", str(port), "--database", root / "state.db"),
            "--disable-runtime-dependency-installation",
        )
        _await_port(port)
        self.hospitals = [
            self._program(
                f"h{index}.log",
                *("flower-supernode", "--root-certificates", environment.authority, *tls),
                *("--superlink", f"127.0.0.1:{port}", "--port", str(free_port())),
                *("--node-config", f"hospital={index}"),
            )
            for index in range(HOSPITALS)
        ]

    def _program(self, log: str, program: str, *arguments: str | Path) -> Program:
        command = [self._programs / program, *arguments]
        return Program([str(part) for part in command], self.root / log, self._variables)

    def run(self, payload: Payload, train_seconds: float, rounds: int) -> None:
        """Submit the run."""
        settings = (
            f"rounds={rounds} tensors={payload.n_tensors} values={payload.n_values} "
            f'train-seconds={train_seconds} journal="{self.journal.path}"'
        )
        subprocess.run(
            [self._programs / "flwr", "run", APP, "here", "--run-config", settings],
            env={**os.environ, **self._variables},
            check=True,
            capture_output=True,
            timeout=120,
        )

    def close(self) -> None:
        """Kill whatever runs."""
        for program in (*self.hospitals, self.server):
            program.kill()


def _await_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"nothing listens on {port}")


def measure(root: Path, environment: Environment, payload: Payload, rounds: int) -> RunOutcome:
    """Seconds of each round between configuring and the aggregate, and the server's peak."""
    federation = Federation(root, environment)
    memory = PeakMemory(federation.server)
    memory.start()
    try:
        federation.run(payload, 0.0, rounds)
        if not federation.journal.wait("ended", 1, 600.0 * rounds):
            raise RuntimeError(f"Flower's run did not end; see {root}")
    finally:
        peak = memory.stop()
        federation.close()
    begins, ends = (federation.journal.events(name) for name in ("round_begins", "round_ends"))
    if any(event["delivered"] != HOSPITALS for event in ends):
        raise RuntimeError(f"a round of Flower missed an update; see {root}")
    seconds = tuple(end["at"] - begin["at"] for begin, end in zip(begins, ends, strict=True))
    return RunOutcome(seconds, peak)


def kill(
    root: Path, environment: Environment, payload: Payload, victim: str, train_seconds: float
) -> KillOutcome:
    """Kill a SuperNode or the SuperLink in the middle of the training, start it again, look."""
    federation = Federation(root, environment)
    journal = federation.journal
    try:
        federation.run(payload, train_seconds, 1)
        begun = time.time()
        journal.wait("training_begins", HOSPITALS, 120)
        time.sleep(train_seconds / 4)
        target = federation.server if victim == "server" else federation.hospitals[1]
        target.kill()
        time.sleep(2)
        target.start()
        ended = journal.wait("round_ends", 1, 60 + 4 * train_seconds)
        trainings = len(journal.events("training_begins"))
    finally:
        federation.close()
    if not ended:
        return KillOutcome(False, 0, trainings, "the round did not end")
    event = journal.events("round_ends")[0]
    detail = f"ended after {event['at'] - begun:.0f} s"
    if event["failed"]:
        detail += f"; failed: {event['failed'][0][:120]}"
    return KillOutcome(bool(event["aggregated"]), int(event["delivered"]), trainings, detail)
