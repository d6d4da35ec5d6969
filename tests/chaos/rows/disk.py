"""A full disk or an I/O error at every call that writes, of the coordinator and of a hospital."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from tests.chaos.federation import Broken, Federation, Stages
from tests.chaos.finishing import answers, examine, finish
from tests.chaos.interposer import Fault, Op, Plan
from tests.chaos.killing import Case, by_step, survey
from tests.chaos.programs import Program
from tests.chaos.rows import Options, Result

WHAT = "disk full, I/O error at every write"

_AT_ONCE = 3
_FULL_SECONDS = 0.4
_OF_A_STEP = 40
"""A step with more calls than this repeats itself, as the nonce of each request does."""

_STORAGE = 9
_REMOVES = (Op.UNLINK, Op.RMDIR, Op.TRUNCATE)


@dataclass(frozen=True)
class Failure:
    """One call that fails: with EIO once, or with ENOSPC and all that follow for a while."""

    case: Case
    full: bool

    def __str__(self) -> str:
        kind = "disk full from" if self.full else "I/O error at"
        point = self.case.point
        return f"{self.case.victim}: {kind} {point.step} call {point.nth} ({point.op.name.lower()})"

    def plan(self, federation: Federation) -> Plan:
        """What the program meets."""
        code, seconds = (errno.ENOSPC, _FULL_SECONDS) if self.full else (errno.EIO, 0.0)
        point = self.case.point
        return Plan(federation.disk, Fault(point.step, point.nth, errno=code, seconds=seconds))


def failures(cases: Sequence[Case], seed: int) -> list[Failure]:
    """Each call of a round once, full disks and I/O errors in turn."""
    places = [case for case in dict.fromkeys(_once(cases)) if case.point.op is not Op.SEND]
    kinds = cycle((True, False))
    chosen = [
        # A full disk does not keep anyone from removing things.
        Failure(case, next(kinds) and case.point.op not in _REMOVES)
        for step in by_step(places, seed).values()
        for case in step[:_OF_A_STEP]
    ]
    random.Random(seed).shuffle(chosen)
    return chosen


def _once(cases: Sequence[Case]) -> list[Case]:
    wanted = ("serve", "train", "sync")
    return [Case(c.victim, c.point, cases[0].kill) for c in cases if c.victim in wanted]


def carry_out(failure: Failure, stages: Stages, folder: Path) -> Counter[str]:
    """Let the call fail, then finish and examine the round; counts what was seen.

    Raises Broken when a program ends otherwise than with exit code 9 and a clear error, when the
    coordinator answers otherwise than 503 or 507, or when the round ends differently.
    """
    made = (stages.published if failure.case.victim == "sync" else stages.half).copy(folder)
    if failure.case.victim == "serve":
        seen = _at_coordinator(failure, made)
    else:
        seen = _at_hospital(failure, made)
    examine(made, stages)
    seen |= Counter(str(a["status"]) for a in answers(made) if a["status"] >= 500)
    shutil.rmtree(folder)
    return seen


def _at_coordinator(failure: Failure, made: Federation) -> Counter[str]:
    server = made.serve(failure.plan(made))
    finish(made, server)
    for word in ("Traceback", "internal_error"):
        if word in server.err:
            raise Broken(f"the coordinator's log: {server.err}")
    with made.serving():
        pass  # what could not be removed is swept at the next start
    return Counter()


def _at_hospital(failure: Failure, made: Federation) -> Counter[str]:
    with made.serving() as server:
        arguments = {
            "train": ("train", "--round", "1", "--json"),
            "sync": ("sync", "--no-evaluate", "--json"),
        }[failure.case.victim]
        program = made.start("a", *arguments, plan=failure.plan(made))
        code = program.wait(60)
        _check_end(program, code)
        finish(made, server, program if failure.case.victim == "train" else None)
    return Counter({"exit code 9": code == _STORAGE, "went on": code == 0})


def _check_end(program: Program, code: int | None) -> None:
    if code not in (0, _STORAGE) or "Traceback" in program.err:
        raise Broken(f"ended with {code}: {program.err}")
    if code == _STORAGE:
        said = json.loads(program.err.splitlines()[-1])
        if not (said["error"] == "storage" and said["message"] and said["hint"]):
            raise Broken(f"unclear: {said}")


def run(options: Options) -> Result:
    """Let every call of a round fail once."""
    stages = Stages(options.folder)
    assert stages.undisturbed
    chosen = failures(survey(stages, options.folder / "survey"), options.seed)
    chosen = chosen[: options.share(len(chosen))]
    options.say(f"{len(chosen)} calls to fail")

    def attempt(numbered: tuple[int, Failure]) -> tuple[Failure, Counter[str], str]:
        number, failure = numbered
        try:
            return failure, carry_out(failure, stages, options.folder / f"case-{number}"), ""
        except Broken as error:
            return failure, Counter(), f"{failure}: {error}"

    seen: Counter[str] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for failure, counts, why in pool.map(attempt, enumerate(chosen)):
            seen += counts
            calls[failure.case.step] += 1
            if why:
                options.say(f"BROKEN {why}")
                broken.append(why)
            if sum(calls.values()) % 25 == 0:
                options.say(f"{sum(calls.values())} calls failed, {len(broken)} broken")
    if not seen["507"]:
        broken.append("no answer was a 507: nothing failed")
    lines = [(*step, str(n)) for step, n in sorted(calls.items())]
    figures = {
        "calls that failed": len(chosen),
        "of these disk full": sum(failure.full for failure in chosen),
        **{f"answers {status}": seen[status] for status in ("503", "507")},
        "commands that ended with exit code 9": seen["exit code 9"],
        "commands that went on": seen["went on"],
    }
    return Result(figures, [("program", "step", "calls failed"), *lines], broken)
