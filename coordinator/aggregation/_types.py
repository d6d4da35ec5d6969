"""What aggregation works on, and the three kinds of plug-in it is put together from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from federation.adapter import AdapterSchema, Factors
from federation.messages import Metric

Tensors = Iterator[tuple[str, np.ndarray]]
"""Names and tensors of one adapter, in name order, one tensor in memory at a time."""

Source = Callable[[], Tensors]
"""Starts a stream anew; a method that needs two passes calls it twice."""

Exactness = Literal["yes", "up to rank", "no"]
"""Whether the result's Delta W is the weighted mean of the hospitals' Delta W."""


@dataclass(frozen=True)
class ValidatedLoss:
    """What the coordinator measured of one update on its own validation set.

    ``loss`` is in nats a completion token; ``variance`` that of the loss over folds of the set, in
    nats squared, None where the set is too small for folds.
    """

    loss: float
    variance: float | None


@dataclass(frozen=True)
class Update:
    """One hospital's accepted update: float32 tensors of the round's live factors.

    ``validated`` is the coordinator's own measurement, where it has a validation set; it comes
    before anything the hospital reports.
    """

    hospital: str
    rank: int
    n_examples: int
    metrics: Mapping[Metric, float]
    tensors: Source
    validated: ValidatedLoss | None = None


@dataclass(frozen=True)
class Inputs:
    """All that an aggregation sees of a round.

    ``updates`` are in hospital-id order, so that sums are the same on every rerun; ``parent``
    is the global adapter the hospitals started from, both factors.
    """

    schema: AdapterSchema
    parent: Source
    updates: tuple[Update, ...]

    @classmethod
    def of(cls, schema: AdapterSchema, parent: Source, updates: list[Update]) -> Inputs:
        """Inputs with the updates put in order."""
        return cls(schema, parent, tuple(sorted(updates, key=lambda u: u.hospital)))


@dataclass(frozen=True)
class Share:
    """A hospital's weight in the sum, and in words why."""

    weight: float
    reason: str

    @property
    def explanation(self) -> str:
        """One line for the round record."""
        return f"weight {self.weight:.2f}: {self.reason}"

    def changed(self, weight: float, reason: str) -> Share:
        """Another weight, with one more reason."""
        return replace(self, weight=weight, reason=f"{self.reason}; {reason}")


Shares = Mapping[str, Share]
"""By hospital, in hospital-id order."""


@dataclass(frozen=True)
class Merged:
    """The next global adapter: both factors at the schema's rank, float32, in name order."""

    tensors: Tensors
    discarded: dict[str, float] = field(default_factory=dict)
    """Module path -> part of the squared norm of its Delta W that the cut to the schema's rank
    lost, 0 to 1. Filled while the tensors are read; empty where nothing is cut."""


@dataclass(frozen=True)
class Weighting:
    """How much each hospital counts, before a robust rule looks at what it changed.

    ``metrics`` are what an update has to report for it. ``weights`` are non-negative, sum to 1.
    """

    summary: str
    weights: Callable[[Inputs], Shares]
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class Robust:
    """A rule against hospitals that lie: other weights, from what each changed this round.

    ``min_hospitals`` updates are needed for it to withstand one of them. ``one_vote`` says that
    it starts from equal weights only, since it could be outvoted by a hospital that overstates
    its examples. ``adjust`` may give weights that sum to less than 1; the rest is the parent's.
    """

    summary: str
    min_hospitals: int
    adjust: Callable[[Inputs, Shares], Shares]
    one_vote: bool = False


@dataclass(frozen=True)
class Combiner:
    """How weighted updates become one adapter.

    ``linear`` says that the result is a function of the weighted sum of the updates alone, so
    that it works under secure aggregation's masks and in memory that does not grow with the
    hospitals; ``mixed_ranks`` that updates may have different ranks up to the schema's.

    ``keeps_factors`` says that factors keep their meaning from round to round, being means, so that
    what coding lost of an update still fits the next; a singular value decomposition turns them.

    ``factors`` gives what hospitals train and send in an adapter's n-th round (1 after a fresh
    start, when B is zero). The weights given to ``combine`` are non-negative and sum to at most
    1; the rest is the parent's.
    """

    summary: str
    exact: Exactness
    mixed_ranks: bool
    linear: bool
    keeps_factors: bool
    factors: Callable[[int], Factors]
    combine: Callable[[Inputs, Mapping[str, float]], Merged]


Part = Weighting | Robust | Combiner
