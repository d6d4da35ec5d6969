"""Six hospitals with a megabyte each, against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.load import Crowd, measure
from tests.chaos.rows.crowd import broken


@pytest.mark.timeout(180)
def test_deliveries_at_once_are_all_counted_once(tmp_path: Path) -> None:
    found = measure(Crowd(tmp_path, 6, 1.0), within=0, slow=False)
    # Other tests use the same cores: how long a call takes is a matter of the long form.
    assert broken(found, 6, control_seconds=20.0) == []
    assert found.control
