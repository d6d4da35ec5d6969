"""Gradient checkpointing: a layer's activations computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from backends.mlx.lora import Arrays, Lora


@contextmanager
def recomputing(model: nn.Module, lora: Lora, *, wanted: bool) -> Iterator[None]:
    """Forward passes inside keep only what each layer was given, where that is ``wanted``."""
    if not wanted:
        yield
        return
    layers = model.layers
    plain = list(layers)
    layers[:] = [_Recomputing(layer, lora) for layer in plain]
    try:
        yield
    finally:
        layers[:] = plain


class _Recomputing:
    """Stands in for a layer; its factors are arguments, so that they get their gradients."""

    def __init__(self, layer: nn.Module, lora: Lora) -> None:
        self._layer, self._lora = layer, lora

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (each model has its own)
        def compute(factors: Arrays, *args: Any) -> Any:  # noqa: ANN401
            with self._lora.holding(factors):
                return self._layer(*args, **kwargs)

        return mx.checkpoint(compute)(self._lora.arrays_in(self._layer), *args)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._layer, name)
