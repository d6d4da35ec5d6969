"""Programs as real processes, forked from a server that has imported what is slow to import."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.chaos.interposer import Interposer, Plan, available, library

PART = 3 << 9
"""Bytes of a part of an upload or a download here, so that a tiny adapter has several."""

_TICK_SECONDS = 0.2
_POLL_SECONDS = 0.005
_asking = threading.Lock()
"""Held for every question about a process: two threads that ask at once take its end from each
other, since starting one asks after all of them."""


@dataclass(frozen=True)
class Job:
    """One command line; ``answers`` gets a line for each answer that an appliance saw."""

    program: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    out: Path
    answers: Path
    plan: Plan | None
    part: int = PART


class Program:
    """A started command."""

    def __init__(self, job: Job) -> None:
        self.job = job
        for suffix in (job.out.suffix, ".err"):
            job.out.with_suffix(suffix).touch()
        context = multiprocessing.get_context("forkserver")
        with _asking:
            _start_server()
            self._process: ForkServerProcess = context.Process(
                target=_run, args=(job,), daemon=True
            )
            self._process.start()

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal; None when it still runs after ``seconds``."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        with _asking:
            return self._process.exitcode

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        with _asking:
            return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        with _asking:
            self._process.kill()
        self.wait(20)

    def stop(self) -> int | None:
        """SIGTERM, and wait for the end."""
        with _asking:
            self._process.terminate()
        return self.wait(20)

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self.job.out.with_suffix(".err").read_text()

    def events(self) -> list[dict[str, Any]]:
        """The JSON lines of standard output so far, a line cut off by a kill left out."""
        lines = self.job.out.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]


def _start_server() -> None:
    if getattr(forkserver._forkserver, "_forkserver_pid", None) is not None:
        return
    fixed = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if available():
        fixed["LD_PRELOAD"] = str(library())
    # A killed program's semaphores are cleaned up in the end, which is said as a warning.
    fixed["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    before = {name: os.environ.get(name) for name in fixed}
    os.environ.update(fixed)
    try:
        multiprocessing.set_forkserver_preload(["tests.chaos.preload"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(job: Job) -> None:
    """In the child: become the command."""
    for handle, suffix in ((1, job.out.suffix), (2, ".err")):
        opened = os.open(job.out.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, handle)
        os.close(opened)
    for name in [n for n in os.environ if n.startswith(("FEDMED_", "COORDINATOR_", "LD_PRELOAD"))]:
        del os.environ[name]
    os.environ.update(job.environment)
    _hasten(job)
    interposer = Interposer(job.plan) if job.plan else None
    sys.argv = [job.program, *job.arguments]
    if job.program == "coordinator":
        from coordinator.cli import main
    else:
        from appliance.cli import main
    try:
        main()
    finally:
        sys.stdout.flush()
        if interposer:
            interposer.disarm()


def _hasten(job: Job) -> None:
    """Shorter waits and parts; the answers that the appliance sees are noted."""
    from appliance import connection
    from appliance.rounds import outbox
    from coordinator import server

    _set(server, "_TICK_SECONDS", _TICK_SECONDS)
    _set(outbox, "PART", job.part)
    _set(connection, "_CHUNK", job.part)
    send = connection.Connection.send
    notes = os.open(job.answers, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def noted(
        self: connection.Connection, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> connection.Answer:
        answer = send(self, method, path, body, headers)
        note: dict[str, Any] = {"method": method, "path": path, "status": answer.status}
        note |= {"at": time.monotonic_ns(), "offset": answer.headers.get("upload-offset")}
        note["hospital"] = Path(job.arguments[1]).name
        if path.endswith("/commit"):
            note["content"] = answer.content.decode()
        os.write(notes, json.dumps(note).encode() + b"\n")
        return answer

    _set(connection.Connection, "send", noted)


def _set(owner: object, name: str, value: object) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more"
    setattr(owner, name, value)
