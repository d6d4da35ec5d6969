"""``appliance train --dry-run``: check everything that a round needs, and change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.context import Context
from appliance.engine import choose_engine, plan_training
from appliance.rounds.overrides import NO_WISHES, Wishes
from appliance.rounds.participation import prepare, require_open
from appliance.session import open_session
from appliance.training import load_data
from backends.planning import MachinePlan
from backends.tokens import ChatTokenizer
from federation.messages import Metric


@dataclass(frozen=True)
class DryRun:
    """What taking part would mean; memory in bytes, the deadline in seconds since 1970."""

    round: int
    base: str
    backend: str
    reason: str
    n_train: int
    n_held_out: int
    steps: int
    aggregator: str
    rank: int
    factors: str
    memory_needed: int
    memory_free: int
    machine: MachinePlan
    metrics: tuple[Metric, ...]
    deadline: int

    @property
    def leaves(self) -> tuple[str, ...]:
        """What leaves the hospital, in words."""
        words = ["the sealed adapter update", "the number of training examples", *self.metrics]
        if "loss_before" in self.metrics:
            words.append("later the published adapter's held-out loss here, and over how many")
        return tuple(words)


def dry_run(context: Context, number: int, wishes: Wishes = NO_WISHES) -> DryRun:
    """Raises the error that ``appliance train --round`` would, before any training."""
    with open_session(context) as session, TemporaryDirectory() as scratch:
        prepared = prepare(context, session, number, Path(scratch), wishes)
        require_open(session, number)
    descriptor, settings = prepared.verified.descriptor, context.config.engine
    backend, reason = choose_engine(settings)
    data = load_data(ChatTokenizer(prepared.base), context.paths.data, prepared.recipe)
    machine = plan_training(
        prepared.base,
        prepared.schema,
        descriptor.factors,
        prepared.recipe,
        data.train,
        settings,
        prepared.choices,
    )
    return DryRun(
        round=number,
        base=descriptor.base.name,
        backend=backend.name,
        reason=reason,
        n_train=prepared.n_train,
        n_held_out=prepared.n_held_out,
        steps=prepared.steps,
        aggregator=descriptor.aggregator,
        rank=prepared.schema.rank,
        factors=descriptor.factors,
        memory_needed=machine.needed.total,
        memory_free=machine.free,
        machine=machine,
        metrics=tuple(m for m in descriptor.metrics if m in prepared.policy.metrics),
        deadline=prepared.deadline.now(),
    )
