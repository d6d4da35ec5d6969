"""Our side: a coordinator over HTTPS and two hospitals, set up by the commands."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.vs_flower.journal import Journal
from benchmarks.vs_flower.payload import Payload, write_card
from benchmarks.vs_flower.processes import PeakMemory, Program
from benchmarks.vs_flower.result import KillOutcome, RunOutcome
from tests.e2e.world import PROGRAMS, World

HOSPITALS = ("h0", "h1")


class Federation:
    """One federation below ``root``; ``rounds`` open one after another."""

    def __init__(self, root: Path, payload: Payload, train_seconds: float, rounds: int) -> None:
        root.mkdir(parents=True)
        self.world = World(root)
        self.journal = Journal(root / "journal")
        self.world.must(
            self.world.coordinator("init", "--federation", "peer", "--port", str(self.world.port))
        )
        self.server = Program(
            [PROGRAMS / "coordinator", "--home", root / "coordinator", "serve"],
            root / "server.log",
        )
        self._await_server()
        for hospital in HOSPITALS:
            enrolled = self.world.appliance(
                hospital, "enrol", str(self.world.invite(hospital)), "--json"
            )
            seen = ("--fingerprint", str(self.world.must(enrolled).last["fingerprint"]))
            self.world.must(self.world.coordinator("approve", hospital, *seen))
        self._card = write_card(root / "base.json", payload)
        self._rank = payload.rank
        self.hospitals = [
            Program(
                [
                    *(sys.executable, "-m", "benchmarks.vs_flower.hospital"),
                    *(self.world.home(name), str(index), str(rounds), str(train_seconds)),
                    self.journal.path,
                ],
                root / f"{name}.log",
            )
            for index, name in enumerate(HOSPITALS)
        ]

    def open_round(self) -> None:
        """Open the next round through the command, as an administrator does."""
        self.world.must(
            self.world.coordinator(
                *("round", "open", "--base", str(self._card), "--rank", str(self._rank)),
                *("--target-modules", "linear", "--max-norm", "1e9", "--alpha", "16"),
                # Flower sends float32 as it is, and takes the mean.
                *("--codec", "fp32", "--aggregator", "fedavg", "--json"),
            )
        )

    def await_round(self, number: int, seconds: float) -> RoundEnd | None:
        """Wait until the round is published or aborted; None when that takes too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            events = [event for event in self._events() if event.get("round") == number]
            if done := [e for e in events if e["event"] in ("round_published", "round_aborted")]:
                delivered = [e["updates"] for e in events if e["event"] == "round_closed"]
                at = datetime.fromisoformat(done[0]["at"]).timestamp()
                return RoundEnd(
                    at - min(e["at"] for e in self.journal.events("sees_round", round=number)),
                    delivered[0] if delivered else 0,
                    done[0]["event"],
                )
            time.sleep(0.05)
        return None

    def _events(self) -> list[dict[str, Any]]:
        lines = (self.world.root / "server.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def close(self) -> None:
        """Kill whatever runs."""
        for program in (*self.hospitals, self.server):
            program.kill()

    def _await_server(self) -> None:
        for _ in range(200):
            if any(event["event"] == "serving" for event in self._events()):
                return
            time.sleep(0.1)
        raise RuntimeError((self.world.root / "server.log").read_text())


@dataclass(frozen=True)
class RoundEnd:
    """How a round ended: seconds after a hospital first saw it, and with how many updates."""

    seconds: float
    delivered: int
    event: str


def measure(root: Path, payload: Payload, rounds: int) -> RunOutcome:
    """Seconds of each round, from a hospital seeing it to its record, and the server's peak."""
    federation = Federation(root, payload, 0.0, rounds)
    memory = PeakMemory(federation.server)
    memory.start()
    try:
        seconds = []
        for number in range(1, rounds + 1):
            federation.open_round()
            ended = federation.await_round(number, 600)
            if ended is None or ended.delivered != len(HOSPITALS):
                raise RuntimeError(f"round {number}: {ended}; see {root}")
            seconds.append(ended.seconds)
    finally:
        peak = memory.stop()
        federation.close()
    return RunOutcome(tuple(seconds), peak)


def kill(root: Path, payload: Payload, victim: str, train_seconds: float) -> KillOutcome:
    """Kill a hospital or the server in the middle of the training, start it again, and look."""
    federation = Federation(root, payload, train_seconds, 1)
    try:
        federation.open_round()
        federation.journal.wait("training_begins", len(HOSPITALS), 120)
        time.sleep(train_seconds / 4)
        target = federation.server if victim == "server" else federation.hospitals[1]
        target.kill()
        time.sleep(2)
        target.start()
        ended = federation.await_round(1, 60 + 4 * train_seconds)
        trainings = len(federation.journal.events("training_begins"))
    finally:
        federation.close()
    if ended is None:
        return KillOutcome(False, 0, trainings, "the round did not end")
    return KillOutcome(
        ended.event == "round_published",
        ended.delivered,
        trainings,
        f"ended after {ended.seconds:.0f} s",
    )
