"""One cell of the grid: rounds with an aggregator and an attack, and how good the result is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.aggregation_quality.attacks import (
    LIE_EXAMPLES,
    LIE_METRICS,
    Attack,
    sent,
    trains_on_lies,
)
from benchmarks.aggregation_quality.learning import POOLED, Learner
from coordinator import aggregation
from coordinator.aggregation import Inputs, Update, ValidatedLoss, gram
from coordinator.anomalies import find_anomalies
from coordinator.errors import CannotAggregate
from federation.messages import Metric


@dataclass(frozen=True)
class Cell:
    """What is measured. ``aggregator`` may be ``base``, ``local`` or ``pooled`` too.

    The first ``attackers`` hospitals by name lie. ``detector`` leaves out suspicious updates;
    ``validated`` says that the coordinator measures every update on its own records.
    """

    task: str
    aggregator: str
    attack: Attack
    attackers: int
    seed: int
    detector: bool = False
    validated: bool = False

    @property
    def label(self) -> str:
        """Its aggregator with what goes with it."""
        option = "/detector" if self.detector else "/validated" if self.validated else ""
        return self.aggregator + option

    def key(self) -> dict[str, Any]:
        """All that tells it from other cells."""
        return asdict(self)


@dataclass(frozen=True)
class _Federated:
    """The last adapter, the last round's weights, and whom the detector left out, by round.

    A round in which it left too few for the rule is aborted: the adapter before it stays.
    """

    adapter: Path
    weights: Mapping[str, float]
    excluded: Sequence[Sequence[str]]


def run(learner: Learner, cell: Cell) -> dict[str, Any]:
    """The merged model on each honest hospital's held-out records, or why there is none."""
    names = sorted(learner.task.hospitals)
    liars = frozenset(names[: cell.attackers] if cell.attack != "none" else ())
    honest = [name for name in names if name not in liars]
    result: dict[str, Any] = cell.key()
    if cell.aggregator == "base":
        adapters: dict[str, Path | None] = dict.fromkeys(names)
    elif cell.aggregator in ("local", "pooled"):
        adapters = {name: _alone(learner, cell, name) for name in honest}
    else:
        try:
            found = _federated(learner, cell, liars)
        except CannotAggregate as error:
            return result | {"not_applicable": str(error)}
        result |= {"weights": found.weights, "excluded": found.excluded}
        adapters = dict.fromkeys(names, found.adapter)
    return result | {"hospitals": {name: learner.evaluate(adapters[name], name) for name in honest}}


def _alone(learner: Learner, cell: Cell, name: str) -> Path:
    hospital = POOLED if cell.aggregator == "pooled" else name
    adapter = learner.start(cell.seed)
    for number in range(1, learner.task.rounds + 1):
        trained = learner.train(adapter, hospital, cell.seed, number, "AB", lies=False)
        adapter = trained.adapter
    return adapter


def _federated(learner: Learner, cell: Cell, liars: frozenset[str]) -> _Federated:
    aggregator = aggregation.get(cell.aggregator)
    n = len(learner.task.hospitals)
    least = aggregator.robust.min_hospitals if aggregator.robust else 1
    # The rule's own minimum is for one liar; each further one asks for two hospitals more.
    needed = least + (2 * (max(len(liars), 1) - 1) if aggregator.robust else 0)
    if n < needed:
        raise CannotAggregate(f"needs {needed} hospitals against {len(liars)} liars, there are {n}")
    parent = learner.start(cell.seed)
    excluded: list[list[str]] = []
    weights: dict[str, float] = {}
    for number in range(1, learner.task.rounds + 1):
        updates = [
            _update(learner, cell, name, parent, number, name in liars)
            for name in sorted(learner.task.hospitals)
        ]
        inputs = Inputs.of(learner.schema, partial(_stream, learner.read(parent)), updates)
        if cell.detector:
            excluded.append(_suspicious(inputs))
            updates = [update for update in updates if update.hospital not in excluded[-1]]
            if len(updates) < least:
                continue
            inputs = Inputs.of(inputs.schema, inputs.parent, updates)
        shares = aggregator.shares(inputs)
        weights = {hospital: share.weight for hospital, share in shares.items()}
        parent = learner.store(dict(aggregator.merge(inputs, weights).tensors))
    return _Federated(parent, weights, excluded)


def _suspicious(inputs: Inputs) -> list[str]:
    """By this round alone: drift from earlier ones needs more rounds than there are here."""
    names = [update.hospital for update in inputs.updates]
    return [f.hospital for f in find_anomalies(names, gram(inputs), {}) if f.suspicious]


def _update(
    learner: Learner, cell: Cell, name: str, parent: Path, number: int, liar: bool
) -> Update:
    factors = aggregation.get(cell.aggregator).combiner.factors(number)
    lies = liar and trains_on_lies(cell.attack)
    trained = learner.train(parent, name, cell.seed, number, factors, lies)
    live = learner.schema.shapes(factors)
    tensors = {n: t for n, t in learner.read(trained.adapter).items() if n in live}
    n_examples = trained.n_examples
    metrics: Mapping[Metric, float] = trained.metrics
    if liar:
        tensors = sent(cell.attack, tensors, learner.read(parent), cell.seed)
        if cell.attack == "liar":
            n_examples *= LIE_EXAMPLES
            metrics = LIE_METRICS
    validated: ValidatedLoss | None = None
    if cell.validated:
        validated = learner.validate(learner.store(learner.read(parent) | tensors))
    return Update(
        name, learner.schema.rank, n_examples, metrics, partial(_stream, tensors), validated
    )


def _stream(tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield from sorted(tensors.items())
