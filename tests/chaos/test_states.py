"""A short exploration of rounds under faults."""

from __future__ import annotations

import pytest

from tests.chaos.machine import counts
from tests.chaos.rows.states import explore


@pytest.mark.timeout(120)
def test_no_fault_loses_or_doubles_an_update() -> None:
    counts.clear()
    explore(8, seed_=3, steps=40)
    assert counts["runs"] >= 8
    assert counts["round published"] > 0
