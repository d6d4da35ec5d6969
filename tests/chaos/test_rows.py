"""Every row has what ``python -m tests.chaos`` needs of it."""

from __future__ import annotations

import inspect

import pytest

from tests.chaos import rows


@pytest.mark.parametrize("name", rows.names())
def test_a_row_says_what_it_is_and_runs(name: str) -> None:
    row = rows.load(name)
    assert row.WHAT
    assert list(inspect.signature(row.run).parameters) == ["options"]


def test_a_share_is_of_a_full_run(tmp_path: rows.Path) -> None:
    given = {300: 200, 3: 2, 1: 1, 600: 200}
    for kills, share in given.items():
        assert rows.Options(kills, 0, tmp_path, print).share(200) == share
