"""Processes that are started, killed with all their children, and whose memory is sampled."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil


class Program:
    """A command in a session of its own, so that a kill reaches its children too."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start it, again after a kill."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to the whole session, as a power cut would."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class PeakMemory(threading.Thread):
    """The largest resident memory of a program and its children together, sampled."""

    def __init__(self, program: Program, seconds: float = 0.1) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._seconds = seconds
        self._stopped = threading.Event()
        self.n_bytes = 0

    def run(self) -> None:
        """Sample until stopped."""
        while not self._stopped.wait(self._seconds):
            total = 0
            for process in self._program.family():
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_info().rss
            self.n_bytes = max(self.n_bytes, total)

    def stop(self) -> int:
        """End sampling; the peak in bytes."""
        self._stopped.set()
        self.join()
        return self.n_bytes
