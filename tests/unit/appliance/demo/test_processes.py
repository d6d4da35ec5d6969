"""The demonstration's processes when they are killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.demo.processes import Children, DemoError, Line, server

SLOW = "import time; print('{}', flush=True); time.sleep(60)"
DIES_ONCE = """
import json, os, pathlib, signal, sys
seen = pathlib.Path(sys.argv[1])
if not seen.exists():
    seen.touch()
    os.kill(os.getpid(), signal.SIGKILL)
print(json.dumps({"done": True}))
"""


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(pid_file: Path, other_than: int = 0) -> int:
    """The server's process id, once it is another one."""
    found: list[int] = []

    def read() -> bool:
        text = pid_file.read_text() if pid_file.exists() else ""
        found[:] = [int(text)] if text else []
        return bool(found) and found[0] != other_than

    until(read)
    return found[0]


def test_a_killed_server_is_started_again_and_ends_with_the_block(tmp_path: Path) -> None:
    log, said = tmp_path / "server.log", list[str]()
    with server(python(SLOW), dict(os.environ), log, tmp_path, said.append) as supervised:
        first = running(log.with_suffix(".pid"))
        os.kill(first, signal.SIGKILL)
        second = running(log.with_suffix(".pid"), other_than=first)
        until(supervised.alive)
    assert said == ["The server was killed by signal 9; started again."]
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
    assert not log.with_suffix(".pid").exists()


def test_a_server_that_ends_by_itself_stays_ended(tmp_path: Path) -> None:
    log, said = tmp_path / "server.log", list[str]()
    with server(
        python("raise SystemExit(2)"), dict(os.environ), log, tmp_path, said.append
    ) as supervised:
        supervised.join(20)
        assert not supervised.alive()
    assert said == []


def test_a_killed_command_is_run_again(tmp_path: Path) -> None:
    lines: list[Line] = []
    command = python(DIES_ONCE, str(tmp_path / "seen"))
    assert Children().stream(command, dict(os.environ), lines.append) == {"done": True}
    assert lines[0] == {"event": "Note", "text": "killed by signal 9; started again"}


def test_a_command_that_is_killed_again_and_again_is_an_error() -> None:
    lines: list[Line] = []
    command = python("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(DemoError, match="ended with exit code -9"):
        Children().stream(command, dict(os.environ), lines.append)
    assert len(lines) == 2
