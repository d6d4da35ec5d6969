"""Gradient checkpointing: the activations of a layer are computed again when going backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def recomputing(model: PreTrainedModel, *, wanted: bool) -> Iterator[None]:
    """Forward passes inside keep only each layer's input, where that is ``wanted``."""
    if not wanted:
        yield
        return
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        # transformers asks for this flag; what lies inside the layer stays as it is.
        layer.training = True
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
        for layer in layers:
            layer.training = False
