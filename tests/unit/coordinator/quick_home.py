"""A home whose server is a real process, and whose commands run in this one to save their start."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from coordinator.cli import cli
from federation.terminal import run
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.test_serve import Home, free_port
from tests.unit.coordinator.world import CARD


class QuickHome(Home):
    """As ``Home``; its federation is ready at once."""

    @classmethod
    def make(cls, folder: Path) -> QuickHome:
        made = cls(folder / "home", free_port(), folder / "events.log")
        made.command("init", "--federation", "demo-net", "--port", str(made.port))
        return made

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run one command with --json; its output."""
        out = io.StringIO()
        with redirect_stdout(out):
            code = run(cli, ["--home", str(self.folder), *arguments, "--json"])
        assert code == 0, arguments
        found: dict[str, Any] = json.loads(out.getvalue())
        return found

    def join(self, name: str) -> Hospital:
        """A hospital that enrolled over HTTPS and was approved."""
        hospital, invite = self.hospital(name, self.folder.parent)
        fingerprint = hospital.enrol(invite).json()["fingerprint"]
        self.command("approve", name, "--fingerprint", fingerprint)
        return hospital

    def open_round(self) -> None:
        """Open a round of exact updates on the tiny card."""
        card = self.folder.parent / "card.json"
        card.write_bytes(CARD.to_json())
        self.command(
            "round", "open", "--base", str(card), "--rank", "2",
            "--target-modules", "q_proj", "--steps", "3", "--codec", "fp32",
        )  # fmt: skip

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
