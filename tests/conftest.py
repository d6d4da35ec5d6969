"""What holds for every test."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests, or left by a command run in this process, go away."""
    for name in [name for name in os.environ if name.startswith(("FEDMED_", "COORDINATOR_"))]:
        monkeypatch.delenv(name)
