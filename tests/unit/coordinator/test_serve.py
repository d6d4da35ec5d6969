"""The real server: a process, TLS, signals, a crash in the middle of an upload."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from coordinator.rounds import State
from federation.canonical import sha256
from federation.membership import Invite
from federation.messages import ProgressReport
from federation.signing import Identity
from tests.unit.coordinator.hospital import Hospital, problem
from tests.unit.coordinator.world import CARD

COORDINATOR = [sys.executable, "-c", "from coordinator.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Home:
    """A coordinator's home, driven by its command line alone."""

    folder: Path
    port: int
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> dict[str, Any]:
        """Run one command with --json; its output."""
        result = subprocess.run(
            [*COORDINATOR, "--home", str(self.folder), *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def serve(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it says that it serves."""
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*COORDINATOR, "--home", str(self.folder), "serve"], stderr=log
            )
        self.processes.append(process)
        for _ in range(200):
            if b'"serving"' in self.log.read_bytes()[before:]:
                return process
            assert process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def hospital(self, name: str, folder: Path) -> tuple[Hospital, Invite]:
        """A hospital that trusts only what the invite says."""
        file = folder / f"{name}.json"
        self.command("invite", name, "--out", str(file))
        assert file.stat().st_mode & 0o077 == 0
        invite = Invite.model_validate_json(file.read_bytes())
        context = ssl.create_default_context(cadata=invite.ca_certificate)
        client = httpx2.Client(base_url=invite.url, verify=context, timeout=20)
        clock = lambda: int(time.time())  # noqa: E731
        return Hospital(name, client, folder, clock, Identity.generate()), invite


@pytest.fixture
def home(folder: Path) -> Iterator[Home]:
    made = Home(folder / "home", free_port(), folder / "events.log")
    made.command("init", "--federation", "demo-net", "--port", str(made.port))
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_round_over_https_survives_a_kill(home: Home, folder: Path) -> None:
    server = home.serve()
    (folder / "card.json").write_bytes(CARD.to_json())
    h01, invite = home.hospital("h01", folder)
    assert h01.enrol(invite).json()["status"] == "waiting"
    fingerprint = h01.enrol(invite).json()["fingerprint"]
    home.command("approve", "h01", "--fingerprint", fingerprint)
    opened = home.command(
        "round", "open", "--base", str(folder / "card.json"), "--rank", "2",
        "--target-modules", "q_proj", "--steps", "3",
    )  # fmt: skip
    assert (opened["round"], opened["quorum"]) == (1, 1)
    beat = ProgressReport(phase="training", step=2, of=3)
    assert h01.request("POST", "/v1/rounds/1/progress", beat).status_code == 204
    (row,) = home.command("status")["hospitals"]
    assert (row["phase"], row["step"], row["of"]) == ("training", 2, 3)

    update = h01.seal(1)
    h01.announce(update)
    assert h01.part(update, 0, update.body[:200]).status_code == 204
    server.kill()
    server.wait()
    server = home.serve()
    assert h01.request("HEAD", update.path).headers["upload-offset"] == "200"
    assert h01.part(update, 200, update.body[200:]).status_code == 204
    assert h01.receipt(h01.commit(update)).accepted

    for _ in range(100):
        if h01.current().state == State.PUBLISHED.value:
            break
        time.sleep(0.1)
    record = h01.record(1)
    adapter = h01.request("GET", f"/v1/adapters/{record.adapter_sha256}").content
    assert sha256(adapter) == record.adapter_sha256
    assert home.command("status")["adapter_sha256"] == record.adapter_sha256

    # Idle connections, such as this hospital's, do not hold it up.
    server.send_signal(signal.SIGTERM)
    server.wait(timeout=5)
    events = [json.loads(line) for line in home.log.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names == [
        "serving", "enrolled", "serving", "update_accepted",
        "round_closed", "round_aggregated", "round_published", "stopped",
    ]  # fmt: skip
    assert invite.token not in home.log.read_text()


def test_what_the_server_refuses_at_its_edge(home: Home, folder: Path) -> None:
    home.serve()
    _, invite = home.hospital("h01", folder)
    context = ssl.create_default_context(cadata=invite.ca_certificate)
    # Not with a certificate that the hospital does not know.
    with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx2.get(f"{invite.url}/healthz", verify=ssl.create_default_context())
    with httpx2.Client(base_url=invite.url, verify=context) as client:
        assert client.get("/readyz").text == "ready\n"
        assert problem(client.put("/v1/enrolments"))[0] == 405
        large = client.post(
            "/v1/enrolments",
            content=bytes(9 << 20),
            headers={"Content-Type": "application/json"},
        )
        assert problem(large)[0] == 413
        assert "server" not in large.headers
    # Not twice, neither on this port nor on this home.
    for extra in ([], ["--port", str(free_port())]):
        second = subprocess.run(
            [*COORDINATOR, "--home", str(home.folder), "serve", *extra],
            capture_output=True,
            text=True,
            check=False,
        )
        assert second.returncode in (2, 9)
        assert "in use" in second.stderr or "already serves" in second.stderr
        assert "Traceback" not in second.stderr
