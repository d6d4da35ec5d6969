"""What of a base model decides how much memory a training takes, read without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.base import Quantisation
from backends.module_names import layer_index
from federation.base_model import BaseModelCard
from federation.errors import AdapterError, ModelError
from federation.tensors import read_header

_BYTES_PER_WEIGHT: dict[Quantisation, float] = {
    "nf4": 0.5 + 4 / 64,
    "int8": 1.0,
    "affine4": 0.5 + 4 / 32,
    "affine8": 1.0 + 4 / 32,
}
"""Of a linear layer. NF4 has a float32 scale for 64 weights, MLX two bfloat16 for 32."""


@dataclass(frozen=True)
class ModelShape:
    """What of a base model decides about memory; ``width`` is the bytes of its numbers in use.

    ``linear_weights`` is the number of weights in linear layers, which a quantiser shrinks, and
    ``linear_inputs`` the sum of their inputs; ``other_weights`` is the number of all others.
    ``normed`` is how many numbers of a token go through the norms of one layer. With
    ``soft_caps`` attention scores and logits go through a hyperbolic tangent.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    normed: int
    soft_caps: bool
    linear_weights: int
    linear_inputs: int
    other_weights: int
    width: int

    def weight_bytes(self, quantisation: Quantisation) -> int:
        """What the frozen base takes."""
        per_weight = _BYTES_PER_WEIGHT.get(quantisation, self.width)
        return int(self.linear_weights * per_weight) + self.width * self.other_weights


def read_shape(base: Path, card: BaseModelCard, device: str) -> ModelShape:
    """The model's shape from its config.json, the names of its tensors and its card.

    ``device`` as in Probe. Raises ModelError where the files do not say.
    """
    path = base / "config.json"
    try:
        config = json.loads(path.read_bytes())
        text = config.get("text_config", config)
        stored = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        head_dim = int(text.get("head_dim") or hidden // heads)
        linear = sum(module.inputs * module.outputs for module in card.linears)
        return ModelShape(
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            heads=heads,
            head_dim=head_dim,
            intermediate=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            normed=_normed(base, text, hidden, heads * head_dim),
            soft_caps=bool(text.get("final_logit_softcapping")),
            linear_weights=linear,
            linear_inputs=sum(module.inputs for module in card.linears),
            other_weights=max(0, card.n_bytes // (4 if stored == "float32" else 2) - linear),
            width=_width(stored, device),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AdapterError) as error:
        raise ModelError(
            f"{path} does not say how large the model is: {error!r}.",
            hint="Only language models with a Hugging Face config.json can be trained; install "
            "the model again (`appliance models pull`).",
        ) from error


def _normed(base: Path, text: dict[str, Any], hidden: int, queries: int) -> int:
    """By the norms of the first layer: of queries, of keys, and of the whole hidden state."""
    keys = queries * int(text.get("num_key_value_heads") or 1) // int(text["num_attention_heads"])
    found = 0
    for file in base.glob("*.safetensors"):
        with file.open("rb") as source:
            for tensor in read_header(source):
                path, _, kind = tensor.name.rpartition(".")
                if layer_index(path) == 0 and kind == "weight" and "norm" in path.split(".")[-1]:
                    name = path.split(".")[-1]
                    found += {"q_norm": queries, "k_norm": keys}.get(name, hidden)
    return found


def _width(stored: object, device: str) -> int:
    """As the torch engine chooses: two bytes, four on a processor where that is better."""
    if device != "cpu":
        return 2
    cpus = Path("/proc/cpuinfo")
    flags = cpus.read_text() if cpus.exists() else ""
    native = any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
    return 2 if native and stored != "float32" else 4
