"""kill -9 of every program of a round at every call that changes its disk."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from tests.chaos.federation import Broken, Stages
from tests.chaos.killing import Case, by_step, carry_out, spread, survey
from tests.chaos.rows import FULL, Options, Result

WHAT = "kill -9 of coordinator and appliance in a real round over HTTPS, tiny model"

_AT_ONCE = 3
_ON_EACH = 10


def run(options: Options) -> Result:
    """Kill ``options.kills`` times; in a full run at least ten times on each step."""
    stages = Stages(options.folder)
    assert stages.undisturbed
    steps = by_step(survey(stages, options.folder / "survey"), options.seed)
    wanted = options.kills
    if wanted >= FULL:
        wanted = max(wanted, _ON_EACH * len(steps))
    options.say(f"{len(steps)} steps, {sum(map(len, steps.values()))} places, {wanted} kills")
    plan = spread(steps, options.seed)
    hits: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[Case]] = {step: set() for step in steps}
    missed, failures, tried = 0, [], 0

    def attempt(number: int, case: Case) -> tuple[Case, bool, str]:
        try:
            return case, carry_out(case, stages, options.folder / f"case-{number}"), ""
        except Broken as error:
            return case, True, f"{case}: {error}"

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # A call that the timing of a run leaves out is made up for by a further kill.
        while sum(hits.values()) < wanted and tried < 2 * wanted:
            batch = list(islice(plan, min(20, wanted - sum(hits.values()))))
            numbers = range(tried, tried + len(batch))
            tried += len(batch)
            for case, killed, failure in pool.map(attempt, numbers, batch):
                missed += not killed
                hits[case.step] += killed
                if killed:
                    places[case.step].add(case)
                if failure:
                    options.say(f"BROKEN {failure}")
                    failures.append(failure)
            options.say(f"{sum(hits.values())} kills, {len(failures)} broken")
    head = ("program", "step", "kills", "places hit", "places")
    lines = [
        (*step, str(hits[step]), str(len(places[step])), str(len(set(steps[step]))))
        for step in sorted(steps)
    ]
    figures = {
        "kills": sum(hits.values()),
        "steps": len(steps),
        "fewest kills on a step": min(hits[step] for step in steps),
        "places hit": sum(map(len, places.values())),
        "calls not reached": missed,
    }
    return Result(figures, [head, *lines], failures)
