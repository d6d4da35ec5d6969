"""Killing a program at a chosen call, and finishing the round after it."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

from tests.chaos.federation import (
    Broken,
    Federation,
    Stages,
    body,
    round_file,
    state,
    succeeded,
    until,
)
from tests.chaos.finishing import check_transfers, examine, finish
from tests.chaos.interposer import Fault, Kill, Op, Plan, Point, read_trace
from tests.chaos.programs import Program

Victim = Literal["round open", "serve", "train", "sync", "round close --abort"]
_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """A kill of one program at one call of one of its steps."""

    victim: Victim
    point: Point
    kill: Kill

    def __str__(self) -> str:
        place = f"{self.point.step} call {self.point.nth} ({self.point.op.name.lower()})"
        return f"{self.victim}: {self.kill.name.lower()} {place}"

    @property
    def step(self) -> tuple[str, str]:
        """Program and step: what coverage counts."""
        return self.victim, self.point.step


def survey(stages: Stages, folder: Path) -> list[Case]:
    """Every place where a program may be killed in an undisturbed life of a round."""
    cases: list[Case] = []

    def traced(victim: Victim, federation: Federation) -> Plan:
        return Plan(federation.disk, trace=folder / f"{victim}.trace")

    made = stages.joined.copy(folder / "opening")
    succeeded(stages.open_round(made, traced("round open", made)))
    made = stages.half.copy(folder / "round")
    server = made.serve(traced("serve", made))
    until(lambda: '"serving"' in server.err, "the server to answer")
    succeeded(made.train("a", traced("train", made)))
    until(lambda: state(made) == "published", "the round to be published")
    succeeded(made.start("a", "sync", "--no-evaluate", plan=traced("sync", made)))
    server.stop()
    made = stages.half.copy(folder / "abort")
    succeeded(_abort(made, traced("round close --abort", made)))
    for victim in ("round open", "serve", "train", "sync", "round close --abort"):
        for point in read_trace(folder / f"{victim}.trace"):
            kills = list(Kill) if point.op is Op.WRITE else [Kill.BEFORE, Kill.AFTER]
            cases += [Case(victim, point, kill) for kill in kills]
    return cases


def _abort(federation: Federation, plan: Plan | None = None) -> Program:
    return federation.start("coordinator", "round", "close", "--abort", "--json", plan=plan)


def by_step(cases: Sequence[Case], seed: int) -> dict[tuple[str, str], list[Case]]:
    """The cases of each step in an order of their own."""
    steps: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        steps[case.step].append(case)
    stream = random.Random(seed)
    for found in steps.values():
        stream.shuffle(found)
    return steps


def spread(steps: Mapping[tuple[str, str], Sequence[Case]], seed: int) -> Iterator[Case]:
    """Endlessly, one case of each step in turn; each step goes through all of its cases."""
    turns = [cycle(cases) for cases in steps.values()]
    random.Random(seed).shuffle(turns)
    while True:
        for turn in turns:
            yield next(turn)


def carry_out(case: Case, stages: Stages, folder: Path) -> bool:
    """Kill, start again, finish and examine; False when the call was never reached.

    Raises Broken for a broken promise. The folder is removed unless it is needed to see why.
    """
    scenario: dict[str, Callable[[Case, Stages, Path], bool]] = {
        "round open": _in_opening,
        "serve": _in_round,
        "train": _in_round,
        "sync": _in_sync,
        "round close --abort": _in_abort,
    }
    killed = scenario[case.victim](case, stages, folder)
    shutil.rmtree(folder)
    return killed


def _plan(case: Case, federation: Federation) -> Plan:
    return Plan(federation.disk, Fault(case.point.step, case.point.nth, kill=case.kill))


def _killed(program: Program) -> bool:
    code = program.wait(_SECONDS)
    if code not in (0, -9):
        raise Broken(f"{program.job.arguments} ended with {code}: {program.err}")
    return code == -9


def _in_opening(case: Case, stages: Stages, folder: Path) -> bool:
    made = stages.joined.copy(folder)
    killed = _killed(stages.open_round(made, _plan(case, made)))
    if state(made) == "none":
        succeeded(stages.open_round(made))
    finish(made, None)
    examine(made, stages)
    return killed


def _in_round(case: Case, stages: Stages, folder: Path) -> bool:
    made = stages.half.copy(folder)
    plan = _plan(case, made)
    server = made.serve(plan if case.victim == "serve" else None)
    until(lambda: not server.running or '"serving"' in server.err, "the server")
    training = made.train("a", plan if case.victim == "train" else None)
    finish(made, server, training)
    examine(made, stages)
    check_transfers(made.runs("a-train"))
    return _killed(server if case.victim == "serve" else training)


def _in_sync(case: Case, stages: Stages, folder: Path) -> bool:
    made = stages.published.copy(folder)
    with made.serving() as server:
        killed = _killed(made.start("a", "sync", "--no-evaluate", plan=_plan(case, made)))
        finish(made, server)
    examine(made, stages)
    return killed


def _in_abort(case: Case, stages: Stages, folder: Path) -> bool:
    made = stages.half.copy(folder)
    killed = _killed(_abort(made, _plan(case, made)))
    if state(made) != "aborted":
        succeeded(_abort(made))
    with made.serving():
        made.run("b", "sync", "--no-evaluate")
    record = body(round_file(made, "b", "record.json"))
    if (record["outcome"], record["adapter_sha256"]) != (
        "aborted",
        record["parent_adapter_sha256"],
    ):
        raise Broken(f"the aborted round's record says {record['outcome']}")
    return killed
