"""What holds for every test."""

from __future__ import annotations

import os
import signal

import pytest

# A shell starts what runs in its background with SIGINT ignored, which children inherit: programs
# under test could not be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests, or left by a command run in this process, go away."""
    for name in [name for name in os.environ if name.startswith(("FEDMED_", "COORDINATOR_"))]:
        monkeypatch.delenv(name)
