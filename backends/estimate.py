"""How much memory a training will take, reckoned from the architecture before anything is loaded.

What the backward pass needs of each layer is counted tensor by tensor as the torch engine keeps
them; the constants beside that are measured on the processor with SmolLM2-135M
(``benchmarks/memory.py`` prints estimate and measured peak side by side). What a GPU's allocator
adds is not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.base import Example, Quantisation
from backends.evaluation import EVALUATION_TOKENS
from federation.adapter import AdapterSchema, Factors
from federation.base_model import BaseModelCard
from federation.errors import ModelError

_BYTES_PER_WEIGHT: dict[Quantisation, float] = {
    "nf4": 0.5 + 4 / 64,
    "int8": 1.0,
    "affine4": 0.5 + 4 / 32,
    "affine8": 1.0 + 4 / 32,
}
"""Of a linear layer. NF4 has a float32 scale for 64 weights, MLX two bfloat16 for 32."""

_RUNTIME = {"cpu": 475_000_000, "cuda": 600_000_000, "mps": 800_000_000, "metal": 300_000_000}
"""Python with an engine's libraries, by device; on CUDA the context, which is the card's."""

_QUANTISER = 130_000_000
"""A quantiser's library."""

_SPREAD = {"cpu": 1.37, "cuda": 1.1, "mps": 1.1, "metal": 1.1}
"""What an allocator takes for each byte in use: measured 1.2 to 1.55 with glibc's."""

_LAYERS_AT_ONCE = 4
"""With recomputation: whose activations are there in the backward pass, by what was measured."""

_PLAIN_SCORES = 1 << 19
"""As in ``backends.cuda.attention``: up to so many scores a head the processor keeps them."""


@dataclass(frozen=True)
class ModelShape:
    """What of a base model decides about memory; ``width`` is the bytes of its numbers in use.

    ``linear_weights`` is the number of weights in linear layers, which a quantiser shrinks, and
    ``linear_inputs`` the sum of their inputs; ``other_weights`` is the number of all others.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    linear_weights: int
    linear_inputs: int
    other_weights: int
    width: int

    def weight_bytes(self, quantisation: Quantisation) -> int:
        """What the frozen base takes."""
        per_weight = _BYTES_PER_WEIGHT.get(quantisation, self.width)
        return int(self.linear_weights * per_weight) + self.width * self.other_weights


@dataclass(frozen=True)
class PassShape:
    """One forward pass: padded examples, their length, and completion tokens among them."""

    rows: int
    columns: int
    n_completion: int


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


def read_shape(base: Path, card: BaseModelCard, device: str) -> ModelShape:
    """The model's shape from its config.json and card; ``device`` as in Probe.

    Raises ModelError where the configuration does not say.
    """
    path = base / "config.json"
    try:
        config = json.loads(path.read_bytes())
        text = config.get("text_config", config)
        stored = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")
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
            linear_inputs=sum(module.inputs for module in card.linears),
            other_weights=max(0, card.n_bytes // (4 if stored == "float32" else 2) - linear),
            width=_width(stored, device),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} does not say how large the model is: {error!r}.",
            hint="Only language models with a Hugging Face config.json can be trained; install "
            "the model again (`appliance models pull`).",
        ) from error


def _width(stored: object, device: str) -> int:
    """As the torch engine chooses: two bytes, four on a processor where that is better."""
    if device != "cpu":
        return 2
    cpus = Path("/proc/cpuinfo")
    flags = cpus.read_text() if cpus.exists() else ""
    native = any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
    return 2 if native and stored != "float32" else 4


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
    """Peak bytes of a training whose forward passes have these shapes; ``device`` as in Probe.

    The evaluation before and after it is reckoned with the same share of completion tokens.
    """
    passes = list(passes)
    spread = _SPREAD[device]

    def parts(one: PassShape) -> tuple[float, float]:
        kept = _activations(shape, schema, one, quantisation, device, recompute=recompute)
        return spread * kept, spread * one.n_completion * shape.vocabulary * 16.0

    # Logits as they are, as float32, as log-softmax, and the gradients of these.
    activations, logits = max((parts(one) for one in passes), key=sum)
    share = max(one.n_completion / (one.rows * one.columns) for one in passes)
    evaluating = 10.0 * EVALUATION_TOKENS * share * shape.vocabulary
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


def _activations(
    shape: ModelShape,
    schema: AdapterSchema,
    one: PassShape,
    quantisation: Quantisation,
    device: str,
    *,
    recompute: bool,
) -> float:
    """Bytes that the backward pass needs, as they are in use."""
    tokens = one.rows * one.columns
    # Of each token and layer: two norms in float32, a float32 input and the r numbers between the
    # factors of each adapted linear layer, queries, keys and values, three tensors of the MLP.
    adapted = sum(module.inputs + schema.rank for module in schema.modules) / shape.layers
    attention = 3 * shape.width * shape.heads * shape.head_dim
    per_token = 8 * shape.hidden + 4 * adapted + attention + 3 * shape.width * shape.intermediate
    if quantisation == "int8":
        per_token += 2 * shape.linear_inputs / shape.layers
    layer = tokens * per_token
    if device == "cpu" and tokens * one.columns <= _PLAIN_SCORES:
        layer += (4 + shape.width) * shape.heads * tokens * one.columns
    if not recompute:
        return shape.layers * layer
    return min(_LAYERS_AT_ONCE, shape.layers) * layer + (
        shape.layers * tokens * shape.hidden * shape.width
    )
