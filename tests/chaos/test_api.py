"""A few requests of each call, made from its description."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.api import Trial
from tests.unit.coordinator.conftest import folder

__all__ = ["folder"]


@pytest.mark.timeout(120)
def test_every_call_answers_as_the_document_says(folder: Path) -> None:
    trial = Trial(folder)
    trial.run(300, seed_=5)
    assert trial.failures == []
    assert trial.cases >= 300
    assert trial.reached > 0.3 * trial.cases
