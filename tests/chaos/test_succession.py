"""The coordinator's keys are replaced, killed at each call that touches the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coordinator.config import load_config
from coordinator.context import open_coordinator
from coordinator.paths import Paths
from coordinator.succession import rotate
from federation.messages import PublicIdentity
from federation.signing import Identity
from tests.chaos.federation import Federation, Stages, succeeded
from tests.chaos.interposer import Fault, Kill, Op, Plan, Point, read_trace
from tests.chaos.programs import Program

pytestmark = pytest.mark.timeout(600)


def start(made: Federation, plan: Plan) -> Program:
    return made.start("coordinator", "keys", "rotate", "--json", plan=plan)


def kills(points: list[Point]) -> list[tuple[Point, Kill]]:
    """Before each call, within each write, and after the last one."""
    found = [(point, Kill.BEFORE) for point in points]
    found += [(point, Kill.HALF) for point in points if point.op is Op.WRITE]
    return [*found, (points[-1], Kill.AFTER)]


def test_wherever_it_is_killed_there_are_working_keys_and_one_succession(
    stages: Stages, folder: Path
) -> None:
    made = stages.joined.copy(folder / "traced")
    trace = folder / "rotate.trace"
    succeeded(start(made, Plan(made.disk, trace=trace)))
    points = list(read_trace(trace))
    steps = {point.step for point in points}
    assert {
        "federation.signing:save",
        "coordinator.store.successions:add",
        "coordinator.signing_keys:replaced",
    } <= steps
    before = 0
    for point, kill in kills(points):
        made = stages.joined.copy(folder / "killed")
        plan = Plan(made.disk, Fault(point.step, point.nth, kill=kill))
        assert start(made, plan).wait(60) == -9, point
        before += examine(Paths(made.home("coordinator")), point, kill)
        shutil.rmtree(folder / "killed")
    # It was cut off before the commit as well as after it.
    assert 0 < before < len(kills(points))


def examine(paths: Paths, point: Point, kill: Kill) -> bool:
    """Whether the founding keys still sign; and that the same command finishes it."""
    founding = PublicIdentity.model_validate_json(pinned(paths))
    coordinator = open_coordinator(paths, load_config(paths.config))
    admin = Identity.load(paths.admin_key)

    def chain() -> tuple[PublicIdentity, ...]:
        found = coordinator.store.successions.chain()
        return found.keys("chaos", admin.public(), founding)

    signing = coordinator.identity.public()
    assert chain()[-1] == signing, (point, kill)
    left = (paths.keys / "coordinator.next.pem").exists()
    done = rotate(coordinator, admin)
    # Only of a rotation of which nothing was left to do another one follows.
    finished = signing != founding and not left
    assert done.number == (2 if finished else 1), (point, kill)
    assert Identity.load(paths.identity).public() == coordinator.identity.public() == chain()[-1]
    assert not (paths.keys / "coordinator.next.pem").exists()
    coordinator.store.database.close()
    return signing == founding


def pinned(paths: Paths) -> bytes:
    enrolment = paths.home.parent / "a" / "enrolment.json"
    return json.dumps(json.loads(enrolment.read_text())["coordinator"]).encode()
