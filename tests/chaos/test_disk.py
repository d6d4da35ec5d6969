"""The short version of the row ``disk``: one call of each kind fails."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.federation import Stages
from tests.chaos.interposer import Kill, Op, Point
from tests.chaos.killing import Case, Victim
from tests.chaos.rows.disk import Failure, carry_out

pytestmark = pytest.mark.timeout(600)

FAILURES: tuple[tuple[Victim, Point, bool, str], ...] = (
    ("serve", Point("coordinator.blobs:append", 2, Op.TRUNCATE), True, "507"),
    ("serve", Point("coordinator.blobs:append", 4, Op.SYNC), False, "507"),
    ("serve", Point("coordinator.store.uploads:settle", 3, Op.WRITE), False, "507"),
    ("serve", Point("coordinator.blobs:put_adapter", 2, Op.WRITE), True, ""),
    ("train", Point("appliance.rounds.outbox:put", 2, Op.WRITE), True, "exit code 9"),
    ("train", Point("appliance.rounds.outbox:_deliver_once", 3, Op.SYNC), False, "exit code 9"),
    ("sync", Point("appliance.adapters:store", 3, Op.WRITE), False, "exit code 9"),
)


@pytest.mark.parametrize(("victim", "point", "full", "seen"), FAILURES)
def test_a_disk_that_refuses_costs_nothing_but_time(
    stages: Stages, folder: Path, victim: Victim, point: Point, full: bool, seen: str
) -> None:
    failure = Failure(Case(victim, point, Kill.BEFORE), full)
    counts: Counter[str] = carry_out(failure, stages, folder / "case")
    assert counts[seen] or not seen
