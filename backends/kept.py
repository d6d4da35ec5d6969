"""What a training keeps for its backward pass, counted tensor by tensor as the torch engine does.

Tests compare the count with what autograd really saves, on every architecture that is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Quantisation
from backends.limits import PLAIN_SCORES
from backends.model_shape import ModelShape
from federation.adapter import AdapterSchema

_LAYERS_AT_ONCE = 4
"""With recomputation: whose activations are there in the backward pass, by what was measured."""

_SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
"""Linear layer -> another one beside it that is given the same tensor, by their usual names."""


@dataclass(frozen=True)
class PassShape:
    """One forward pass: padded examples, their length, and completion tokens among them."""

    rows: int
    columns: int
    n_completion: int


@dataclass(frozen=True)
class Kept:
    """Of one model with an adapter of this schema. Bytes in use, without what allocators add."""

    shape: ModelShape
    schema: AdapterSchema
    quantisation: Quantisation
    device: str
    dropout: bool

    def layers(self, one: PassShape, *, recompute: bool) -> float:
        """Of all layers, when the backward pass begins; with recomputation at its largest."""
        shape, tokens = self.shape, one.rows * one.columns
        layer = tokens * self._per_token() + self._scores(one)
        if not recompute:
            return shape.layers * layer
        return min(_LAYERS_AT_ONCE, shape.layers) * layer + (
            shape.layers * tokens * shape.hidden * shape.width
        )

    def logits(self, n_completion: float) -> float:
        """Of the logits and what becomes of them."""
        logits = n_completion * self.shape.vocabulary
        if self.device == "metal":
            # As they are, as float32, as log-softmax, and the gradients of these.
            return 16.0 * logits
        # Their gradient takes their place.
        return (2 if self.shape.soft_caps else 1) * self.shape.width * logits

    def _per_token(self) -> float:
        shape, width = self.shape, self.shape.width
        # What goes into a norm, in float32; queries, keys, values; three tensors of the MLP.
        kept = 4.0 * shape.normed
        kept += 3 * width * shape.heads * shape.head_dim + 3 * width * shape.intermediate
        kept += self._adapters() / shape.layers
        if self.quantisation == "int8":
            kept += 2 * shape.linear_inputs / shape.layers
        return kept

    def _adapters(self) -> float:
        """The inputs of all adapted linear layers, and the numbers between the factors."""
        width, modules = self.shape.width, self.schema.modules
        if self.device == "metal":
            # mlx-lm's layer computes in float32.
            return 4.0 * sum(module.inputs + self.schema.rank for module in modules)
        between = width * self.schema.rank * len(modules)
        if self.dropout:
            # Each drops others: what is left of its input, and by what that was multiplied.
            return between + 2.0 * width * sum(module.inputs for module in modules)
        inputs = {_input_of(module.path): module.inputs for module in modules}
        return between + float(width * sum(inputs.values()))

    def _scores(self, one: PassShape) -> float:
        """Plain attention's: in float32, and as they are multiplied with the values."""
        shape, scores = self.shape, self.shape.heads * one.rows * one.columns**2
        plain = self.device == "cpu" and one.rows * one.columns**2 <= PLAIN_SCORES
        if not (plain or shape.soft_caps):
            return 0.0
        halves = (shape.width if shape.width < 4 else 0) + shape.width * shape.soft_caps
        return float((4 + halves) * scores)


def _input_of(path: str) -> tuple[str, str]:
    """Layers with the same one have the same input, which is kept once."""
    parent, _, name = path.rpartition(".")
    return parent, _SAME_INPUT.get(name, name)
