"""Memory of a training: what it took, and a first estimate before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backends.base import Example, ForwardPlan, Quantisation
from federation.adapter import AdapterSchema
from federation.base_model import BaseModelCard
from federation.recipe import TrainingRecipe

_PROCESS = 600 << 20
"""Python with an engine's libraries, before any model."""

_BYTES_PER_WEIGHT: dict[Quantisation, float] = {
    "none": 2.0,
    "nf4": 0.5 + 4 / 64,
    "int8": 1.0,
    "affine4": 0.5 + 4 / 64,
    "affine8": 1.0 + 4 / 64,
}
"""Of a linear layer; for each 64 weights NF4 has a float32 scale, MLX a bfloat16 scale and offset."""

_WIDEST_VOCABULARY = 262_144


def peak_resident_bytes() -> int:
    """Largest resident size of this process since it began; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that starts at the size of the program which started this one.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    # In bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def lowered(
    plan: ForwardPlan, examples: Sequence[Example], passes: Sequence[Sequence[int]]
) -> ForwardPlan | None:
    """What to try when a step, cut into these ``passes``, did not fit into memory; None: nothing.

    Half the padded tokens of its widest pass; where each pass has one example, recomputation.
    """
    widest = max(len(p) * max(len(examples[i].tokens) for i in p) for p in passes)
    if any(len(indices) > 1 for indices in passes):
        return replace(plan, tokens=widest // 2)
    return None if plan.recompute else replace(plan, recompute=True)


def tightest(one: ForwardPlan, other: ForwardPlan) -> ForwardPlan:
    """The plan that needs no more memory than either."""
    rows = [plan.rows for plan in (one, other) if plan.rows is not None]
    return ForwardPlan(
        tokens=min(one.tokens, other.tokens),
        rows=min(rows, default=None),
        recompute=one.recompute or other.recompute,
    )


def estimate(
    card: BaseModelCard,
    schema: AdapterSchema,
    recipe: TrainingRecipe,
    quantisation: Quantisation = "none",
    *,
    forward_tokens: int = 8192,
) -> int:
    """Peak bytes of a training without gradient checkpointing, where every example is max_length.

    ``forward_tokens`` is the engine's (``Probe.forward_tokens``).

    The process, the frozen base, the adapter, what the backward pass needs of each layer, and the
    logits. Rough: within about a third of what SmolLM2-135M takes on a processor, whose plain
    attention adds scores that are not counted here.
    """
    tokens = min(recipe.batch_size * recipe.max_length, max(forward_tokens, recipe.max_length))
    linear = sum(module.inputs * module.outputs for module in card.linears)
    elsewhere = max(0, card.n_bytes - 2 * linear)
    base = linear * _BYTES_PER_WEIGHT[quantisation] + elsewhere
    # float32: weight, gradient and AdamW's two moments.
    adapter = schema.n_parameters() * 16
    # Kept for the backward pass, of norms, attention, activation and LoRA together: measured, about
    # 4 bytes for each input and output of each linear layer.
    activations = tokens * 4 * sum(module.inputs + module.outputs for module in card.linears)
    # Half of the tokens are completion; their logits exist in bfloat16, float32, as log-softmax
    # and as the gradients of these.
    logits = tokens / 2 * _vocabulary(card, elsewhere) * 16
    return int(_PROCESS + base + adapter + activations + logits)


def _vocabulary(card: BaseModelCard, elsewhere: int) -> int:
    # The card counts no embedding: what is not a linear layer is nearly all embedding and head.
    # With separate weights for these two this is twice the vocabulary, so it is capped.
    hidden = Counter(module.inputs for module in card.linears).most_common(1)[0][0]
    return min(elsewhere // 2 // hidden, _WIDEST_VOCABULARY)
