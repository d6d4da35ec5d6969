"""How much memory a training will take, reckoned from the architecture before anything is loaded.

Calibrated on the processor (``benchmarks/memory.py`` prints estimate and measured peak side by
side); what a GPU's allocator adds is not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.base import Example, Quantisation
from federation.adapter import AdapterSchema, Factors
from federation.base_model import BaseModelCard
from federation.errors import ModelError

_BYTES_PER_WEIGHT: dict[Quantisation, float] = {
    "none": 2.0,
    "nf4": 0.5 + 4 / 64,
    "int8": 1.0,
    "affine4": 0.5 + 4 / 64,
    "affine8": 1.0 + 4 / 64,
}
"""Of a linear layer. NF4 has a float32 scale for 64 weights, MLX a bfloat16 scale and offset."""


@dataclass(frozen=True)
class ModelShape:
    """What of a base model decides about memory.

    ``linear_weights`` is the number of weights in linear layers, which a quantiser shrinks;
    ``other_bytes`` is the size of all other tensors.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    linear_weights: int
    other_bytes: int

    def weight_bytes(self, quantisation: Quantisation) -> int:
        """What the frozen base takes."""
        return int(self.linear_weights * _BYTES_PER_WEIGHT[quantisation]) + self.other_bytes


@dataclass(frozen=True)
class PassShape:
    """One forward pass: padded examples, their length, and completion tokens among them."""

    rows: int
    columns: int
    n_completion: int


@dataclass(frozen=True)
class Estimate:
    """Peak bytes of a training, by what takes them."""

    runtime: int
    weights: int
    adapter: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them together."""
        return self.runtime + self.weights + self.adapter + self.activations + self.logits

    def __str__(self) -> str:
        parts = ("weights", "adapter", "activations", "logits", "runtime")
        words = ", ".join(f"{name} {getattr(self, name) / 1e9:.2f}" for name in parts)
        return f"{self.total / 1e9:.2f} GB ({words})"


def read_shape(base: Path, card: BaseModelCard) -> ModelShape:
    """The shape of the model in this folder, from its config.json and card. Raises ModelError."""
    path = base / "config.json"
    try:
        config = json.loads(path.read_bytes())
        text = config.get("text_config", config)
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        linear = sum(module.inputs * module.outputs for module in card.linears)
        return ModelShape(
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            head_dim=int(text.get("head_dim") or hidden // heads),
            intermediate=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            linear_weights=linear,
            other_bytes=max(0, card.n_bytes - 2 * linear),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} does not say how large the model is: {error!r}.",
            hint="Only language models with a Hugging Face config.json can be trained; install "
            "the model again (`appliance models pull`).",
        ) from error


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
    device: str,
) -> Estimate:
    """Peak bytes of a training whose forward passes have these shapes; ``device`` as in Probe."""
    # float32: the factors; of those that train the gradient and AdamW's two moments as well.
    adapter = 4 * schema.n_parameters() + 12 * schema.n_parameters(factors)
    activations, logits = max(
        ((_activations(shape, schema, one, recompute), _logits(shape, one)) for one in passes),
        key=sum,
    )
    return Estimate(
        runtime=_RUNTIME[device],
        weights=shape.weight_bytes(quantisation),
        adapter=adapter,
        activations=int(activations),
        logits=int(logits),
    )


_RUNTIME = {"cpu": 400 << 20, "cuda": 600 << 20, "mps": 800 << 20, "metal": 300 << 20}
"""Python with an engine's libraries, by device; on CUDA the context."""


def _logits(shape: ModelShape, one: PassShape) -> float:
    # As they are, as float32, as log-softmax and as gradients of these.
    return one.n_completion * shape.vocabulary * 16.0


def _activations(
    shape: ModelShape, schema: AdapterSchema, one: PassShape, recompute: bool
) -> float:
    layer = _layer_activations(shape, schema, one)
    if not recompute:
        return shape.layers * layer
    return layer + shape.layers * one.rows * one.columns * shape.hidden * 2.0


def _layer_activations(shape: ModelShape, schema: AdapterSchema, one: PassShape) -> float:
    attention = shape.heads * shape.head_dim
    adapted = sum(module.inputs + schema.rank for module in schema.modules) / shape.layers
    tokens = one.rows * one.columns
    per_token = 8 * shape.hidden + 4 * adapted + 6 * attention + 6 * shape.intermediate
    return 1.7 * tokens * per_token + 6.0 * shape.heads * one.rows * one.columns**2
