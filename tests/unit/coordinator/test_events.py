"""The event log's lines."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from coordinator.events import to_stderr

N_THREADS, N_EVENTS = 8, 300


def write_at_once() -> None:
    """Many threads with an event each, again and again."""

    def some() -> None:
        for _ in range(N_EVENTS):
            to_stderr("noted", hospital="h01")

    threads = [threading.Thread(target=some) for _ in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_events_of_many_threads_have_a_line_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import write_at_once; write_at_once()"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert len(lines) == N_THREADS * N_EVENTS
    assert {line[:7] + line[-1] for line in lines} == {'{"at": }'}


def test_text_stays_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("noted", detail="Zürich\nline two")
    assert capsys.readouterr().err.count("\n") == 1
