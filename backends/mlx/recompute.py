"""Gradient checkpointing: a layer's activations computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from backends.mlx.lora import Arrays, Lora


@contextmanager
def recomputing(model: nn.Module, lora: Lora) -> Iterator[None]:
    """While this lasts, every layer of ``model`` keeps only what it was given."""
    layers = model.layers
    plain = list(layers)
    layers[:] = [_Recomputing(layer, lora) for layer in plain]
    try:
        yield
    finally:
        layers[:] = plain


class _Recomputing(nn.Module):
    """Stands in for a layer; its factors are arguments, so that they get their gradients."""

    def __init__(self, layer: nn.Module, lora: Lora) -> None:
        super().__init__()
        self._layer, self._lora = layer, lora

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (each model has its own)
        def compute(factors: Arrays, *args: Any) -> Any:  # noqa: ANN401
            with self._lora.holding(factors):
                return self._layer(*args, **kwargs)

        return mx.checkpoint(compute)(self._lora.arrays_in(self._layer), *args)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer, name)
