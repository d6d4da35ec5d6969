"""The short version of the row ``network``: one round over a line that breaks ten times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.federation import Stages
from tests.chaos.rows.network import PART, RANK, carry_out

pytestmark = pytest.mark.timeout(600)


def test_a_round_over_a_line_that_breaks(stages: Stages, folder: Path) -> None:
    large = stages.again("large", rank=RANK, part=PART)
    proxy = carry_out(large, folder / "round", seed=3, cuts=8)
    assert sum(proxy.done[kind] for kind in ("lose request", "lose answer", "reorder")) >= 5
    assert set(proxy.repeated) == {"401"}
