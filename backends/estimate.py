"""How much memory a training will take, reckoned from the architecture before anything is loaded.

What the backward pass needs is counted (``backends.kept``); the constants beside that were fitted
on the processor to one model and hold for two others (``benchmarks/memory.py`` prints estimate and
measured peak side by side). What a GPU's allocator adds is not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backends.base import Example, Quantisation
from backends.kept import Kept, PassShape
from backends.limits import EVALUATION_TOKENS, LOGITS_AT_ONCE
from backends.model_shape import ModelShape
from federation.adapter import AdapterSchema, Factors

_RUNTIME = {"cpu": 475_000_000, "cuda": 600_000_000, "mps": 800_000_000, "metal": 300_000_000}
"""Python with an engine's libraries, by device; on CUDA the context, which is the card's."""

_QUANTISER = 130_000_000
"""A quantiser's library."""

_SPREAD = {"cpu": 1.37, "cuda": 1.1, "mps": 1.1, "metal": 1.1}
"""What an allocator takes for each byte in use: measured 1.2 to 1.55 with glibc's."""


@dataclass(frozen=True)
class Estimate:
    """Peak bytes of a training, by what takes them.

    ``other`` is what loading or evaluating needs beyond that, where it is more.
    """

    runtime: int
    weights: int
    adapter: int
    activations: int
    logits: int
    other: int

    @property
    def total(self) -> int:
        """All of them together."""
        training = self.activations + self.logits
        return self.runtime + self.weights + self.adapter + training + self.other

    def __str__(self) -> str:
        parts = ("weights", "adapter", "activations", "logits", "runtime", "other")
        words = (f"{name} {getattr(self, name) / 1e9:.2f}" for name in parts)
        return f"{self.total / 1e9:.2f} GB ({', '.join(words)})"


def pass_shapes(
    examples: Sequence[Example], passes: Iterable[Sequence[int]]
) -> frozenset[PassShape]:
    """The different shapes among these forward passes over ``examples``."""
    return frozenset(
        PassShape(
            rows=len(indices),
            columns=max(len(examples[i].tokens) for i in indices),
            n_completion=sum(examples[i].n_completion for i in indices),
        )
        for indices in passes
    )


def estimate(
    shape: ModelShape,
    schema: AdapterSchema,
    factors: Factors,
    passes: Iterable[PassShape],
    *,
    quantisation: Quantisation,
    recompute: bool,
    dropout: bool,
    device: str,
) -> Estimate:
    """Peak bytes of a training whose forward passes have these shapes; ``device`` as in Probe.

    The evaluation before and after it is reckoned with the same share of completion tokens.
    """
    passes = list(passes)
    spread = _SPREAD[device]
    kept = Kept(shape, schema, quantisation, device, dropout=dropout)

    def logits_of(n_completion: float) -> float:
        # And the few rows that are there three times in float32.
        work = 12.0 * min(n_completion * shape.vocabulary, LOGITS_AT_ONCE)
        return spread * (kept.logits(n_completion) + work)

    def parts(one: PassShape) -> tuple[float, float]:
        return spread * kept.layers(one, recompute=recompute), logits_of(one.n_completion)

    activations, logits = max((parts(one) for one in passes), key=sum)
    share = max(one.n_completion / (one.rows * one.columns) for one in passes)
    evaluating = logits_of(EVALUATION_TOKENS * share)
    weights, quantised = shape.weight_bytes(quantisation), quantisation != "none"
    # A quantiser holds the weights as they were, and once more while it works.
    loading = 2 * shape.weight_bytes("none") - weights if quantised and device == "cpu" else 0
    # float32: the factors; of those that train the gradient and AdamW's two moments as well.
    adapter = 4 * schema.n_parameters() + 12 * schema.n_parameters(factors)
    return Estimate(
        runtime=_RUNTIME[device] + _QUANTISER * quantised,
        weights=weights,
        adapter=adapter,
        activations=int(activations),
        logits=int(logits),
        other=max(0, int(max(evaluating, loading - adapter) - activations - logits)),
    )
