"""How a training goes through this machine: the first way that fits into its free memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from backends.base import Example, ForwardPlan, Probe, Quantisation, TrainJob
from backends.batches import forward_passes, optimizer_steps
from backends.estimate import Estimate, estimate, pass_shapes
from backends.model_shape import ModelShape
from federation.adapter import AdapterSchema, Factors
from federation.errors import OutOfMemory
from federation.recipe import TrainingRecipe

_USABLE = 0.9
"""Of what is free: other programs live too, and the estimate may be too low by a little."""

_LOOKED_AT = 2000
"""Optimizer steps whose batches are looked at for the largest."""


@dataclass(frozen=True)
class MachinePlan:
    """How the base is held, how batches are cut, and what that takes of ``free`` bytes."""

    quantisation: Quantisation
    forward: ForwardPlan
    needed: Estimate
    free: int

    @property
    def fits(self) -> bool:
        """Whether the training has room, by the estimate."""
        return self.needed.total <= _USABLE * self.free

    @property
    def way(self) -> str:
        """Without the figures, for people."""
        rows = f" and {self.forward.rows} examples" if self.forward.rows else ""
        again = ", activations recomputed" if self.forward.recompute else ""
        return (
            f"base held as {self.quantisation}, at most {self.forward.tokens} tokens{rows} in a "
            f"forward pass{again}"
        )


class Planner:
    """Plans one training: everything about it that is no matter of choice."""

    def __init__(
        self,
        shape: ModelShape,
        schema: AdapterSchema,
        factors: Factors,
        recipe: TrainingRecipe,
        examples: Sequence[Example],
        probe: Probe,
    ) -> None:
        self._shape, self._schema, self._factors, self._probe = shape, schema, factors, probe
        self._examples, self._dropout = examples, recipe.dropout > 0
        job = TrainJob(examples, recipe, factors)
        steps = min(recipe.optimizer_steps(len(examples)), _LOOKED_AT)
        self._batches = [batch for step in islice(optimizer_steps(job), steps) for batch in step]

    def choose(self, quantisations: Sequence[Quantisation], rows: int | None = None) -> MachinePlan:
        """The first that fits: wide passes before narrow, kept activations before recomputed,
        and the quantisations in the order given. ``rows`` bounds the examples in a pass.

        Raises OutOfMemory where none fits, with what the smallest would need.
        """
        smallest: MachinePlan | None = None
        for plan in self._ways(quantisations, rows):
            if plan.fits:
                return plan
            if smallest is None or plan.needed.total < smallest.needed.total:
                smallest = plan
        assert smallest is not None
        raise OutOfMemory(
            f"This training does not fit into the {smallest.free / 1e9:.1f} GB of memory that are "
            f"free: {smallest.needed} are needed even with {smallest.way}.",
            hint=self._remedy(quantisations, smallest),
        )

    def _ways(
        self, quantisations: Sequence[Quantisation], rows: int | None
    ) -> Iterator[MachinePlan]:
        for quantisation in quantisations:
            for recompute in (False, True):
                for tokens in self._widths():
                    yield self._plan(quantisation, ForwardPlan(tokens, rows, recompute))

    def _widths(self) -> Iterator[int]:
        """From the engine's own width down to one example a pass, halving."""
        longest = max(len(self._examples[i].tokens) for batch in self._batches for i in batch)
        tokens = max(self._probe.forward_tokens, longest)
        while tokens > longest:
            yield tokens
            tokens //= 2
        yield longest

    def _plan(self, quantisation: Quantisation, forward: ForwardPlan) -> MachinePlan:
        passes = forward_passes(self._examples, self._batches, forward)
        needed = estimate(
            self._shape,
            self._schema,
            self._factors,
            pass_shapes(self._examples, passes),
            quantisation=quantisation,
            recompute=forward.recompute,
            dropout=self._dropout,
            device=self._probe.device,
        )
        return MachinePlan(quantisation, forward, needed, self._probe.free_bytes)

    def _remedy(self, quantisations: Sequence[Quantisation], smallest: MachinePlan) -> str:
        """What would fit: another way to hold the base, or else how much memory is missing."""
        others = [q for q in self._probe.quantisations if q not in quantisations]
        for plan in self._ways(others, smallest.forward.rows):
            if plan.fits:
                return f"Held as {plan.quantisation} it would fit: --use-8bit or --use-4bit."
        missing = smallest.needed.total / _USABLE - smallest.free
        return (
            f"Free {missing / 1e9:.1f} GB more (close other programs), take a smaller base model, "
            "or ask for a round with a lower max_length."
        )
