"""Rounds under every fault at once: requests lost, repeated and late, crashes, clocks, new keys."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.machine import Federation, counts
from tests.chaos.rows import Options, Result

WHAT = "state machine: hypothesis over the real application, each hospital a power of two"

_RUNS = 2000
_STEPS = 50


def run(options: Options) -> Result:
    """``_RUNS`` runs of ``_STEPS`` steps in a full run."""
    counts.clear()
    wanted = options.share(_RUNS)
    failures = []
    try:
        explore(wanted, options.seed)
    except AssertionError as error:
        failures.append("\n    ".join([str(error), *getattr(error, "__notes__", ())]))
    happened = {what: counts.pop(what) for what in ("runs", "steps")}
    lines = [(what, str(n)) for what, n in sorted(counts.items())]
    return Result({**happened}, [("what", "times"), *lines], failures)


def explore(runs: int, seed_: int, steps: int = _STEPS) -> None:
    """Raise AssertionError, with the steps that show it, when a promise breaks."""
    chosen = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(seed(seed_)(Federation), settings=chosen)
