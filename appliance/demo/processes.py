"""The demonstration's processes: one-shot commands, parallel hospitals, and one server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federation.errors import FedMedError

Line = dict[str, Any]

_LIVES = 3
"""A command that is killed more often than this has a cause that starting again does not mend."""


class DemoError(FedMedError):
    """A process of the demonstration failed."""

    slug = "demo"


def _explain(command: Sequence[str], code: int, stderr: str) -> DemoError:
    tail = "\n".join(stderr.strip().splitlines()[-12:])
    shown = " ".join(command[2:])
    return DemoError(
        f"`{shown}` ended with exit code {code}:\n{tail}",
        hint="Run `make demo` again: it continues where it stopped.",
    )


def run_json(command: Sequence[str], environment: dict[str, str]) -> Line:
    """Run a command that prints JSON; its last line. Raises DemoError with what it said."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise _explain(command, done.returncode, done.stderr)
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else {}


class Children:
    """Processes that end with the demonstration, however it ends."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def stream(
        self, command: Sequence[str], environment: dict[str, str], on_line: Callable[[Line], None]
    ) -> Line:
        """Run a command, handing on each JSON line; returns the last. Raises DemoError.

        Killed by a signal it is started again, as hospital IT would: it goes on where it was.
        """
        for _ in range(_LIVES - 1):
            code, last, errors = self._streamed(command, environment, on_line)
            if code >= 0 or self._stopped:
                break
            on_line({"event": "Note", "text": f"killed by signal {-code}; started again"})
        else:
            code, last, errors = self._streamed(command, environment, on_line)
        if code:
            raise _explain(command, code, errors)
        return last

    def _streamed(
        self, command: Sequence[str], environment: dict[str, str], on_line: Callable[[Line], None]
    ) -> tuple[int, Line, str]:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        errors: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=errors.extend, args=(process.stderr,))
        reader.start()
        last: Line = {}
        with self._tracked(process):
            for line in process.stdout:
                last = json.loads(line)
                on_line(last)
            code = process.wait()
        reader.join()
        return code, last, "".join(errors)

    @contextmanager
    def _tracked(self, process: subprocess.Popen[str]) -> Iterator[None]:
        with self._lock:
            self._running.add(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Ask every process to end, then make sure of it."""
        self._stopped = True
        with self._lock:
            running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def in_parallel(
    names: Sequence[str], work: Callable[[str], Line], *, at_once: int, children: Children
) -> dict[str, Line]:
    """Run ``work`` for each name, ``at_once`` at a time; the first failure stops the others."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = {name: pool.submit(work, name) for name in names}
        try:
            return {name: future.result() for name, future in futures.items()}
        except BaseException:
            for future in futures.values():
                future.cancel()
            children.stop()
            raise


def _is_ours(pid: int, home: Path) -> bool:
    listing = subprocess.run(
        ["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False
    )
    return "coordinator" in listing.stdout and str(home) in listing.stdout


def stop_left_over(pid_file: Path, home: Path) -> None:
    """End the coordinator that a killed demonstration left running."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    if _is_ours(pid, home):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if not _is_ours(pid, home):
                break
            time.sleep(0.1)
    pid_file.unlink(missing_ok=True)


class Supervised(threading.Thread):
    """A server that is started again when it is killed, as a service manager does.

    Its standard error goes to ``log``, its process id beside it; ``say`` is told of each new start.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        log: Path,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._command = list(command)
        self._environment = environment
        self._log = log
        self._say = say
        self._lock = threading.Lock()
        self._ending = False
        self._process = self._launched()

    @property
    def pid_file(self) -> Path:
        """Names the present process, for a demonstration that finds it left over."""
        return self._log.with_suffix(".pid")

    def run(self) -> None:
        """Wait for its end; unless it ended by itself, start it again."""
        while (code := self._process.wait()) < 0:
            with self._lock:
                if self._ending:
                    return
                self._process = self._launched()
            self._say(f"The server was killed by signal {-code}; started again.")

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """Ask it to end, then make sure of it."""
        with self._lock:
            self._ending = True
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.join()
        self.pid_file.unlink(missing_ok=True)

    def _launched(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            # A session of its own: Ctrl-C must reach it last, when the hospitals have stopped.
            process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid_file.write_text(str(process.pid))
        return process


@contextmanager
def server(
    command: Sequence[str],
    environment: dict[str, str],
    log: Path,
    home: Path,
    say: Callable[[str], None],
) -> Iterator[Supervised]:
    """A supervised server for the length of a block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stop_left_over(log.with_suffix(".pid"), home)
    supervised = Supervised(command, environment, log, say)
    supervised.start()
    try:
        yield supervised
    finally:
        supervised.end()
