"""Requests made from the coordinator's OpenAPI document, valid and not, signed by a member."""

from __future__ import annotations

from tests.chaos.api import Trial
from tests.chaos.rows import Options, Result

WHAT = "API: schemathesis over the OpenAPI document, signed as an enrolled hospital"

_CASES = 10_000


def run(options: Options) -> Result:
    """``_CASES`` cases in a full run, as many of each call."""
    trial = Trial(options.folder)
    trial.run(options.share(_CASES), options.seed)
    return Result(
        {
            "cases": trial.cases,
            "reached the call's own work": trial.reached,
            "in percent": round(100 * trial.reached / trial.cases, 1),
            "calls": len(trial.operations),
        },
        [("status", "answers"), *((s, str(n)) for s, n in sorted(trial.statuses.items()))],
        sorted(set(trial.failures))[:20],
    )
