"""Ways to combine updates, put together from plug-ins of three kinds.

    weighting    how much each hospital counts        examples, equal, agentic, ...
    robust       what to do about those that lie      norm-clip, multi-krum, ...
    combiner     how the sum is made one adapter      fedavg, alternating, stacked, ...

Each is one module of this folder that defines ``PART``; the module's name is the plug-in's, with
``-`` for ``_``, and nothing else lists them. An aggregator is their names joined with ``+``:
``agentic+multi-krum+stacked``. What is left out is ``examples``, no robust rule, and ``fedavg``.

All are pure: streams of tensors in, a stream of tensors out, no I/O and no clock.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from coordinator.aggregation._gram import gram
from coordinator.aggregation._moves import gram_and_moves
from coordinator.aggregation._types import (
    Combiner,
    Inputs,
    Merged,
    Part,
    Robust,
    Share,
    Shares,
    Tensors,
    Update,
    ValidatedLoss,
    Weighting,
)
from coordinator.errors import CannotAggregate
from federation.errors import InputError
from federation.messages import Metric

__all__ = [
    "KINDS",
    "Aggregator",
    "Combiner",
    "Inputs",
    "Merged",
    "Part",
    "Robust",
    "Share",
    "Shares",
    "Tensors",
    "Update",
    "ValidatedLoss",
    "Weighting",
    "discover",
    "get",
    "gram",
    "gram_and_moves",
    "kind",
]

KINDS: tuple[tuple[type[Part], str], ...] = (
    (Weighting, "weighting"),
    (Robust, "robust"),
    (Combiner, "combiner"),
)
"""The kinds of plug-ins and what they are called."""

_HINT = "`coordinator aggregators` lists what there is and what it needs."


@dataclass(frozen=True)
class Aggregator:
    """One of each kind. ``name`` is canonical: weighting, robust rule, combiner; no defaults."""

    name: str
    weighting: Weighting
    robust: Robust | None
    combiner: Combiner

    def check_round(self, members: int, quorum: int, metrics: Sequence[Metric]) -> None:
        """Refuse a round in which this could not work or would promise too much.

        ``members`` is the number of hospitals that may take part. Raises InputError with the
        reason and the nearest choice that would do.
        """
        needed = self.robust.min_hospitals if self.robust else 1
        if quorum < needed:
            raise InputError(
                f"The aggregator {self.name!r} withstands a lying hospital only with {needed} "
                f"updates, and the round's quorum is {quorum}.",
                hint=f"Open it {f'with --quorum {needed}, or ' if members >= needed else ''}"
                f"with --aggregator {self._for(quorum)}. {_HINT}",
            )
        if missing := [m for m in self.weighting.metrics if m not in metrics]:
            wanted = ",".join(dict.fromkeys([*metrics, *self.weighting.metrics]))
            raise InputError(
                f"The aggregator {self.name!r} weighs by {', '.join(missing)}, which the round "
                "does not ask for.",
                hint=f"Open it with --metrics {wanted}. {_HINT}",
            )

    def _for(self, quorum: int) -> str:
        """The name with another robust rule, one that this quorum is enough for, or with none."""
        found = discover()
        words = [w for w in self.name.split("+") if not isinstance(found[w], Robust)]
        for name, part in found.items():
            if not isinstance(part, Robust) or part.min_hospitals > quorum:
                continue
            if not part.one_vote or self.weighting is found["equal"]:
                return get("+".join([name, *words])).name
        return "+".join(words)

    def shares(self, inputs: Inputs) -> Shares:
        """Each hospital's weight, with reasons. They sum to 1, or less: the rest is the parent's.

        Raises CannotAggregate when there is no update, too few of them, or no weight.
        """
        if not inputs.updates:
            raise CannotAggregate("there is no update that could be used")
        shares = self.weighting.weights(inputs)
        _check_weights({name: share.weight for name, share in shares.items()})
        if self.robust is None:
            return shares
        if len(shares) < self.robust.min_hospitals:
            raise CannotAggregate(
                f"{self.name} needs {self.robust.min_hospitals} updates, and only {len(shares)} "
                "could be used"
            )
        shares = self.robust.adjust(inputs, shares)
        _check_weights({name: share.weight for name, share in shares.items()})
        return shares

    def merge(self, inputs: Inputs, weights: Mapping[str, float]) -> Merged:
        """The next adapter from updates and weights. Raises CannotAggregate for bad weights.

        Reading its tensors raises AdapterError where updates do not fit together or a result is
        not finite.
        """
        _check_weights(weights)
        return self.combiner.combine(inputs, weights)


def _check_weights(weights: Mapping[str, float]) -> None:
    """Non-negative, finite, not all zero, and 1 together at most."""
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()):
        raise CannotAggregate("a weight is negative or not finite")
    total = math.fsum(weights.values())
    if total <= 0:
        raise CannotAggregate("all weights are zero")
    if total > 1 + 1e-9:
        raise CannotAggregate(f"the weights sum to {total:.6f}, which is more than 1")


@cache
def discover() -> Mapping[str, Part]:
    """Every plug-in of this folder by name. Sums and helpers start with an underscore."""
    found: dict[str, Part] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            part = importlib.import_module(f"{__name__}.{module.name}").PART
            assert isinstance(part, Part), module.name
            found[module.name.replace("_", "-")] = part
    return found


def kind(part: Part) -> str:
    """The word for what a plug-in is."""
    return next(word for cls, word in KINDS if isinstance(part, cls))


def get(name: str) -> Aggregator:
    """The aggregator of these names joined with ``+``, in any order.

    Raises InputError for an unknown name, two of a kind, or parts that do not go together, with
    the nearest choice that does.
    """
    found = discover()
    chosen: dict[str, str] = {}
    for word in name.split("+"):
        if word not in found:
            raise InputError(
                f"There is no aggregator {word!r}.", hint=f"Known: {', '.join(found)}. {_HINT}"
            )
        other = chosen.setdefault(kind(found[word]), word)
        if other != word:
            raise InputError(
                f"The aggregator {name!r} names two of a kind: {other} and {word}.",
                hint=f"Choose one of them. {_HINT}",
            )
    combiner = found[chosen.get("combiner", "fedavg")]
    robust = found[chosen["robust"]] if "robust" in chosen else None
    assert isinstance(combiner, Combiner)
    assert robust is None or isinstance(robust, Robust)
    one_vote = robust is not None and robust.one_vote
    weighting_name = chosen.get("weighting", "equal" if one_vote else "examples")
    weighting = found[weighting_name]
    assert isinstance(weighting, Weighting)
    words = [chosen.get("weighting"), chosen.get("robust"), chosen.get("combiner", "fedavg")]
    if one_vote and weighting_name != "equal":
        nearest = "+".join(str(word) for word in words[1:])
        raise InputError(
            f"{words[1]} gives every hospital one vote, or one that overstates its examples or "
            f"quality could outvote the others: it does not go with {weighting_name}.",
            hint=f"The nearest that works: --aggregator {nearest}. {_HINT}",
        )
    implied = ("examples", "equal" if one_vote else "")
    shown = [word for word in words if word and word not in implied]
    return Aggregator("+".join(shown), weighting, robust, combiner)
