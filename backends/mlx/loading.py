"""From a Hugging Face folder to a model in memory: names, numbers, quantiser, checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

# Private, but the default of a public parameter: it tells which class a model type has.
from mlx_lm.utils import _get_classes
from mlx_lm.utils import load_model as read_model

from backends.base import Quantisation
from backends.mlx.config import Config, complete_config
from backends.mlx.errors import memory_errors
from backends.mlx.head import Head
from backends.mlx.memory import prepare_device
from backends.mlx.model import MlxModel
from backends.mlx.probe import device
from backends.tokens import ChatTokenizer
from federation.errors import ModelError

GROUP = 32
"""Weights that share a scale and an offset: half of MLX's default, for half a bit a weight more.

On SmolLM2-135M in 4 bits a few examples lost 0.56 nats a token with 64, 0.17 with 32.
"""

BITS: dict[Quantisation, int] = {"affine4": 4, "affine8": 8}

Names = dict[str, str]
"""Module path of the checkpoint, which is canonical, to that of mlx-lm's module tree."""


def load_model(base: Path, *, quantisation: Quantisation) -> MlxModel:
    """See ``Backend.load``."""
    if not (base / "config.json").is_file() or not any(base.glob("*.safetensors")):
        raise ModelError(
            f"{base} is not a base model: it needs config.json and *.safetensors.",
            hint="`appliance models pull` installs one.",
        )
    prepare_device()
    overlay = complete_config(base)
    tokenizer = ChatTokenizer(base)
    with memory_errors(f"loading {base.name}"):
        model, config, names = _read(base, overlay)
        _set_numbers(model)
        model.freeze()
        head = Head(model)
        if quantisation in BITS:
            _quantise(model, head, BITS[quantisation])
        mx.eval(model.parameters())
    context = _context(model, config.get("text_config", config))
    return MlxModel(model, head, names, tokenizer, quantisation=quantisation, context=context)


def _read(base: Path, overlay: Config) -> tuple[nn.Module, Config, Names]:
    names: Names = {}
    try:
        model, config = read_model(
            base,
            lazy=True,
            model_config=overlay,
            get_model_classes=lambda config: _classes(config, names),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"The base model in {base} cannot be read: {error}") from error
    if any(isinstance(module, nn.QuantizedLinear) for module in model.modules()):
        raise ModelError(
            f"The base model in {base} is quantised already.",
            hint="Install the original and set [engine] quantisation: all hospitals must start "
            "from the same weights.",
        )
    return model, config, names


def _classes(config: Config, names: Names) -> tuple[Callable[[Any], nn.Module], type]:
    """mlx-lm's classes for a model type, the model noting which checkpoint name went where."""
    try:
        model_class, arguments = _get_classes(config)
    except ValueError as error:
        raise ModelError(
            f"The MLX engine does not know models of type {config['model_type']!r}.",
            hint='Use the torch engine ([engine] backend = "cuda"), or a newer mlx-lm.',
        ) from error

    class Noting(model_class):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            original = {id(array): name for name, array in weights.items()}
            kept = dict(weights)
            renamed: dict[str, mx.array] = (
                super().sanitize(weights) if hasattr(model_class, "sanitize") else weights
            )
            for name, array in renamed.items():
                # A tensor that was cut, stacked or turned has no canonical name any more.
                if id(array) in original and name.endswith(".weight"):
                    path = original[id(array)].removesuffix(".weight")
                    names[path] = name.removesuffix(".weight")
            del kept  # until here: an id belongs to a tensor only while that lives
            return renamed

    return Noting, arguments


def _set_numbers(model: nn.Module) -> None:
    """bfloat16, as the torch engine has it; a processor keeps a float32 checkpoint."""
    if device() == "metal":
        model.set_dtype(mx.bfloat16)
    else:
        model.set_dtype(mx.bfloat16, lambda dtype: dtype == mx.float16)


def _context(model: nn.Module, config: Config) -> int:
    """Tokens that the model reads; within its window where mlx-lm leaves a sliding one out."""
    context: int = config.get("max_position_embeddings") or 1 << 30
    window: int | None = config.get("sliding_window")
    if window and not any(isinstance(x, RotatingKVCache) for x in make_prompt_cache(model)):
        return min(context, window)
    return context


def _quantise(model: nn.Module, head: Head, bits: int) -> None:
    """Linear layers but the output head, as the torch engine's quantisers do."""

    def wanted(path: str, module: nn.Module) -> bool:
        linear = isinstance(module, nn.Linear) and path != head.path
        return linear and module.weight.shape[1] % GROUP == 0

    nn.quantize(model, group_size=GROUP, bits=bits, class_predicate=wanted)
    if not any(isinstance(module, nn.QuantizedLinear) for module in model.modules()):
        raise ModelError(
            f"No layer's inputs are a multiple of {GROUP}: this model cannot be quantised by MLX.",
            hint='Set [engine] quantisation = "none".',
        )
