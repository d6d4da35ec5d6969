"""What the cells of a results file say: losses, accuracies and how sure one can be of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.aggregation_quality.federate import Cell

How = Literal["mean", "worst", "by size"]
"""Over hospitals: each counts the same, the worst only, or each by its training examples."""

_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided 95 % interval, by how many values there are."""


_LEAST = 5
"""Records of either label without which an AUROC says nothing."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and half of its 95 % interval; nan of one value only."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Of at most five values."""
        n = len(values)
        half = _T95[n] * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
        return cls(statistics.fmean(values), half)

    def text(self, sign: str = "", digits: int = 3) -> str:
        """As it stands in a table."""
        if not math.isfinite(self.half):
            return f"{self.mean:{sign}.{digits}f}"
        return f"{self.mean:{sign}.{digits}f} ± {self.half:.{digits}f}"


@dataclass(frozen=True)
class Measured:
    """A cell and its outcome. ``hospitals`` are the honest ones; none where a rule does not apply.

    ``weights`` are the last round's, ``excluded`` whom the detector left out, by round. Each
    hospital has a ``loss`` in nats a completion token; where the task has labels, it has
    ``scores`` and ``truth`` too.
    """

    cell: Cell
    hospitals: dict[str, dict[str, Any]]
    weights: dict[str, float]
    excluded: list[list[str]]
    not_applicable: str

    def over(self, figure: Callable[[dict[str, Any]], float], names: Sequence[str]) -> list[float]:
        """A figure of each of these hospitals."""
        return [figure(self.hospitals[name]) for name in names]


class Results:
    """All cells of a task. ``honest`` are the hospitals that never lie, in name order."""

    def __init__(self, cells: Sequence[Measured]) -> None:
        self.cells = cells
        applied = [set(m.hospitals) for m in cells if m.hospitals]
        self.hospitals = sorted(set().union(*applied))
        self.honest = sorted(set.intersection(*applied))

    @classmethod
    def read(cls, file: Path) -> Results:
        """From a results file."""
        return cls(list(_parse(json.loads(file.read_text()))))

    @property
    def labels(self) -> list[str]:
        """Aggregators in the order they were measured in."""
        return list(dict.fromkeys(m.cell.label for m in self.cells))

    @property
    def attacks(self) -> list[str]:
        """In the order they were measured in, none among them."""
        return list(dict.fromkeys(m.cell.attack for m in self.cells))

    def of(self, label: str, attack: str) -> dict[int, Measured]:
        """By seed; empty where nothing was measured or the rule does not apply."""
        return {
            m.cell.seed: m
            for m in self.cells
            if (m.cell.label, m.cell.attack) == (label, attack) and m.hospitals
        }

    def applies(self, label: str, attack: str) -> bool:
        """Whether the rule has the hospitals it needs; True for what was not measured."""
        return not any(
            m.not_applicable for m in self.cells if (m.cell.label, m.cell.attack) == (label, attack)
        )

    def names(self, attack: str) -> list[str]:
        """The hospitals that a comparison within an attack is over."""
        return self.hospitals if attack == "none" else self.honest

    def ranked(self, attack: str) -> list[str]:
        """Of ``names``, those with enough records of either label for an AUROC."""
        measured = next(m for m in self.cells if m.cell.attack == attack and m.hospitals)
        return [n for n in self.names(attack) if rarer(measured.hospitals[n]) >= _LEAST]

    def losses(
        self, label: str, attack: str, how: How, names: Sequence[str] | None = None
    ) -> dict[int, float]:
        """Held-out loss by seed, over the honest hospitals unless others are named."""
        chosen = self.names(attack) if names is None else names
        sizes = np.array([self.sizes[name] for name in chosen])
        found: dict[int, float] = {}
        for seed, measured in self.of(label, attack).items():
            losses = measured.over(lambda h: float(h["loss"]), chosen)
            by_size = float(np.average(losses, weights=sizes))
            found[seed] = {"mean": statistics.fmean(losses), "worst": max(losses)}.get(how, by_size)
        return found

    @cached_property
    def sizes(self) -> dict[str, float]:
        """Each hospital's part of the training examples: its weight in fedavg when nobody lies."""
        return next(iter(self.of("fedavg", "none").values())).weights

    def difference(
        self, label: str, attack: str, how: How, reference: str = "fedavg"
    ) -> Interval | None:
        """Loss minus the reference's with the same seed and attack: below 0 is better."""
        ours, theirs = (self.losses(x, attack, how) for x in (label, reference))
        both = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        return Interval.of(both) if both else None


def _parse(cells: list[dict[str, Any]]) -> Iterator[Measured]:
    for found in cells:
        yield Measured(
            Cell(**{name: found[name] for name in Cell.__dataclass_fields__}),
            found.get("hospitals", {}),
            found.get("weights", {}),
            found.get("excluded", []),
            found.get("not_applicable", ""),
        )


def accuracy(hospital: dict[str, Any]) -> float:
    """Part of the records whose likelier label is the right one."""
    return statistics.fmean(
        (score > 0) == truth
        for score, truth in zip(hospital["scores"], hospital["truth"], strict=True)
    )


def majority(hospital: dict[str, Any]) -> float:
    """The accuracy of always giving the more frequent label."""
    positive = statistics.fmean(hospital["truth"])
    return max(positive, 1 - positive)


def rarer(hospital: dict[str, Any]) -> int:
    """How many records have the less frequent label."""
    truth: list[bool] = hospital["truth"]
    return min(sum(truth), len(truth) - sum(truth))


def auroc(hospital: dict[str, Any]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half.

    nan where all records have one label.
    """
    scores, truth = np.array(hospital["scores"]), np.array(hospital["truth"], dtype=bool)
    pairs = scores[truth][:, None] - scores[~truth][None, :]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0))) if pairs.size else math.nan
