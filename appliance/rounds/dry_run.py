"""``appliance train --dry-run``: check everything that a round needs, and change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.context import Context
from appliance.rounds.participation import prepare, require_open
from appliance.session import open_session
from backends import choose, memory
from federation.base_model import read_card
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
    memory_present: int
    metrics: tuple[Metric, ...]
    deadline: int

    @property
    def leaves(self) -> tuple[str, ...]:
        """What leaves the hospital, in words."""
        words = ["the sealed adapter update", "the number of training examples", *self.metrics]
        if "loss_before" in self.metrics:
            words.append("later the published adapter's held-out loss here, and over how many")
        return tuple(words)

    @property
    def fits(self) -> bool:
        """Whether the memory that training needs, by the estimate, is there."""
        return self.memory_needed < self.memory_present


def dry_run(context: Context, number: int) -> DryRun:
    """Raises the error that ``appliance train --round`` would, before any training."""
    with open_session(context) as session, TemporaryDirectory() as scratch:
        prepared = prepare(context, session, number, Path(scratch))
        require_open(session, number)
    descriptor = prepared.verified.descriptor
    settings = context.config.engine
    backend, reason = choose(None if settings.backend == "auto" else settings.backend)
    probe = backend.probe()
    needed = memory.estimate(
        read_card(prepared.base),
        descriptor.adapter_schema,
        descriptor.recipe,
        settings.quantisation,
        forward_tokens=probe.forward_tokens,
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
        rank=descriptor.adapter_schema.rank,
        factors=descriptor.factors,
        memory_needed=needed,
        memory_present=probe.memory_bytes,
        metrics=tuple(m for m in descriptor.metrics if m in prepared.policy.metrics),
        deadline=prepared.deadline.now(),
    )
