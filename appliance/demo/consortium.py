"""The demonstration's federation: a coordinator over HTTPS and four hospitals, set up as a real
consortium does it, each step by the same command."""

from __future__ import annotations

import socket
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.demo.processes import Children, DemoError, Line, Supervised, run_json, server
from appliance.demo.settings import (
    ATTACKER,
    BASE_MODEL,
    DemoPaths,
    DemoSettings,
    program,
)

FEDERATION = "demo"
_PATIENCE_SECONDS = 60.0
# A demonstration may be left alone for days and continued.
_INVITE_HOURS = "8760"
_DEADLINE_MINUTES = "10080"


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Consortium:
    """Runs the ``coordinator`` and ``appliance`` commands of one demonstration."""

    def __init__(self, paths: DemoPaths, settings: DemoSettings, threads: int) -> None:
        self.paths = paths
        self.settings = settings
        self.children = Children()
        self.environment = paths.environment(threads)

    def coordinator(self, *arguments: str) -> Line:
        """One ``coordinator`` command with ``--json``."""
        home = ["--home", str(self.paths.coordinator)]
        return run_json([program("coordinator"), *home, *arguments, "--json"], self.environment)

    def appliance_command(self, hospital: str, *arguments: str) -> list[str]:
        """The command line of one ``appliance`` command with ``--json``."""
        home = ["--home", str(self.paths.hospital(hospital))]
        return [program("appliance"), *home, *arguments, "--json"]

    def appliance(self, hospital: str, *arguments: str) -> Line:
        """One short ``appliance`` command."""
        return run_json(self.appliance_command(hospital, *arguments), self.environment)

    def training_command(self, hospital: str, number: int) -> list[str]:
        """The command line of a hospital's part in a round; that of the liar, where one lies."""
        attack = self.settings.attack
        if attack == "none" or hospital != ATTACKER:
            return self.appliance_command(hospital, "train", "--round", str(number))
        home = str(self.paths.hospital(hospital))
        return [sys.executable, "-m", "appliance.demo.attacker", attack, home, str(number)]

    def init(self) -> None:
        """Make the coordinator's keys, certificate authority and database, once."""
        if not (self.paths.coordinator / "coordinator.toml").exists():
            port = str(free_port())
            self.coordinator("init", "--federation", FEDERATION, "--port", port)

    @contextmanager
    def serving(self, say: Callable[[str], None]) -> Iterator[None]:
        """The coordinator, as a process of its own, for the length of a block.

        Killed it is started again, of which ``say`` is told.
        """
        home = self.paths.coordinator
        command = [program("coordinator"), "--home", str(home), "serve"]
        log = self.paths.run / "coordinator.log"
        with server(command, self.environment, log, home, say) as process:
            self._await_ready(process, log)
            yield

    def _await_ready(self, process: Supervised, log: Path) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        config = tomllib.loads((self.paths.coordinator / "coordinator.toml").read_text())
        port = config["server"]["port"]
        while process.alive() and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise DemoError(f"The coordinator did not start; see {log}.")

    def enrol(self, hospital: str) -> Line:
        """Invite, enrol and approve one hospital; gives the fingerprint that both sides saw."""
        invite = self.paths.run / "invites" / f"{hospital}.json"
        invite.parent.mkdir(exist_ok=True, mode=0o700)
        if not invite.exists():
            self.coordinator(
                "invite", hospital, "--out", str(invite), "--valid-hours", _INVITE_HOURS
            )
        answer = self.appliance(hospital, "enrol", str(invite))
        admin_key = str(self.paths.coordinator / "admin" / "admin.pem")
        seen = ("--fingerprint", str(answer["fingerprint"]))
        self.coordinator("approve", hospital, "--admin-key", admin_key, *seen)
        return answer

    def import_data(self, hospital: str) -> Line:
        """Import the hospital's own records."""
        records = self.paths.data / hospital / "records.jsonl"
        return self.appliance(hospital, "data", "import", str(records))

    def round_state(self) -> tuple[int, str]:
        """Number and state of the newest round, as the coordinator's own command shows it."""
        status = self.coordinator("status")
        return int(status["round"]), str(status["state"])

    def open_round(self) -> None:
        """Open the next round with the demonstration's recipe."""
        s = self.settings
        self.coordinator(
            "round",
            "open",
            *("--base", str(self.paths.models / BASE_MODEL)),
            *("--aggregator", s.aggregator),
            *("--steps", str(s.steps)),
            *("--batch-size", str(s.batch_size)),
            *("--learning-rate", str(s.learning_rate)),
            *("--schedule", s.schedule),
            *("--eval-examples", str(s.eval_examples), "--max-length", str(s.max_length)),
            *("--deadline-minutes", _DEADLINE_MINUTES),
            # Nobody is there to review: what looks unlike the others is left out at once.
            *("--review-minutes", "0"),
        )

    def await_published(self, number: int) -> None:
        """Wait until the round is published. Raises DemoError when it was aborted instead."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            current, state = self.round_state()
            if current > number or (current == number and state == "published"):
                return
            if state == "aborted":
                raise DemoError(f"Round {number} was aborted.", hint="See the coordinator's log.")
            time.sleep(0.5)
        raise DemoError(f"Round {number} was not published in {_PATIENCE_SECONDS:.0f} s.")
